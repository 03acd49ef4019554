"""What the compilers of H200 and TPU v5e make of the programs, against budgets that are kept.

    PYTHONPATH=. python tests/accelerators/test_compiled.py [CASE...]   writes the budgets anew

Compilers are pinned, so a rise is ours. A fall is welcome: write the budgets anew with it.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks.peers import models
from flaxcnn.accelerators import cases, targets
from flaxcnn.errors import ConfigError
from flaxcnn.recipe.layers import Dense, Flatten, MaxPool

pytestmark = pytest.mark.slow
BUDGETS = Path(__file__).parent / "budgets.json"
FOLDER = os.environ.get(cases.FOLDER)  # before the tests' conftest takes all such settings away
# Sums of estimates and of bytes: how a compiler fuses may differ a little with a program's other
# parts, such as the order of its arguments.
TOLERANCE = 0.05
FIELDS = ("kernels", "launches", "call_launches", "transposes", "exchanges", "collective_bytes",
          "bytes_accessed", "cycles", "temporary_bytes")  # fmt: skip


def small_batchnorm():
    """A layer of each kind of batchnorm-cnn: a TPU's compiler takes minutes for the whole."""
    config = models.find("batchnorm-cnn")
    layers = (*models.norm_block(32), *models.norm_block(32), MaxPool(2), Flatten(), Dense(10))
    return dataclasses.replace(config, layers=layers)


CONFIGS = {
    "digits": models.find("digits/quickstart"),
    "model10": models.find("mnist-ladder/model10"),
    "batchnorm": small_batchnorm(),
}
# On a TPU a product of float32 numbers is six: its compiler takes several times as long.
CASES = {
    "digits h200": ("digits", "h200", "float32"),
    "digits h200:8": ("digits", "h200:8", "float32"),
    "model10 h200": ("model10", "h200", "float32"),
    "model10 h200:8": ("model10", "h200:8", "float32"),
    "digits v5e": ("digits", "v5e", "bfloat16"),
    "batchnorm v5e": ("batchnorm", "v5e", "bfloat16"),
}


def figures(name):
    """The figures of a case that have a budget."""
    config, target, precision = CASES[name]
    own = dataclasses.replace(CONFIGS[config], precision=precision)
    row = cases.compile_case(cases.Case(config, own, target))
    assert "error" not in row, row
    row["exchanges"] = sum(row["collectives"].values())
    return {field: row[field] for field in FIELDS if row[field] is not None}


@pytest.mark.parametrize("name", CASES)
def test_a_step_stays_within_its_budget(name, monkeypatch):
    if FOLDER:
        monkeypatch.setenv(cases.FOLDER, str(Path(FOLDER).absolute()))
    try:
        cases.folder(targets.parse(CASES[name][1])[0])
    except ConfigError as error:
        pytest.skip(f"needs the extra flaxcnn[accelerators]: {error}")
    budget = json.loads(BUDGETS.read_text())[name]
    found = figures(name)
    assert set(found) == set(budget)
    over = {field: (value, budget[field]) for field, value in found.items()
            if value > budget[field] * (1 + TOLERANCE)}  # fmt: skip
    assert not over, "field: (now, budget)"


if __name__ == "__main__":
    known = json.loads(BUDGETS.read_text()) if BUDGETS.exists() else {}
    for each in sys.argv[1:] or CASES:
        known[each] = figures(each)
        print(each, known[each], flush=True)
        BUDGETS.write_text(json.dumps(known, indent=1) + "\n")
