"""An empty results folder."""

import pytest

from flaxcnn.results.rows import Results


@pytest.fixture
def results(tmp_path):
    found = Results(tmp_path / "results")
    found.open()
    return found
