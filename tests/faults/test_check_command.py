"""`flaxcnn check`: what it promises holds for a recipe of layers, and a broken network is found."""

import dataclasses
import json

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from faulty import said

import flaxcnn
from flaxcnn.checks import checks
from flaxcnn.checks.task import BATCHES, HELD_OUT, small_task
from flaxcnn.data.datasets import load
from flaxcnn.engine.saved import CheckpointError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten
from flaxcnn.recipe.networks import spec_of
from flaxcnn.recipe.schedules import Trapezoid
from flaxcnn.recipe.splits import Ranges

LINEAR = Config("digits", (Flatten(), Dense(10)), batch_size=100)


class Beside(nn.Module):
    """What it says of a row depends on the rows beside it, and one weight is never used."""

    @nn.compact
    def __call__(self, x):
        x = x.reshape((x.shape[0], -1))
        self.param("unused", nn.initializers.ones, (3,))
        return nn.Dense(10)(x - x.mean(axis=0, keepdims=True))


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def task(config, digits, home):
    return small_task(config, digits, home)


@pytest.mark.parametrize("batch", [1, 7, 32, 100, 10_000])
def test_a_task_has_all_classes_and_a_last_batch_that_is_not_whole(digits, home, batch):
    small = task(dataclasses.replace(LINEAR, batch_size=batch), digits, home)
    train = small.dataset.train.label
    counts = np.bincount(train, minlength=10)
    all_rows = len(train) == len(digits.train)
    assert all_rows or counts.min() >= counts.max() - 1, "as many of each class"
    trained = len(train) * (1 - HELD_OUT)
    assert small.config.batch_size <= max(trained / BATCHES, 1) + 1
    assert small.config.batch_size in (batch, int(int(trained) / BATCHES))
    first = digits.train.image[np.isin(digits.train.label, [3])][0]
    assert (small.dataset.train.image[train == 3][0] == first).all()


def test_a_recipe_whose_schedule_or_split_spans_more_than_there_is(digits, home):
    config = dataclasses.replace(
        LINEAR, split=Ranges(1000, 100, 100), schedule=Trapezoid(decay_epochs=50.0), epochs=60
    )
    assert task(config, digits, home).config.epochs == 3


def test_what_a_check_makes_of_an_error():
    def failing():
        raise CheckpointError("as it says")

    def odd():
        raise KeyError("x")

    def skipped():
        raise checks._Skipped("not here")

    found = [checks._found("n", one, 0.0) for one in (failing, odd, skipped, lambda: "seen")]
    assert [each.verdict for each in found] == ["failed", "failed", "skipped", "ok"]
    assert [each.detail for each in found] == ["as it says", "KeyError: 'x'", "not here", "seen"]


@pytest.mark.soak
def test_a_network_that_looks_at_the_rows_beside(digits, home):
    """And has a weight that no gradient reaches; without processes of its own."""
    small = task(dataclasses.replace(LINEAR, layers=(), model=spec_of(Beside())), digits, home)
    first = checks._fit(small, "first")
    gradients = checks._found("gradients", lambda: checks._gradients(small, first), 0.0)
    assert (gradients.verdict, gradients.detail) == (
        "failed", "never changed: unused; no gradient reaches it"
    )  # fmt: skip
    padded = checks._found("padded", lambda: checks._padded(small, first), 0.0)
    assert padded.verdict == "failed"
    assert "with the rows beside it" in padded.detail
    assert checks._found("same", lambda: checks._same(first, first), 0.0).verdict == "ok"
    damaged = checks._found("damaged", lambda: checks._damaged(small, first), 0.0)
    assert damaged.verdict == "ok", damaged.detail
    saving = checks._found("saving", lambda: checks._saving(small, first, 1e-9), 0.0)
    assert saving.verdict == "failed"
    assert "longer than the 1e-09 s" in saving.detail


class Counting(nn.Module):
    """Other weights at each start."""

    @nn.compact
    def __call__(self, x):
        Counting.starts += 1
        x = x.reshape((x.shape[0], -1))
        return nn.Dense(10)(x) * jnp.float32(1 + Counting.starts)


Counting.starts = 0


@pytest.mark.soak
def test_a_network_that_is_another_one_each_time(digits, home):
    config = dataclasses.replace(LINEAR, layers=(), model=spec_of(Counting()))
    small = task(config, digits, home)
    runs = [checks._fit(small, name) for name in ("first", "again")]
    found = checks._found("same", lambda: checks._same(*runs), 0.0)
    assert found.verdict == "failed"
    assert "other weights: test loss" in found.detail


@pytest.mark.soak
def test_all_of_it_in_python_and_as_a_command(home):
    seen = []
    found = flaxcnn.check(LINEAR, on_check=seen.append)
    assert found.ok, found.findings
    assert [each.name for each in seen] == [
        "gradients", "same bits twice", "killed and resumed", "alone as in a study", "devices",
        "padded batch", "damaged checkpoint", "time to save",
    ]  # fmt: skip
    assert not list(home.rglob(".check-*")), "nothing stays behind"
    (home / "broken.py").write_text(
        "import flax.linen as nn\n"
        "from flaxcnn.recipe.config import Config\n"
        "class Net(nn.Module):\n"
        "    @nn.compact\n"
        "    def __call__(self, x):\n"
        "        x = x.reshape((x.shape[0], -1))\n"
        "        return nn.Dense(10)(x - x.mean(axis=0, keepdims=True))\n"
    )
    model = json.dumps({"type": "linen", "target": "broken.py:Net"})
    code, _ = said("check", "-s", f"model={model}", "-s", "batch_size=100")
    assert code == 1
