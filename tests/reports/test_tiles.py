"""Images of a page and the cells that open them: whose they are, and what is said of them."""

import base64
import io
import json

import made
import numpy as np
import pytest
from PIL import Image

from flaxcnn.reports import confusion, images, numbers, style
from flaxcnn.reports.charts import Chart, Line
from flaxcnn.reports.predicted import Predicted, drawn_by_class, mistakes, test_sample, train_sample
from flaxcnn.reports.tiles import LARGEST, source

test_sample.__test__ = False


def pixels_of(tile):
    kind, _, text = tile.source.partition(",")
    assert kind in ("data:image/png;base64", "data:image/jpeg;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def contrast(one, other):
    def luminance(colour):
        rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.fixture(scope="module")
def predicted():
    """All test rows of digits, seven of them wrong."""
    data = made.digits()
    label = data.test.label
    row = len(data.train) + np.arange(len(label))
    return Predicted(row, label, made.logits(label), data.classes, data=data)


def test_a_cell_opens_the_images_that_it_counts(predicted):
    counts = numbers.confusion(predicted.label, predicted.called, 10)
    opened, cells = confusion.galleries(counts, predicted)
    matrix = confusion.matrix(counts, predicted, cells)
    assert cells == {(i, j) for i, j in zip(*map(list, np.nonzero(counts)), strict=True)}
    by_name = {gallery.name: gallery for gallery in opened.galleries}
    image = made.digits().test.image
    for i, row in enumerate(matrix.cells):
        for j, cell in enumerate(row):
            assert cell.count == (str(counts[i, j]) if counts[i, j] else "")
            if not counts[i, j]:
                assert not cell.target
                continue
            gallery = by_name[cell.target]
            places = np.flatnonzero((predicted.label == i) & (predicted.called == j))
            assert len(gallery.tiles) == min(len(places), confusion.PER_CELL)
            shown = [int(tile.head.removeprefix("test row ")) for tile in gallery.tiles]
            assert set(shown) <= set(places.tolist())
            assert all(tile.wrong == (i != j) for tile in gallery.tiles)
            sure = predicted.sure[shown] * (1 if i == j else -1)
            assert sure.tolist() == sorted(sure)  # mistakes: surest first; right ones: least first
            np.testing.assert_array_equal(pixels_of(gallery.tiles[0]), image[shown[0], ..., 0])
    assert [gallery.open for gallery in opened.galleries].count(True) == 1
    assert "A cell opens its images." in matrix.insight


def test_images_of_cells_stay_within_the_room_and_errors_come_first(predicted, monkeypatch):
    monkeypatch.setattr(confusion, "BYTES", 4000)
    counts = numbers.confusion(predicted.label, predicted.called, 10)
    opened, cells = confusion.galleries(counts, predicted)
    tiles = [tile for gallery in opened.galleries for tile in gallery.tiles]
    assert 0 < sum(len(tile.source) for tile in tiles) <= 4000
    assert {cell for cell in cells if cell[0] != cell[1]} == {
        (i, j) for i, j in zip(*map(list, np.nonzero(counts)), strict=True) if i != j
    }


def test_a_matrix_without_images_has_no_links(predicted):
    counts = numbers.confusion(predicted.label, predicted.called, 10)
    matrix = confusion.matrix(counts, predicted, set())
    assert not any(cell.target for row in matrix.cells for cell in row)
    assert "opens" not in matrix.insight
    assert f"{np.trace(counts)} of {counts.sum()} test rows are on the diagonal" in matrix.alt


def test_mistakes_name_prediction_probability_truth_and_file(predicted):
    wrong = numbers.mistakes(predicted.probability, predicted.label, 3)
    shown = mistakes(predicted, wrong)
    ((_, tiles),) = shown.groups
    assert shown.title == "The 3 most confident of 7 mistakes"
    for i, tile in zip(wrong.tolist(), tiles, strict=True):
        assert tile.head == f"× {predicted.called[i]} {100 * predicted.sure[i]:.0f} %"
        assert list(tile.lines) == [f"is {predicted.label[i]}", f"test row {i}"]
        assert f"is {predicted.label[i]}, taken for {predicted.called[i]}" in tile.alt


def test_samples_are_drawn_from_every_class_and_the_same_each_time(predicted):
    shown = test_sample(predicted)
    assert [name for name, _ in shown.groups] == list(made.digits().classes)
    assert {len(tiles) for _, tiles in shown.groups} == {8}
    assert shown == test_sample(predicted)
    data = made.digits()
    train = np.arange(0, len(data.train), 2)
    drawn = train_sample(data, train, data.classes)
    for k, (_, tiles) in enumerate(drawn.groups):
        rows = [int(tile.hint.removeprefix("train row ")) for tile in tiles]
        assert set(rows) <= set(train.tolist())
        assert (data.train.label[rows] == k).all()
        np.testing.assert_array_equal(pixels_of(tiles[0]), data.train.image[rows[0], ..., 0])


def test_a_class_without_rows_and_many_classes_are_sampled():
    label = np.repeat(np.arange(30), 3)
    found = drawn_by_class(label[label != 4], 30)
    assert len(found) in (9, 10)
    assert 4 not in found
    assert all((label[label != 4][places] == k).all() for k, places in found.items())


def test_large_images_are_thinned_and_small_ones_keep_every_pixel():
    address, width, height = source(np.zeros((500, 300, 3), np.uint8))
    assert max(width, height) <= LARGEST
    assert address.startswith("data:image/jpeg")
    assert source(np.zeros((28, 28, 1), np.uint8))[1:] == (28, 28)
    assert source(np.zeros((8, 8, 4), np.uint8))[1:] == (8, 8)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_filters_share_one_scale_with_zero_in_the_middle(channels):
    kernel = np.zeros((3, 3, channels, 4), np.float32)
    kernel[0, 0, :, 0], kernel[2, 2, :, 1] = 0.5, -0.25
    shown = images.filters(kernel, "conv2d")
    ((_, tiles),) = shown.groups
    first, second = (pixels_of(tile) for tile in tiles[:2])
    assert np.all(first[0, 0] == 255)
    assert np.all((first[1, 1] == 127) | (first[1, 1] == 128))
    assert np.all(second[2, 2] == 64)
    assert shown.title.startswith("4 filters of conv2d, 3×3")


def test_numbers_in_cells_are_legible_on_every_shade():
    shades = style.shades()
    assert len(shades) == 2 * (style.STEPS + 1)
    for light, dark, ink, dark_ink in shades.values():
        assert contrast(light, ink) > 4.5
        assert contrast(dark, dark_ink) > 4.5
    for light, _ in style.COLOURS.values():  # names at the ends of lines
        assert contrast(light, "#ffffff") > 4.5, light


def test_a_chart_holds_its_values_and_gaps():
    line = Line("validation", np.array([1, 2]), np.array([0.123456, np.nan]), "validation",
                each={"seed 3": [0.1, float("inf")]})  # fmt: skip
    told = json.loads(Chart([line], "epoch", percent=True, mark=(2, "best")).json())
    assert told == {
        "lines": [{"name": "validation", "x": [1, 2], "y": [0.12346, None], "colour": "validation",
                   "each": {"seed 3": [0.1, None]}}],
        "x": "epoch", "percent": True, "mark": [2, "best"],
    }  # fmt: skip
