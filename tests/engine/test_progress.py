"""Early stopping as a value: the earliest best, never a NaN, nothing shared between runs."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import TINY

from flaxcnn.data.arrays import Dataset, Split
from flaxcnn.engine.loop import Progress
from flaxcnn.engine.train import fit
from flaxcnn.recipe.schedules import Plateau
from flaxcnn.records.run import RunDirectory

NAN = math.nan


def config(**changes):
    return dataclasses.replace(TINY, **{"epochs": 100, **changes})


def follow(values, config, train_loss=1.0):
    """Progress after a curve of the monitored value; val_loss is finite unless it is the value."""
    progress = Progress()
    for value in values:
        if progress.done(config):
            break
        metrics = {"train_loss": train_loss, "val_loss": 1.0, "val_accuracy": 0.5}
        progress = progress.after({**metrics, config.monitor: value}, config)
    return progress


def test_the_earliest_of_equals_is_the_best():
    assert follow([0.3, 0.7, 0.7, 0.7], config()).best_epoch == 2
    assert follow([0.9, 0.2, 0.2], config(monitor="val_loss")).best_epoch == 2


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_never_wins(bad):
    assert follow([0.5, bad, 0.6], config(monitor="val_loss")) == Progress(3, 0.5, 1, 2)
    assert follow([bad], config(monitor="val_loss")) == Progress(1, None, None, 1)
    for loss in ("train_loss", "val_loss"):  # the accuracy of such weights is finite all the same
        metrics = {"train_loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.99, loss: bad}
        before = Progress(1, 0.5, 1, 0)
        assert before.after(metrics, config()) == Progress(2, 0.5, 1, 1)


def test_min_delta_asks_for_more_than_itself():
    curve = [0.5, 0.75, 1.0, 1.5]  # exact in binary
    assert follow(curve, config(min_delta=0.25)).best_epoch == 4
    assert follow(curve[:3], config(min_delta=0.25)) == Progress(3, 1.0, 3, 0)
    assert follow(curve[:2], config(min_delta=0.25)) == Progress(2, 0.5, 1, 1)


def test_patience_counts_epochs_since_the_best():
    curve = [0.1, 0.9, 0.2, 0.2, 0.95]
    assert follow(curve, config(patience=2)) == Progress(4, 0.9, 2, 2)
    assert follow(curve, config(patience=3)).best_epoch == 5
    assert follow(curve, config(patience=None)).best_epoch == 5
    assert follow(curve, config(epochs=3)).epoch == 3


def test_progress_is_a_value():
    before = Progress(3, 0.5, 2, 1)
    before.after({"train_loss": 1.0, "val_loss": 1.0, "val_accuracy": 0.9}, config())
    assert before == Progress(3, 0.5, 2, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        before.best = 1.0


def naive(values, sign, min_delta, patience, epochs):
    """(epochs run, best epoch) by the words of the promise, over the whole curve at each epoch."""
    for ran in range(1, epochs + 1):
        best = None
        for epoch in range(1, ran + 1):
            value = values[epoch - 1]
            if math.isfinite(value) and (
                best is None or sign * (value - values[best - 1]) > min_delta
            ):
                best = epoch
        if patience is not None and ran - (best or 0) >= patience:
            break
    return ran, best


numbers = st.floats(allow_nan=True, allow_infinity=True, width=32) | st.sampled_from(
    [0.0, 0.25, 0.5, 0.75, 1.0, NAN, math.inf]
)


@given(
    st.lists(numbers, min_size=1, max_size=12),
    st.sampled_from([0.0, 0.25, 0.5]),
    st.none() | st.integers(1, 5),
)
def test_any_loss_curve_ends_as_the_naive_reading_says(values, min_delta, patience):
    rule = config(monitor="val_loss", min_delta=min_delta, patience=patience, epochs=len(values))
    found = follow(values, rule)
    assert (found.epoch, found.best_epoch) == naive(values, -1, min_delta, patience, len(values))
    if found.best_epoch is not None:
        assert found.best == values[found.best_epoch - 1]
        assert found.wait == found.epoch - found.best_epoch


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.none() | st.integers(1, 4))
def test_any_accuracy_curve_keeps_its_first_maximum(hits, patience):
    values = [h / 4 for h in hits]
    found = follow(values, config(patience=patience, epochs=len(values)))
    ran, best = naive(values, 1, 0.0, patience, len(values))
    assert (found.epoch, found.best_epoch) == (ran, best)
    assert best == 1 + int(np.argmax(values[:ran]))


@pytest.mark.slow
@pytest.mark.usefixtures("compile_once")
def test_a_second_worse_fit_restores_its_own_best_epoch(trained, digits, tmp_path):
    """One Config, two fits: labels drawn at random make the second worse in every epoch."""
    label = np.random.default_rng(0).permutation(digits.train.label)
    noise = Dataset(
        "noise", Split(digits.train.image, label), digits.test, digits.classes, "other digest"
    )
    second = fit(TINY, noise, tmp_path / "second")
    curve = [row["val_accuracy"] for row in RunDirectory(second.path).history()]
    assert max(curve) < trained.summary["val_accuracy"]
    assert second.summary["best_epoch"] == 1 + int(np.argmax(curve))
    assert second.summary["val_accuracy"] == max(curve)


def torch_plateau(values, factor, patience, threshold, cooldown, final):
    """Factors of the rate in each epoch: torch's ReduceLROnPlateau, mode "max", "abs", restated."""
    best, bad, rest, rate, rates = -math.inf, 0, 0, 1.0, []
    for value in values:
        rates.append(rate)
        if value > best + threshold:
            best, bad = value, 0
        else:
            bad += 1
        if rest > 0:
            rest, bad = rest - 1, 0
        if bad > patience:
            rate, rest, bad = max(rate * factor, final), cooldown, 0
    return rates


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 3), st.integers(0, 3),
    st.sampled_from([0.0, 0.1]),
)  # fmt: skip
def test_the_rate_falls_on_a_plateau_as_torch_has_it(values, patience, cooldown, threshold):
    schedule = Plateau(0.5, patience, threshold, cooldown, final=0.2)
    recipe, progress, rates = config(schedule=schedule), Progress(), []
    for value in values:
        rates.append(progress.rate)
        metrics = {"train_loss": 1.0, "val_loss": 1.0, "val_accuracy": value}
        progress = progress.after(metrics, recipe)
    expected = torch_plateau(values, 0.5, patience, threshold, cooldown, 0.2)
    assert rates == expected
