"""A learning-rate range test: the updates of a training at growing rates, and what it advises."""

import dataclasses
import json
import math

import numpy as np
import pytest
from small_runs import TINY

import flaxcnn
from flaxcnn.engine.make_job import make_job
from flaxcnn.engine.range_test import range_test
from flaxcnn.errors import ConfigError, WriteError
from flaxcnn.recipe.schedules import OptaxSchedule
from flaxcnn.records.rate_range import RateRange
from flaxcnn.reports.rates import draw

pytestmark = pytest.mark.usefixtures("compile_once")
STEPS = 40
RATES = 10.0 ** np.linspace(-5, 1, STEPS)


@pytest.fixture(scope="module")
def found(digits, compile_once):
    return range_test(dataclasses.replace(TINY, batch_size=100), digits, 1e-5, 10.0, STEPS)


def test_losses_are_those_of_a_training_with_such_a_schedule(found, digits):
    """In several epochs of one program, each batch at its rate."""
    growth = OptaxSchedule("optax.exponential_decay", init_value=1e-5, transition_steps=STEPS - 1,
                           decay_rate=1e6)  # fmt: skip
    job = make_job(dataclasses.replace(TINY, learning_rate=1.0, schedule=growth), digits)
    state, losses = job.init(), []
    while len(losses) < STEPS:
        state, sums = job.train_epoch(state)
        losses += (np.asarray(sums.loss) / np.asarray(sums.count)).tolist()
    np.testing.assert_allclose(found.losses, losses[:STEPS], rtol=1e-6)
    np.testing.assert_allclose(found.rates, RATES, rtol=1e-9)


def test_it_advises_a_rate_at_which_the_recipe_learns(found, digits):
    assert 1e-4 < found.steepest < found.lowest < 1.0
    assert f"begin with learning_rate={found.steepest:.2g}" in found.sentence
    job = make_job(dataclasses.replace(TINY, learning_rate=found.steepest), digits)
    state, first = job.train_epoch(job.init())
    for _ in range(3):
        state, last = job.train_epoch(state)
    mean = lambda sums: float(np.sum(sums.loss) / np.sum(sums.count))  # noqa: E731
    assert mean(last) < 0.5 * mean(first)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_curve_that_is_known(noise):
    """A loss that falls fastest at 0.01 over the logarithm, is lowest at 0.2 and then explodes."""
    rates = 10.0 ** np.linspace(-5, 1, 200)
    fall = 2.3 / (1 + (rates / 0.01) ** 1.5)
    losses = fall + 0.3 * (rates / 0.3) ** 3 + noise * np.random.default_rng(0).normal(size=200)
    losses[rates > 5] = math.nan
    found = RateRange(rates.tolist(), losses.tolist())
    assert found.steepest == pytest.approx(0.01, rel=0.5)
    assert 0.05 < found.lowest < 0.4
    assert len(found.smoothed) < (rates < 2).sum()
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["losses"][-1] is None


def test_where_nothing_falls_it_says_so():
    rates = 10.0 ** np.linspace(0, 3, 40)
    for losses in (np.full(40, math.nan), np.linspace(2.3, 9, 40)):
        found = RateRange(rates.tolist(), losses.tolist())
        assert found.steepest is None
        assert "try lower ones" in found.sentence
        assert len(found.table()) >= 1


def test_from_python_with_a_picture(tmp_path):
    found = flaxcnn.lr_range(TINY, low=1e-4, high=10, steps=30, output=tmp_path / "rates.png",
                             optimizer="sgd", batch_size=200)  # fmt: skip
    assert len(found.rates) == 30
    assert (tmp_path / "rates.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(WriteError, match="cannot write"):
        draw(found, tmp_path / "no" / "rates.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"low": 1, "high": 0.1}, r"0 < low < high \(got 1 and 0.1\)"),
        ({"low": 0}, "low and high must be rates"),
        ({"steps": 5}, r"steps must be at least 10 \(got 5\)"),
        ({"output": "rates.txt"}, "output writes .png, .svg or .pdf"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(arguments, message):
    with pytest.raises(ConfigError, match=message):
        flaxcnn.lr_range(TINY, **arguments)
