"""A temperature fitted to the validation rows, and used wherever logits become probabilities."""

import dataclasses

import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from small_runs import TINY

from flaxcnn.engine.calibration import loss_at, temperature_of
from flaxcnn.engine.saved import classify, evaluate_run, open_run
from flaxcnn.engine.train import fit
from flaxcnn.errors import ConfigError
from flaxcnn.recipe.views import Views
from flaxcnn.trained import load

CONFIG = dataclasses.replace(
    TINY, epochs=3, calibrate=True, tta=Views(flip=False, shift=1, unsure=0.9)
)
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def run(digits, compile_once, tmp_path_factory):
    return fit(CONFIG, digits, tmp_path_factory.mktemp("calibrated") / "run")


@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_temperature_is_found(true):
    """Of labels drawn from softmax(logits / true), whose best temperature is near the true one."""
    logits = RANDOM.normal(size=(4000, 5)) * 3
    p = softmax(logits / true, axis=1)
    label = (p.cumsum(axis=1) > RANDOM.random((4000, 1))).argmax(axis=1)
    found = temperature_of(logits, label)
    assert found == pytest.approx(true, rel=0.1)
    nearby = [loss_at(logits, label, found * factor) for factor in (0.99, 1.01)]
    assert loss_at(logits, label, found) < min(nearby)


def test_the_loss_is_the_cross_entropy():
    logits, label = RANDOM.normal(size=(7, 3)), np.arange(7) % 3
    expected = -np.mean([log_softmax(row / 2.0)[k] for row, k in zip(logits, label, strict=True)])
    assert loss_at(logits, label, 2.0) == pytest.approx(expected)


@pytest.mark.slow
def test_probabilities_of_a_run_are_scaled_by_it(run, digits):
    opened, images = open_run(run.path), digits.test.image[:20]
    temperature = run.summary["temperature"]
    assert temperature != 1.0
    assert run.summary["val_loss_calibrated"] < run.summary["val_loss"]
    logits = load(run.path)(images)
    np.testing.assert_allclose(
        classify(opened, images), softmax(logits / temperature, axis=1), rtol=1e-4, atol=1e-6
    )
    assert f"divided by {temperature:.3f}" in (run.path / "README.md").read_text()


def test_views_are_used_wherever_rows_are_looked_at(run, digits):
    """In records, in an evaluation afterwards, and by the network taken out of its run."""
    predictions = run.predictions()
    found = load(run.path)(np.asarray(digits.test.image)[: len(predictions.row)])
    test = predictions.row - len(digits.train)
    np.testing.assert_allclose(found[test], predictions.logits, rtol=1e-4, atol=1e-4)
    assert evaluate_run(open_run(run.path))["loss"] == run.summary["test_loss"]
    plain = dataclasses.replace(load(run.path), config=TINY)
    assert np.abs(plain(digits.test.image[:50]) - found[:50]).max() > 0.01


def test_the_test_rows_are_never_fitted_to():
    with pytest.raises(ConfigError, match="calibrate=true fits the temperature to validation rows"):
        dataclasses.replace(TINY, calibrate=True, validation="test", protocol="document")
