"""What a run carries from epoch to epoch is its own: the same alone, in a study, side by side, and
resumed."""

import dataclasses

import numpy as np
import pytest
from test_runs import CLOSE, outcomes, steady

from flaxcnn.engine.train import fit
from flaxcnn.recipe.averages import SWA
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import BatchNorm, Dense, Flatten
from flaxcnn.recipe.optimizers import SGD
from flaxcnn.recipe.schedules import Plateau
from flaxcnn.studies.plan import plan_runs

# Rates fall in different epochs, and are not so high that rounding grows from step to step.
BASE = Config(
    "digits", (Flatten(), BatchNorm(), Dense(10)), optimizer=SGD(0.9), learning_rate=0.5,
    batch_size=100, epochs=6, validation=200, determinism="exact", average=SWA(2),
    schedule=Plateau(0.5, patience=0, threshold=0.02),
)  # fmt: skip


@pytest.fixture(scope="module")
def in_turn(digits):
    return outcomes(plan_runs(BASE, range(3)), digits)


@pytest.mark.slow
def test_each_seed_has_rates_of_its_own(in_turn):
    rates = [[line["learning_rate"] for line in outcome.history] for outcome in in_turn]
    assert all(each[0] == 0.5 and each[-1] < 0.5 for each in rates)
    assert len({tuple(each) for each in rates}) > 1


def test_each_keeps_its_average(in_turn):
    for outcome in in_turn:
        kept = outcome.history[outcome.row["kept_epoch"] - 1]
        assert outcome.row["val_accuracy"] == kept["swa_val_accuracy"]
        assert any(line["swa_val_loss"] != line["val_loss"] for line in outcome.history)


@pytest.mark.slow
def test_side_by_side_they_fall_as_alone(in_turn, digits):
    """A run that takes the slot of another begins with the recipe's rate."""
    together = outcomes(plan_runs(BASE, range(3)), digits, width=2)
    for one, other in zip(in_turn, together, strict=True):
        assert [line["learning_rate"] for line in one.history] == [
            line["learning_rate"] for line in other.history
        ]
        for a, b in zip(steady(one.history), steady(other.history), strict=True):
            np.testing.assert_allclose(list(a.values()), list(b.values()), **CLOSE)


def test_a_resumed_run_goes_on_with_its_rate(in_turn, digits, tmp_path):
    config = dataclasses.replace(BASE, seed=1)
    fit(dataclasses.replace(config, epochs=3), digits, tmp_path / "run")
    found = fit(config, digits, tmp_path / "run", resume=True)
    assert found.summary["params_digest"] == in_turn[1].row["params_digest"]
    assert steady(found.history) == steady(in_turn[1].history)
