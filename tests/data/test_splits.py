"""Row numbers: whose they are, that they never change, and the documents' own row sets."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxcnn.data import datasets
from flaxcnn.data.arrays import Split, dataset
from flaxcnn.data.splits import choose, digest, folds, standardisation, to_json
from flaxcnn.errors import ConfigError, DataError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Flatten
from flaxcnn.recipe.splits import Permuted, Ranges

DOCUMENT_004 = Permuted(rows=55_000, seed=42, test=5_500, validation=5_000)
COUNTS_004 = {
    "train": [4413, 4438, 4438, 4419, 4460, 4444, 4483, 4527, 4428, 4450],
    "validation": [497, 529, 510, 479, 499, 513, 484, 493, 505, 491],
    "test": [569, 536, 562, 594, 514, 540, 566, 530, 552, 537],
}


def made(train=100, test=20, classes=10, label=None):
    def split(count, label):
        label = np.arange(count) % classes if label is None else label
        return Split(np.zeros((count, 2, 2, 1), np.uint8), np.asarray(label, np.int32))

    names = [f"class{i}" for i in range(classes)]
    return dataset("made", split(train, label), split(test, None), names)


def config(**changes):
    return Config(dataset="npz:made", layers=(Flatten(),), **changes)


def test_archive_holds_out_of_train_only():
    data = made()
    rows = choose(data, config(validation=0.2, split_seed=3))
    assert rows.train.dtype == rows.validation.dtype == rows.test.dtype == np.int32
    assert sorted([*rows.train, *rows.validation]) == list(range(100))
    assert rows.test.tolist() == list(range(100, 120))
    assert np.bincount(data.train.label[rows.validation]).tolist() == [2] * 10
    assert (np.diff(rows.train) > 0).all()
    assert (np.diff(rows.validation) > 0).all()


def test_same_seed_same_rows_and_the_run_seed_is_nobody():
    data = made()
    rows = choose(data, config(validation=0.2, split_seed=3))
    assert digest(rows) == digest(choose(data, config(validation=20, split_seed=3, seed=9)))
    assert digest(rows) != digest(choose(data, config(validation=0.2, split_seed=4)))


def test_rows_of_the_embedded_set_never_change():
    """A library that drew other rows for the same seed would change every number silently."""
    rows = choose(datasets.load("digits"), config(validation=0.1))
    assert (len(rows.train), len(rows.validation), len(rows.test)) == (1293, 144, 360)
    assert digest(rows)[:16] == "b9a2c1abaecce609"


def test_validation_may_be_the_test_split():
    rows = choose(made(), config(validation="test", protocol="document"))
    assert rows.train.tolist() == list(range(100))
    assert rows.validation.tolist() == rows.test.tolist() == list(range(100, 120))


def test_permuted_is_what_the_document_says():
    rows = choose(made(60), config(split=Permuted(rows=50, seed=42, test=5, validation=4)))
    p = np.random.RandomState(42).permutation(50)
    rest = p[5:]
    assert rows.test.tolist() == p[:5].tolist()
    assert rows.train.tolist() == rest[:-4].tolist()
    assert rows.validation.tolist() == rest[-4:].tolist()


def test_permuted_is_what_sklearn_draws():
    from sklearn.model_selection import train_test_split

    rows = choose(made(60), config(split=Permuted(rows=50, seed=7, test=5, validation=4)))
    rest, test = train_test_split(np.arange(50), test_size=0.1, random_state=7)
    assert rows.test.tolist() == test.tolist()
    assert [*rows.train, *rows.validation] == rest.tolist()


def test_ranges():
    rows = choose(made(60), config(split=Ranges(train=30, validation=20, test=10)))
    assert rows.train.tolist() == list(range(30))
    assert rows.validation.tolist() == list(range(30, 50))
    assert rows.test.tolist() == list(range(50, 60))


@pytest.mark.slow
def test_document_004_class_counts(real):
    data = real("fashion_mnist")
    rows = choose(data, config(split=DOCUMENT_004))
    found = {n: np.bincount(data.train.label[getattr(rows, n)]).tolist() for n in COUNTS_004}
    assert found == COUNTS_004


def test_document_004_class_counts_from_the_label_file(real_archives):
    """The same without preparing images: the labels decide."""
    from flaxcnn.data.builders import read_idx

    label = read_idx(real_archives / "fashion_mnist" / "train-labels-idx1-ubyte.gz")
    rows = choose(made(60_000, label=label), config(split=DOCUMENT_004))
    found = {n: np.bincount(label[getattr(rows, n)]).tolist() for n in COUNTS_004}
    assert found == COUNTS_004


@pytest.mark.parametrize("validation", [3, 100, 1000, 95, 0.001])
def test_hold_outs_that_cannot_be(validation):
    with pytest.raises(ConfigError, match="validation must hold out 10 to 90 of the 100"):
        choose(made(), config(validation=validation))


def test_class_with_one_row():
    label = np.arange(100) % 9
    label[0] = 9
    with pytest.raises(DataError, match="'class9'"):
        choose(made(label=label), config())


@pytest.mark.parametrize(
    "split", [Permuted(rows=101, seed=0, test=5, validation=5), Ranges(80, 15, 6), DOCUMENT_004]
)
def test_rows_beyond_the_archive(split):
    with pytest.raises(ConfigError, match="archive of made has 100"):
        choose(made(), config(split=split))


def test_two_sources_of_validation_rows():
    with pytest.raises(ConfigError, match="validation='test' does not work with split="):
        choose(made(), config(split=Ranges(8, 1, 1), validation="test", protocol="document"))


def test_batch_larger_than_the_data_is_fine():
    assert len(choose(made(), config(batch_size=10_000)).train) == 90


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_folds_partition_and_keep_proportions(data):
    k = data.draw(st.integers(2, 6))
    counts = data.draw(st.lists(st.integers(k, 25), min_size=2, max_size=4))
    seed = data.draw(st.integers(0, 2**32 - 1))
    label = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    found = folds(label, k, seed)
    assert len(found) == k
    assert sorted(np.concatenate([held for _, held in found])) == list(range(len(label)))
    for train, held in found:
        assert sorted([*train, *held]) == list(range(len(label)))
        assert train.dtype == held.dtype == np.int32
        here = np.bincount(label[held], minlength=len(counts))
        assert (np.abs(here - np.array(counts) / k) < 1).all()
    again = folds(label, k, seed)
    assert all(np.array_equal(a, b) for x, y in zip(found, again) for a, b in zip(x, y))


def test_folds_that_cannot_be():
    label = np.array([0] * 10 + [1] * 3)
    with pytest.raises(ConfigError, match="at most 3, the rows of class 1"):
        folds(label, 4, 0)
    with pytest.raises(ConfigError, match="at least 2"):
        folds(label, 1, 0)
    with pytest.raises(ConfigError):
        folds(label[:0], 2, 0)


def test_rows_and_their_digest_are_recorded():
    rows = choose(made(), config())
    recorded = json.loads(to_json(rows))
    assert recorded.pop("digest") == digest(rows)
    for name, numbers in recorded.items():
        np.testing.assert_array_equal(getattr(rows, name), numbers)


@pytest.mark.parametrize("count", [1, 5, 5000])
@pytest.mark.parametrize("channels", [1, 3])
def test_standardisation_against_float64(count, channels):
    image = np.random.default_rng(count).integers(0, 256, (count, 4, 3, channels), np.uint8)
    image[:, 0, 0] = 7
    mean, scale = standardisation(image, "per_pixel")
    std = image.astype(np.float64).std(axis=0)
    np.testing.assert_array_equal(mean, image.mean(axis=0, dtype=np.float64).astype(np.float32))
    np.testing.assert_allclose(scale, np.where(std == 0, 1, std + 1e-7), rtol=1e-7)
    assert mean.shape == scale.shape == (4, 3, channels)
    assert mean.dtype == scale.dtype == np.float32
    mean, scale = standardisation(image, "per_channel")
    wide = image.astype(np.float64)
    np.testing.assert_allclose(mean[0, 0], wide.mean(axis=(0, 1, 2)), rtol=1e-7)
    np.testing.assert_allclose(scale[0, 0], wide.std(axis=(0, 1, 2)) + 1e-7, rtol=1e-7)
    assert mean.shape == scale.shape == (1, 1, channels)


def test_constant_pixels_stay_finite_and_small():
    image = np.full((50, 2, 2, 1), 200, np.uint8)
    for how in ("per_pixel", "per_channel"):
        mean, scale = standardisation(image, how)
        assert (scale == 1).all()
        assert ((image[0] - mean) / scale == 0).all()


def test_no_overflow_at_the_size_of_cifar():
    image = np.broadcast_to(np.uint8(255), (50_000, 32, 32, 3)).copy()
    image[::2] = 0
    mean, scale = standardisation(image, "per_channel")
    np.testing.assert_allclose(mean, 127.5)
    np.testing.assert_allclose(scale, 127.5)


def test_chunks_change_no_bit(monkeypatch):
    from flaxcnn.data import splits

    image = np.random.default_rng(0).integers(0, 256, (1000, 4, 4, 3), np.uint8)
    whole = [standardisation(image, how) for how in ("per_pixel", "per_channel")]
    monkeypatch.setattr(splits, "rows_at_once", lambda shape: 7)
    parts = [standardisation(image, how) for how in ("per_pixel", "per_channel")]
    assert all(np.array_equal(a, b) for x, y in zip(whole, parts) for a, b in zip(x, y))


def test_unit_and_nothing():
    mean, scale = standardisation(np.zeros((0, 2, 2, 1), np.uint8), "unit")
    assert mean.shape == scale.shape == (1, 1, 1)
    assert (mean.item(), scale.item()) == (0, 255)
    with pytest.raises(DataError, match="needs training rows"):
        standardisation(np.zeros((0, 2, 2, 1), np.uint8), "per_pixel")


def test_validation_rows_never_touch_the_statistics():
    data = made()
    rows = choose(data, replace(config(), validation=0.3))
    assert not set(rows.train.tolist()) & set(rows.validation.tolist())
