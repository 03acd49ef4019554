"""`flaxcnn` as the tests of the command line call it, and small rows made by hand."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

import conftest as cli  # noqa: E402
