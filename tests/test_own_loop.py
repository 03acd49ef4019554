"""The page on loops of one's own: what it shows runs, and is what it says."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxcnn
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Dropout, Flatten

PAGE = (Path(__file__).parents[1] / "docs" / "howto" / "own-loop.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
LONGEST = 30  # lines of an experiment on top of the step, without blank lines and imports
# Two programs of the same float32 steps: sums may be in another order, over the steps of an epoch.
TOLERANCE = 1e-4


@pytest.fixture(autouse=True)
def places(no_settings_from_outside, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLAXCNN_CACHE_DIR", str(tmp_path / "cache"))


SMALL = Config(
    "digits", (Flatten(), Dropout(0.2), Dense(32, activation="relu"), Dense(10)),
    batch_size=100, learning_rate=0.01, epochs=1, determinism="exact",
)  # fmt: skip


def run(code):
    names = {"SMALL": SMALL}
    exec(compile(code, "page", "exec"), names)
    return names


@pytest.mark.slow
def test_epochs_are_left_and_go_on(capsys):
    first, second = BLOCKS[:2]
    names = run(first)
    assert names["loop"].result is None
    names["loop"].close()
    run(f"import flaxcnn\n{second}")
    numbers = [int(line.split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert numbers == list(range(1, 6))
    assert flaxcnn.load("runs/mine").classes


def test_an_experiment_on_top_of_the_step():
    code = BLOCKS[2]
    lines = [line for line in code.splitlines() if line and not re.match("import|from", line)]
    assert len(lines) <= LONGEST
    named = 'dataclasses.replace(catalog.find("digits/quickstart").config, epochs=3)'
    assert named in code
    code = code.replace(named, "SMALL")  # on one device, and compiled in a moment
    hard = run(code)
    plain = run(code.replace("KEEP = 0.5", "KEEP = 1.0"))
    (epoch,) = flaxcnn.epochs(SMALL, run_dir="run")
    expected, ours, other = (
        jax.tree.leaves(jax.device_get(state.params))
        for state in (epoch.state, plain["state"], hard["state"])
    )
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=TOLERANCE)
    counted = [float(jnp.sum(names["train"].count)) for names in (hard, plain)]
    assert counted[1] == len(plain["job"].rows.train)
    assert counted[1] / 2 <= counted[0] <= counted[1] / 2 + plain["plan"].steps_per_epoch
    assert max(np.abs(a - b).max() for a, b in zip(ours, other)) > 10 * TOLERANCE
