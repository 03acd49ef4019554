"""Arrays given in Python: every form that holds pixels and labels, and the others refused."""

import dataclasses

import numpy as np
import pytest

from flaxcnn.data import datasets, splits
from flaxcnn.data.given import keep
from flaxcnn.errors import ConfigError, DataError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten
from flaxcnn.recipe.splits import Fold

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (30, 5, 4, 3), np.uint8)
LABELS = np.arange(30) % 3
TEXT = np.array(["cat", "dog", "owl"])[LABELS]


def load(data):
    return datasets.load(keep(data))


def joined(data):
    return np.concatenate([data.train.image, data.test.image])


class Tensor:
    """What a library of tensors gives: an object that becomes an array."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array.astype(dtype or self.array.dtype)


def test_two_arrays_have_a_stratified_fifth_held_out():
    data = load((PIXELS, LABELS))
    assert data.test_origin == "held out"
    assert np.bincount(data.test.label).tolist() == [2, 2, 2]
    assert data.classes == ("0", "1", "2")
    assert sorted(map(bytes, joined(data))) == sorted(map(bytes, PIXELS))


@pytest.mark.parametrize("data", [
    (PIXELS[:24], LABELS[:24], PIXELS[24:], LABELS[24:]),
    ((PIXELS[:24], LABELS[:24]), (PIXELS[24:], LABELS[24:])),
    {"train": (PIXELS[:24], LABELS[:24]), "test": (PIXELS[24:], LABELS[24:])},
    {"test": [Tensor(PIXELS[24:]), LABELS[24:].tolist()], "train": [PIXELS[:24], LABELS[:24]]},
], ids=["four", "pairs", "dict", "tensors"])  # fmt: skip
def test_a_test_split_of_ones_own(data):
    found = load(data)
    assert found.test_origin == "archive"
    np.testing.assert_array_equal(found.train.image, PIXELS[:24])
    np.testing.assert_array_equal(found.test.image, PIXELS[24:])
    np.testing.assert_array_equal(found.test.label, LABELS[24:])


def parts(**test):
    return {"train": (PIXELS[:18], TEXT[:18]), "validation": (PIXELS[18:24], TEXT[18:24]), **test}


@pytest.mark.parametrize("test", [{}, {"test": (PIXELS[24:], TEXT[24:])}], ids=["held", "own"])
def test_a_validation_split_of_ones_own_validates(test):
    name = keep(parts(**test))
    data = datasets.load(name)
    config = Config(name, (Flatten(), Dense(3)))
    rows = splits.choose(data, config)
    assert data.validation == 6
    np.testing.assert_array_equal(data.train.image[rows.validation], PIXELS[18:24])
    assert len(rows.train) == (18 if test else 14)
    assert len(rows.test) == (6 if test else 4)
    assert set(rows.train) | set(rows.validation) == set(range(len(data.train)))
    with pytest.raises(ConfigError, match=r"has a validation split of its own \(6 rows\); leave"):
        splits.choose(data, dataclasses.replace(config, validation=0.2))
    fold = splits.choose(data, dataclasses.replace(config, split=Fold(0, 2), validation=3))
    assert sorted(np.concatenate([fold.train, fold.validation, fold.test])) == list(
        range(len(data.train))
    )


def test_a_validation_split_is_part_of_the_digest():
    data = load(parts(test=(PIXELS[24:], TEXT[24:])))
    whole = load({"train": (PIXELS[:24], TEXT[:24]), "test": (PIXELS[24:], TEXT[24:])})
    np.testing.assert_array_equal(data.train.image, whole.train.image)
    assert data.digest != whole.digest


@pytest.mark.parametrize(("labels", "classes"), [
    (TEXT, ("cat", "dog", "owl")),
    (TEXT.astype(object), ("cat", "dog", "owl")),
    (TEXT.tolist(), ("cat", "dog", "owl")),
    (np.array([10, -3, 7])[LABELS], ("-3", "7", "10")),
    (LABELS.astype(np.float32), ("0", "1", "2")),
    (LABELS[:, None], ("0", "1", "2")),
    (LABELS == 1, ("False", "True")),
], ids=["text", "objects", "list", "gaps", "float", "column", "bool"])  # fmt: skip
def test_labels_become_numbers_and_keep_their_names(labels, classes):
    data = load((PIXELS, labels, PIXELS, labels))
    assert data.classes == classes
    flat = np.asarray(labels).reshape(-1).astype(str)
    if isinstance(labels, np.ndarray) and labels.dtype.kind == "f":
        flat = LABELS.astype(str)
    assert [data.classes[n] for n in data.train.label] == flat.tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_pixels_divided_by_255_come_back_exactly(dtype):
    every = np.arange(256, dtype=np.uint8).reshape(16, 4, 4)
    label = np.arange(16) % 2
    divided = (every / 255).astype(dtype) if dtype != np.float32 else every.astype(dtype) / 255
    assert keep((divided, label)) == keep((every, label))
    assert keep((every.astype(dtype), label)) == keep((every, label))
    assert keep((every.astype(np.int64), label)) == keep((every, label))


def test_black_and_white_is_0_and_255():
    data = load((PIXELS > 100, LABELS))
    assert set(np.unique(joined(data))) == {0, 255}


SIZES = [np.zeros((4, 4)), np.zeros((5, 4))]


@pytest.mark.parametrize(("data", "message"), [
    ((PIXELS,), "got 1 arrays"),
    ({"train": (PIXELS, LABELS), "val": (PIXELS, LABELS)}, "no split 'val'"),
    ({"train": (PIXELS, LABELS), "tests": 1}, "did you mean 'test'"),
    ({"test": (PIXELS, LABELS)}, "the split train is missing"),
    ({"train": PIXELS}, "train must be a pair"),
    (PIXELS, "got ndarray"),
    ((PIXELS - np.float32(0.5), LABELS), "integers from 0 to 255 or those divided by 255"),
    ((PIXELS / 254.0, LABELS), "FlaxCNNClassifier"),
    ((PIXELS.astype(int) - 9, LABELS), "got int64 from -9 to"),
    ((np.full((30, 4, 4), np.nan), LABELS), "from nan to nan"),
    ((np.zeros((30, 3, 6, 6)), LABELS), r"np.moveaxis\(images, 1, -1\)"),
    ((PIXELS.astype(str), LABELS), "image must be an array of numbers"),
    ((SIZES * 15, LABELS), "image cannot be made an array"),
    ((PIXELS, np.eye(3)[LABELS]), r"labels.argmax\(1\)"),
    ((PIXELS, LABELS + 0.5), "label must be all integers or all text .got 0.5"),
    ((PIXELS, [*TEXT[:-1], None]), "label must be all integers or all text .got None"),
    ((PIXELS, TEXT, PIXELS, LABELS), "all integers or all text .got both"),
    ((PIXELS[:2], TEXT[:2], PIXELS, TEXT), "test_label has 'owl' in row 2, which no row of train"),
    ((PIXELS, LABELS[:-1]), "must have equal lengths"),
    ((PIXELS[..., 0, 0], LABELS), r"image must be uint8 \[N, H, W\]"),
    ((PIXELS, LABELS * 0), "two or more classes"),
    ({"train": (PIXELS, LABELS), "validation": (PIXELS[:, 1:], LABELS)}, "validation images"),
])  # fmt: skip
def test_what_is_refused(data, message):
    with pytest.raises(DataError, match=message) as error:
        load(data)
    assert "\n" not in str(error.value)


def test_the_file_of_arrays_does_not_change_with_versions():
    """Recipes of older runs name it."""
    name = keep((np.zeros((10, 4, 4), np.uint8), (np.arange(10) % 2).astype(np.int64)))
    digest = "44b60a0ecbd5d62d67f675b9ccac10cab3c39a18b0403e682afdc32ac18384b3"
    assert name.endswith(f"/arrays/{digest}.npz")
