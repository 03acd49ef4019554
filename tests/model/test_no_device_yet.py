"""What is checked before JAX may start."""

import os
import subprocess
import sys
from pathlib import Path

import flaxcnn


def test_a_recipe_with_such_a_layer_starts_no_device(tmp_path):
    """JAX keeps the devices that it has at its first array: `prepare` must come before."""
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Twice:\n"
        "    def apply(self, params, x):\n"
        "        return 2 * x\n"
    )
    code = (
        "from jax._src import xla_bridge\n"
        "from flaxcnn import Own\n"
        "from flaxcnn.recipe.config import Config\n"
        "from flaxcnn.recipe.layers import Dense, Flatten\n"
        "Config('digits', (Flatten(), Own('mine.py:Twice'), Dense(10)))\n"
        "print(xla_bridge.backends_are_initialized())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(Path(flaxcnn.__file__).parents[1])},
    )  # fmt: skip
    assert done.stdout.strip() == "False"
