"""Rows decoded on demand: the same in any process, in the order asked for, by any policy."""

import io
import multiprocessing
import os
import signal
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flaxcnn.data import datasets
from flaxcnn.data.images import Images
from flaxcnn.data.resize import AREA, ASPECT, Draws, central, random_box
from flaxcnn.data.splits import standardisation
from flaxcnn.data.stream import RowReader, columns
from flaxcnn.errors import ConfigError, DataError, ReaderError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten
from flaxcnn.recipe.resize import Resize

CROP = Resize(12, 10, "random_crop", "center_crop")
SECONDS = 30  # after which a reader hangs for certain, on a machine that is busy elsewhere


def picture(random, height, width):
    coarse = random.integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def sized(tmp_path_factory):
    """Three classes of 20 images, no two sizes alike, JPEG and PNG."""
    root, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in "abc":
        (root / name).mkdir()
        for i in range(20):
            image = picture(random, 12 + i, 40 - i)
            image.save(root / name / f"{i:02}.{'jpg' if i % 2 else 'png'}")
    return root


@pytest.fixture
def lazy(sized):
    return datasets.load(f"folder:{sized}", CROP, most=0)


def read(reader, rows, draws=None):
    count = reader.submit(np.asarray(rows, np.int32), draws)
    return np.concatenate([reader.read() for _ in range(count)])


def config(dataset="digits", **fields):
    return Config(dataset=dataset, layers=(Flatten(), Dense(10)), **fields)


# images


def test_decoded_on_demand_is_what_is_decoded_ahead(sized):
    resize = Resize(9, 11, "center_crop", "center_crop")
    held = datasets.load(f"folder:{sized}", resize)
    lazy = datasets.load(f"folder:{sized}", resize, most=held.nbytes - 1)
    assert not held.undecoded
    assert lazy.undecoded
    assert held.nbytes == lazy.nbytes
    for a, b in ((held.train, lazy.train), (held.test, lazy.test)):
        assert isinstance(b.image, Images)
        assert b.image.shape == a.image.shape
        np.testing.assert_array_equal(a.label, b.label)
        np.testing.assert_array_equal(a.image, b.image[:])
        np.testing.assert_array_equal(a.image[3], b.image[3])
        np.testing.assert_array_equal(a.image[2:5], b.image[2:5])
        np.testing.assert_array_equal(a.image[[7, 0, 7]], b.image[np.array([7, 0, 7])])
    assert not datasets.load(f"folder:{sized}", resize, most=held.nbytes).undecoded


def test_images_of_differing_size_need_a_resize(sized):
    with pytest.raises(DataError, match=r"all images must have one size; -s resize\.height=64"):
        datasets.load(f"folder:{sized}")


def test_what_cannot_be_read_is_named_when_it_is_met(sized, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.open(sized / name / f"{i:02}.{'jpg' if i % 2 else 'png'}").save(
                tmp_path / name / f"{i}.png"
            )
    data = datasets.load(f"folder:{tmp_path}", Resize(8, 8), most=0)
    whole = (tmp_path / "b" / "3.png").read_bytes()
    (tmp_path / "b" / "3.png").write_bytes(whole[:100])
    with pytest.raises(DataError, match=r"b/3\.png is damaged or cut short"):
        np.concatenate([data.train.image[:], data.test.image[:]])


def test_the_digest_knows_names_sizes_and_the_resize(sized, tmp_path):
    def digest(root=sized, resize=CROP):
        return datasets.load(f"folder:{root}", resize, most=0).digest

    assert digest() == digest()
    assert digest() != digest(resize=Resize(12, 10))
    for name in "abc":
        (tmp_path / name).mkdir()
        for file in (sized / name).iterdir():
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    copy = digest(tmp_path)
    (tmp_path / "a" / "00.png").rename(tmp_path / "a" / "0.png")
    assert digest(tmp_path) != copy


def test_standardisation_holds_a_part_of_the_data(lazy, monkeypatch):
    held = lazy.train.image[:]
    rows = np.arange(0, len(held), 2)
    monkeypatch.setattr("flaxcnn.data.splits.rows_at_once", lambda shape: 5)
    for how in ("per_pixel", "per_channel"):
        for a, b in zip(standardisation(held[rows], how),
                        standardisation(lazy.train.image, how, rows), strict=True):  # fmt: skip
            np.testing.assert_array_equal(a, b)


def test_indexing_never_holds_more_than_was_asked_for(lazy):
    tracemalloc.start()
    try:
        for start in range(0, len(lazy.train), 4):
            lazy.train.image[start : start + 4]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < lazy.train.image.nbytes + 200_000  # Pillow's own objects


# resize


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1),
       st.integers(0, 1000), st.integers(0, 2**31 - 1))  # fmt: skip
def test_random_boxes_lie_inside_and_are_a_function_of_seed_epoch_and_row(w, h, seed, epoch, row):
    left, upper, right, lower = random_box((w, h), Draws(seed, epoch), row)
    assert 0 <= left < right <= w
    assert 0 <= upper < lower <= h
    assert (left, upper, right, lower) == random_box((w, h), Draws(seed, epoch), row)


def test_random_boxes_have_inceptions_areas_and_aspects():
    boxes = np.array([random_box((1000, 1000), Draws(0, 0), row) for row in range(2000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    area, aspect = width * height / 1e6, width / height
    assert area.min() >= AREA[0] * 0.99
    assert area.max() <= AREA[1]
    assert aspect.min() >= ASPECT[0] * 0.99
    assert aspect.max() <= ASPECT[1] * 1.01
    assert abs(np.log(aspect).mean()) < 0.02  # as often wide as high
    # An area a with the aspect e^L fits where a <= e^-|L|; even draws that fit have the mean 0.478
    assert abs(area.mean() - 0.478) < 0.02  # of 2000, about 4 standard errors
    assert len(np.unique(boxes, axis=0)) > 1990


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.2, 5))
def test_the_central_box_is_the_largest_of_its_aspect(w, h, aspect):
    left, upper, right, lower = central((w, h), aspect)
    assert (right - left) / (lower - upper) == pytest.approx(aspect)
    assert left == pytest.approx(w - right)
    assert upper == pytest.approx(h - lower)
    assert right - left == pytest.approx(w) or lower - upper == pytest.approx(h)


def test_an_epoch_has_crops_of_its_own(lazy):
    rows = np.arange(10)
    one = lazy.train.image.read(rows, Draws(1, 0))
    np.testing.assert_array_equal(one, lazy.train.image.read(rows, Draws(1, 0)))
    np.testing.assert_array_equal(one[3:5], lazy.train.image.read(rows[3:5], Draws(1, 0)))
    for other in (Draws(1, 1), Draws(2, 0), None):
        assert not np.array_equal(one, lazy.train.image.read(rows, other))


# the reader


@pytest.fixture
def reader(lazy):
    readers = []

    def make(workers, archives=None):
        archives = archives or [lazy.train.image, lazy.test.image]
        readers.append(RowReader(archives, workers))
        readers[-1].item_rows = 7  # many items, the last of them short
        return readers[-1]

    yield make
    for one in readers:
        one.close()


def test_any_number_of_processes_reads_the_same(lazy, reader):
    rows = np.random.default_rng(3).permutation(60)
    evaluated = np.concatenate([lazy.train.image[:], lazy.test.image[:]])
    drawn = np.concatenate([
        lazy.train.image.read(np.arange(len(lazy.train)), Draws(5, 2)), lazy.test.image[:],
    ])  # fmt: skip
    train = rows[rows < len(lazy.train)]
    for workers in (0, 1, 2):
        one = reader(workers)
        np.testing.assert_array_equal(read(one, rows), evaluated[rows])
        np.testing.assert_array_equal(read(one, train, Draws(5, 2)), drawn[train])
        one.submit(rows.astype(np.int32))  # begun, and not wanted after all
        one.forget()
        np.testing.assert_array_equal(read(one, rows[:9]), evaluated[rows[:9]])


def test_arrays_are_read_in_this_process(reader):
    image = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 1), np.uint8)
    one = reader(8, [image[:20], image[20:]])
    np.testing.assert_array_equal(read(one, [25, 3, 19, 20]), image[[25, 3, 19, 20]])
    assert not multiprocessing.active_children()


def test_a_killed_worker_is_an_error_in_seconds(reader):
    one = reader(2)
    read(one, np.arange(60))
    began = time.monotonic()
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(ReaderError, match=r"one of 2 processes .* \(exit code -9"):
        read(one, np.tile(np.arange(60), 50))
    assert time.monotonic() - began < SECONDS
    with pytest.raises(ReaderError):  # and stays one: nothing is started again
        read(one, np.arange(60))
    one.close()
    assert not multiprocessing.active_children()


def test_a_damaged_file_is_named_by_the_worker_that_met_it(sized, reader, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for i in (0, 2, 4, 6, 8):
            (tmp_path / name / f"{i}.png").write_bytes((sized / name / f"{i:02}.png").read_bytes())
    data = datasets.load(f"folder:{tmp_path}", Resize(8, 8), most=0)
    for file in (tmp_path / "b").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(DataError, match="is damaged or cut short"):
        read(reader(1, [data.train.image, data.test.image]), np.arange(10))


@given(st.integers(1, 5), st.integers(1, 8), st.integers(1, 6))
def test_the_columns_of_all_processes_are_the_batches(steps, width, processes):
    rows = np.arange(steps * width * processes).reshape(steps, width * processes)
    parts = [columns(rows, index, processes) for index in range(processes)]
    assert all(part.shape == (steps, width) for part in parts)
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), rows)


# what is streamed


def test_auto_streams_what_is_larger_than_its_memory(sized):
    digits = datasets.load_for(config())
    assert not datasets.streams(config(), digits)
    assert not datasets.streams(config(data_memory=digits.nbytes), digits)
    assert datasets.streams(config(data_memory=digits.nbytes - 1), digits)
    assert datasets.streams(config(input="stream"), digits)
    assert not datasets.streams(config(input="resident", data_memory=1), digits)
    name, same = f"folder:{sized}", Resize(8, 8)
    for fields, undecoded in (
        ({}, False), ({"data_memory": 60 * 192 - 1}, True), ({"data_memory": 60 * 192}, False),
        ({"input": "stream"}, True), ({"input": "resident", "data_memory": 1}, False),
        ({"resize": CROP}, True),
    ):  # fmt: skip
        recipe = config(name, **{"resize": same, **fields})
        data = datasets.load_for(recipe)
        assert data.undecoded == undecoded == datasets.streams(recipe, data), fields
    with pytest.raises(ConfigError, match="input=resident needs decoded images, but folder:"):
        datasets.streams(config(name, input="resident"), datasets.load(name, same, most=0))


# tfds


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A set of JPEGs of differing size, as tfds prepares one -> (its folder, the images)."""
    import tensorflow_datasets as tfds

    random, files = np.random.default_rng(1), []
    for i in range(30):
        file = io.BytesIO()
        picture(random, 10 + i, 30 - i % 7).save(file, "JPEG")
        files.append((file.getvalue(), i % 3))

    class Sized(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Thirty images."""

        name = "sized"
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = tmp_path_factory.mktemp("package")

        def _info(self):
            features = tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(names=["x", "y", "z"]),
            })  # fmt: skip
            return tfds.core.DatasetInfo(
                builder=self, features=features, supervised_keys=("image", "label"),
                disable_shuffling=True,
            )  # fmt: skip

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(files)}

        def _generate_examples(self, files):
            for i, (data, label) in enumerate(files):
                yield i, {"image": io.BytesIO(data), "label": label}

    folder = tmp_path_factory.mktemp("tfds")
    Sized(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder, files


def test_a_prepared_set_of_differing_sizes(records, monkeypatch, reader):
    folder, files = records
    monkeypatch.setenv("TFDS_DATA_DIR", str(folder))
    with pytest.raises(DataError, match="of one size or with a resize in the recipe"):
        datasets.load("tfds:sized")
    held = datasets.load("tfds:sized", Resize(8, 9))
    lazy = datasets.load("tfds:sized", Resize(8, 9), most=0)
    assert not held.undecoded
    assert lazy.undecoded
    assert lazy.classes == ("x", "y", "z")
    assert lazy.test_origin == "held out"
    np.testing.assert_array_equal(held.train.image, lazy.train.image[:])
    np.testing.assert_array_equal(held.train.label, lazy.train.label)
    expected = [np.asarray(Image.open(io.BytesIO(data)).resize((9, 8), Image.Resampling.BILINEAR))
                for data, _ in files]  # fmt: skip
    every = np.concatenate([held.train.image, held.test.image])
    assert {image.tobytes() for image in expected} == {image.tobytes() for image in every}
    one = reader(1, [lazy.train.image, lazy.test.image])
    np.testing.assert_array_equal(read(one, np.arange(30)), every)
    assert datasets.load("tfds:sized", Resize(8, 9), most=0).digest == lazy.digest
