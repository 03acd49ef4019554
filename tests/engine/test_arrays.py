"""Arrays from Python: weights are repetitions, scales are those of the training rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxcnn.data.batches import Resident, Scaling, in_order, take
from flaxcnn.data.splits import Rows, standardisation
from flaxcnn.engine.arrays import (
    DATASET,
    Standardizer,
    choose,
    image_shape,
    logits,
    make_array_job,
    relative,
    standardizer,
)
from flaxcnn.engine.metrics import batch_sums, finalize
from flaxcnn.engine.step import gradients
from flaxcnn.errors import ConfigError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import BatchNorm, Conv, Dense, Flatten

RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.normal(50, 9, (12, 4, 5, 2))
LABEL = (np.arange(12) % 3).astype(np.int32)
WEIGHT = (np.arange(12) % 4 + 1).astype(np.float32)
NONE = np.zeros(0, np.int32)
CONFIG = Config(DATASET, (Conv(4, 3), BatchNorm(), Flatten(), Dense(3)), keep="last", epochs=2)


def job_of(image, label, weight=None, config=CONFIG, devices=1):
    scaling = Scaling(np.zeros((1, 1, 1), np.float32), np.ones((1, 1, 1), np.float32))
    rows = Rows(np.arange(len(label), dtype=np.int32), NONE, NONE)
    data = Resident(image.astype(np.float32), label, scaling, weight)
    return make_array_job(config, data, rows, 3, devices)


def whole_batch(job):
    rows, mask = in_order(job.split_rows("train"), len(job.rows.train))
    return take(job.data, rows[0], mask[0])


def test_a_weight_is_a_number_of_rows():
    each = WEIGHT.astype(int)
    values = RANDOM.normal(size=(12, 3)).astype(np.float32)
    weighted = batch_sums(jnp.asarray(values), LABEL, np.ones(12, bool), weight=WEIGHT)
    repeated = batch_sums(jnp.asarray(values.repeat(each, axis=0)), LABEL.repeat(each),
                          np.ones(each.sum(), bool))  # fmt: skip
    assert weighted.count == repeated.count == 30
    assert weighted.hits == repeated.hits
    np.testing.assert_allclose(weighted.loss, repeated.loss, rtol=1e-6)
    half = batch_sums(jnp.asarray(values), LABEL, np.arange(12) < 6, weight=WEIGHT)
    assert half.count == WEIGHT[:6].sum()  # padding counts for nothing, whatever its weight


def test_weights_are_relative():
    assert relative(np.full(3, 0.3)) is None
    found = relative(np.array([1e-300, 3000.0, 7000.0]))
    assert found.dtype == np.float32
    assert (found > 0).all()
    assert found[1] / found[2] == np.float32(3 / 7)
    assert 0.5 < found.mean() < 2
    with pytest.raises(ValueError, match="sample_weight must have a weight above 0"):
        relative(np.zeros(0))


@pytest.mark.slow
def test_gradients_are_those_of_repeated_rows():
    each = WEIGHT.astype(int)
    config = Config(DATASET, (Flatten(), Dense(3)), keep="last")
    weighted = job_of(IMAGE, LABEL, WEIGHT, config)
    repeated = job_of(IMAGE.repeat(each, axis=0), LABEL.repeat(each), None, config)
    found = [
        gradients(job.plan, job.init(), job.hypers, job.data.scaling, whole_batch(job)).grads
        for job in (weighted, repeated)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *found)


def test_without_weights_or_hold_out_the_engine_is_the_same():
    job = job_of(IMAGE, LABEL)
    assert whole_batch(job).weight is None
    assert job.plan.batch_size == 12  # not the 32 asked for: padding would be computed
    _, sums = job.train_epoch(job.init())
    assert finalize(sums)["loss"] > 0


def test_a_row_has_one_answer_in_any_company():
    job = job_of(IMAGE, LABEL)
    state, standard = job.init(), standardizer(IMAGE, "per_channel", job.rows.train)
    many = np.concatenate([IMAGE] * 6)[:67]
    found = logits(CONFIG, state, standard, many)
    assert found.shape == (67, 3)
    for row in (0, 5, 31, 32, 66):
        assert np.array_equal(logits(CONFIG, state, standard, many[row : row + 1])[0], found[row])
    assert np.array_equal(logits(CONFIG, state, standard, many[::-1]), found[::-1])


@pytest.mark.parametrize("how", ["per_pixel", "per_channel"])
def test_standardisation_by_training_rows(how):
    train = np.arange(8, dtype=np.int32)
    axes = 0 if how == "per_pixel" else (0, 1, 2)
    found = standardizer(IMAGE, how, train)
    values, scaling = found.apply(IMAGE)
    assert values.dtype == np.float32
    assert (scaling.mean == 0).all()
    assert (scaling.scale == 1).all()
    np.testing.assert_allclose(values[:8].mean(axis=axes), 0, atol=1e-6)
    np.testing.assert_allclose(values[:8].std(axis=axes), 1, rtol=1e-6)
    pixels = IMAGE.astype(np.uint8)
    mean, scale = standardisation(pixels, how, train)
    given, scaling = standardizer(pixels, how, train).apply(pixels)
    assert given is pixels
    assert np.array_equal(scaling.mean, mean)
    assert np.array_equal(scaling.scale, scale)
    # Weighted, and of bytes or floats, the statistics are those of repeated rows.
    for image in (IMAGE, pixels):
        weighted = standardizer(image, how, np.arange(12), WEIGHT)
        again = image.repeat(WEIGHT.astype(int), axis=0).astype(np.float64)
        repeated = standardizer(again, how, np.arange(30))
        np.testing.assert_allclose(weighted.mean, repeated.mean, rtol=1e-12)
        np.testing.assert_allclose(weighted.scale, repeated.scale, rtol=1e-12)


def test_what_never_changes_is_zero():
    image = np.full((5, 1, 1, 2), 1e6 + 0.1)
    image[:, :, :, 1] = np.arange(5)[:, None, None]
    found = standardizer(image, "per_channel", np.arange(5))
    assert found.scale[0, 0, 0] == 1
    np.testing.assert_allclose(found.apply(image)[0][..., 0], 0, atol=1e-6)
    assert isinstance(found, Standardizer)


def test_shapes():
    assert image_shape(None, None, 7) == (1, 1, 7)
    assert image_shape(None, (4, 4, 3), 48) == (4, 4, 3)
    assert image_shape([np.int64(4), 4], None, 16) == (4, 4, 1)
    for asked, found, features in (((4, 4), None, 15), ((4, 4, 3), (4, 6, 2), 48), ((), None, 1),
                                   ((0, 4), None, 0), ((2, 2, 2, 2), None, 16)):  # fmt: skip
        with pytest.raises(ConfigError, match=r"image_shape must be \(H, W\) or \(H, W, C\)"):
            image_shape(asked, found, features)


def test_hold_out():
    rows = choose(LABEL, 0.5, 0)
    assert sorted([*rows.train, *rows.validation]) == list(range(12))
    assert list(np.bincount(LABEL[rows.validation])) == [2, 2, 2]
    # A class of which every row was given weight 0 has none to hold out, and none is needed.
    assert len(choose(np.array([0, 2] * 6), 0.5, 0).validation) == 6
    with pytest.raises(ConfigError, match="the rarest of 4 classes has 1"):
        choose(np.append(LABEL, 3), 0.5, 0)
