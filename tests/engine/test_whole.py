"""A whole run as one program beside the epochs of a job, and its place in `flaxcnn bench`."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.special import softmax

from flaxcnn import speedrun
from flaxcnn.data.datasets import load
from flaxcnn.engine.make_job import make_job, make_resident_job
from flaxcnn.engine.metrics import finalize
from flaxcnn.engine.whitening import whitened
from flaxcnn.engine.whole import compile_whole
from flaxcnn.errors import ConfigError
from flaxcnn.recipe.averages import EMA
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Activation, BatchNorm, Conv, Dense, Flatten
from flaxcnn.recipe.schedules import Plateau, Polynomial
from flaxcnn.recipe.views import Views
from flaxcnn.trained import TrainedModel

LAYERS = (Conv(8, 2, init="whiten", activation="relu"), BatchNorm(), Activation("gelu"),
          Flatten(), Dense(10))  # fmt: skip
SMALL = Config(
    "digits", LAYERS, epochs=2, batch_size=200, drop_last=True, learning_rate=0.01,
    schedule=Polynomial(), tta=Views(False, 1, share=0.2), fade={"conv2d/bias": 1},
)  # fmt: skip
# float32 moments of whitening beside float64, of directions whose variance is as small as 1e-3
CLOSE = {"rtol": 1e-3, "atol": 1e-4}


@pytest.fixture(scope="module")
def data():
    return load("digits")


@pytest.fixture(scope="module")
def trained(data):
    """A job, and its state after two epochs."""
    job = make_job(speedrun.whole_recipe(SMALL), data)
    state = job.init()
    for _ in range(2):
        state, _ = job.train_epoch(state)
    return job, state


def test_whitening_inside_a_program_is_that_of_the_host(trained):
    job, state = trained
    found = whitened(LAYERS[0], job.data, np.asarray(job.rows.train))
    np.testing.assert_allclose(found, state.params["conv2d"]["kernel"], **CLOSE)


def test_a_share_of_a_split_is_its_least_sure_rows(trained, data):
    """By one view of all, whatever the batches; and the network taken out of the run agrees."""
    job, state = trained
    once, every = (
        make_job(dataclasses.replace(job.config, tta=tta), data).predict(state, "test")
        for tta in (None, SMALL.tta.of_all)
    )
    found = job.predict(state, "test")
    least = np.argsort(softmax(once, axis=1).max(axis=1), kind="stable")[: round(0.2 * len(once))]
    expected = once.copy()
    expected[least] = every[least]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)  # sums in another order
    hits = (found.argmax(1) == data.test.label[job.rows.test - len(data.train)]).mean()
    sums = finalize(jax.device_get(job.evaluate(state, "test")))
    assert sums["accuracy"] == hits
    assert 0 < (found != once).any(axis=1).sum() <= len(least)
    scaling = jax.device_get(job.data.scaling)
    variables = jax.device_get({"params": state.params, "batch_stats": state.batch_stats})
    model = TrainedModel(None, job.config, data.classes, data.shape, variables, scaling.mean,
                         scaling.scale, job.plan.model)  # fmt: skip
    logits = model(data.test.image[job.rows.test - len(data.train)])
    np.testing.assert_allclose(logits, found, rtol=1e-4, atol=1e-4)


def test_one_program_gives_what_epochs_and_a_test_give(trained, data):
    job, state = trained
    whole = compile_whole(make_resident_job(job.config, data))
    outcome = whole(np.asarray(job.config.seeds(), np.uint32))
    expected = finalize(jax.device_get(job.evaluate(state, "test")))
    assert outcome.test["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    assert abs(outcome.test["accuracy"] - expected["accuracy"]) * len(job.rows.test) < 2
    other = whole(np.asarray(dataclasses.replace(job.config, seed=1).seeds(), np.uint32))
    assert other.test["loss"] != outcome.test["loss"]


@pytest.mark.slow  # another program
def test_an_average_is_what_is_tested(data):
    config = dataclasses.replace(
        SMALL, tta=None, average=EMA(0.9, batch_stats="estimate"), schedule={"type": "constant"}
    )
    config = speedrun.whole_recipe(config)
    job = make_resident_job(config, data)
    state = job.init()
    for _ in range(2):
        state, _ = job.train_epoch(state)
    averaged = job.settled(state).average
    state = dataclasses.replace(state, **averaged)
    expected = finalize(jax.device_get(job.evaluate(state, "test")))
    outcome = compile_whole(job)(np.asarray(config.seeds(), np.uint32))
    assert outcome.test["loss"] == pytest.approx(expected["loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"schedule": Plateau()}, "schedule=plateau is decided between epochs"),
        ({"patience": 3}, "patience=3 is decided between epochs"),
    ],
)
def test_what_needs_the_host_is_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        speedrun.whole_recipe(dataclasses.replace(SMALL, **changed))


def test_a_share_of_what_is_streamed_is_refused(data):
    with pytest.raises(ConfigError, match=r"tta.share ranks all rows of a split.*use tta.unsure"):
        make_job(dataclasses.replace(SMALL, input="stream"), data)


def test_the_verdict_is_students_one_sided_test():
    """scipy's own, of 0.94, 0.941 and 0.945 against 0.94 and 0.945."""
    from scipy import stats

    accuracy = [0.94, 0.941, 0.945]
    runs = [speedrun.Run(k, 1.0 + k, each, 0.2) for k, each in enumerate(accuracy)]
    for bar, reached in ((0.94, True), (0.945, False)):
        found = speedrun.verdict(runs, bar)
        expected = stats.ttest_1samp(accuracy, bar, alternative="greater").pvalue
        assert found["p"] == pytest.approx(expected)
        assert found["reached"] is reached
        assert found["seconds"] == {"min": 1.0, "median": 2.0, "mean": 2.0, "max": 3.0}
    assert speedrun.verdict(runs[:1], 0.94)["p"] is None
