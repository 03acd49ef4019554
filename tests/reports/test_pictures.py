"""What the pictures show, taken from the drawings themselves; not pixels."""

import re
from xml.etree import ElementTree

import made
import matplotlib.colors
import numpy as np
import pytest

from flaxcnn.records.format import figure, interval_text
from flaxcnn.reports import comparisons, curves, images, matrices, numbers, style
from flaxcnn.reports.architecture import architecture
from flaxcnn.reports.comparisons import Point

HOSTILE = ["<script>alert(1)</script>", "a & b \"c\" 'd'", "$x^2$ _y", "bell\x07\x00", "名前",
           "x" * 200, "", "]]>", "&lt;", "ok"]  # fmt: skip


def axes(picture):
    return picture.figure.axes[0]


def line(picture, name):
    """The line of that name in the legend."""
    return next(one for one in axes(picture).get_lines() if one.get_label().startswith(name))


def texts(picture):
    found = [text.get_text() for ax in picture.figure.axes for text in ax.texts]
    return [text for text in found if text]


# -- curves --------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_learning_curves_show_the_history_and_its_best_epoch(metric):
    history = [{**row, "clean_train_accuracy": 0.9, "clean_train_loss": 0.3}
               for row in made.history(epochs=5, best=4)]  # fmt: skip
    picture = curves.learning(history, metric, 4)
    for name, key in (("training, running", "train"), ("training, after", "clean_train"),
                      ("validation", "val")):  # fmt: skip
        drawn = line(picture, name)
        assert drawn.get_xdata().tolist() == [1, 2, 3, 4, 5]
        assert drawn.get_ydata().tolist() == [row[f"{key}_{metric}"] for row in history]
    star = line(picture, "best epoch, 4")
    assert [*star.get_xdata(), *star.get_ydata()] == [4, history[3][f"val_{metric}"]]
    assert "epoch" in axes(picture).get_xlabel()
    assert "(" in axes(picture).get_ylabel()  # the unit
    first, last = history[0][f"val_{metric}"], history[-1][f"val_{metric}"]
    way = "rises" if last > first else "falls"
    assert f"validation {way} from {first:.4f} to {last:.4f}" in picture.alt
    assert "best epoch is 4" in picture.alt


def test_a_split_has_its_colour_and_its_line_everywhere():
    runs = [made.history(), made.history()]
    one = curves.learning(runs[0], "loss", None)
    many = curves.bands([("", runs)], "accuracy")
    for name, colour, dashes in (("training, running", style.TRAIN, "-"),
                                 ("validation", style.VALIDATION, "--")):  # fmt: skip
        for picture in (one, many):
            assert line(picture, name).get_color() == colour
            assert line(picture, name).get_linestyle() == dashes
    assert len(set(style.COLOURS.values())) == len(style.COLOURS)


def test_an_epoch_without_a_finite_loss_is_a_gap():
    history = made.history(epochs=3, best=1)
    history[1] = {**history[1], "val_loss": None}
    drawn = line(curves.learning(history, "loss", 1), "validation")
    assert np.isnan(drawn.get_ydata()).tolist() == [False, True, False]


def test_one_epoch_is_a_point():
    picture = curves.learning(made.history(epochs=1, best=1), "accuracy", 1)
    assert line(picture, "validation").get_marker() == "o"
    assert "over 1 epoch" in picture.title


def test_bands_reach_from_the_lowest_seed_to_the_highest():
    short, long = made.history(epochs=2), made.history(epochs=3, lift=0.02)
    x, y = curves.spread([short, long, long], "val_accuracy")
    assert x.tolist() == [1, 2, 3]
    assert y[0].tolist() == pytest.approx([0.86, 0.89, 0.94])  # lowest
    assert y[1].tolist() == pytest.approx([0.88, 0.91, 0.94])  # median
    picture = curves.bands([("a", [short, long]), ("b", [long])], "accuracy")
    band = axes(picture).collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(0.86)
    assert line(picture, "a").get_xdata().tolist() == [1, 2, 3]
    assert "2 seeds" in picture.title


def test_an_overlay_has_a_curve_a_run():
    runs = [(f"run {i}", made.history(epochs=2 + i, best=2)) for i in range(10)]
    picture = curves.overlay(runs, "accuracy")
    drawn = [one for one in axes(picture).get_lines() if len(one.get_xdata())]
    assert [len(one.get_xdata()) for one in drawn] == list(range(2, 12))
    looks = {(one.get_color(), one.get_marker()) for one in drawn}
    assert len(looks) == 10
    assert "10 runs" in picture.title
    assert axes(picture).get_legend().get_texts()[-1].get_text() == "and 2 more"


# -- matrices ------------------------------------------------------------------------------------

MATRIX = np.array([[8, 2, 0], [0, 5, 0], [1, 3, 6]])


def test_confusion_matrix_shows_counts_with_the_truth_at_the_side():
    picture = matrices.confusion_matrix(MATRIX, ["a", "b", "c"])
    np.testing.assert_array_equal(axes(picture).images[0].get_array(), MATRIX)
    cells = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in axes(picture).texts}
    assert cells[0, 1] == "2"  # row 0, column 1: true a, called b
    assert cells[2, 0] == "1"
    assert cells[1, 0] == "·"
    assert axes(picture).get_ylabel() == "true class"
    assert [t.get_text() for t in axes(picture).get_yticklabels()] == ["a", "b", "c"]
    assert "19 of 25 test rows" in picture.alt
    assert "c taken for b (3)" in picture.alt


def test_error_matrix_is_normalised_by_row_with_a_blank_diagonal():
    picture = matrices.error_matrix(MATRIX, ["a", "b", "c"])
    drawn = axes(picture).images[0].get_array()
    assert np.ma.getmaskarray(drawn).diagonal().all()
    assert drawn[0, 1] == 0.2
    assert drawn[2].tolist()[:2] == [0.1, 0.3]
    assert "30.0% of class c, taken for b" in picture.alt
    assert "no errors" in matrices.error_matrix(np.diag([2, 3]), ["a", "b"]).alt


def test_many_classes_are_drawn_without_numbers():
    names = [f"class {i}" for i in range(100)]
    picture = matrices.confusion_matrix(np.eye(100, dtype=int), names)
    assert not texts(picture)


def test_reliability_shows_accuracy_and_rows_of_each_bin():
    probability = np.array([[0.95, 0.05]] * 8 + [[0.62, 0.38]] * 4)
    label = np.array([0] * 6 + [1] * 2 + [0] * 4)
    found = numbers.calibration(probability, label)
    picture = matrices.reliability(found)
    heights = [bar.get_height() for bar in picture.figure.axes[0].patches]
    assert heights == [1.0, 0.75]
    rows = [bar.get_height() for bar in picture.figure.axes[1].patches]
    assert rows == [0, 0, 0, 0, 0, 0, 4, 0, 0, 8]
    assert f"{found.ece:.4f}" in picture.title
    assert "of which 75.0% are right and 95.0% would be" in picture.alt


# -- images --------------------------------------------------------------------------------------


def digits(count):
    return made.digits().test.image[:count], made.digits().test.label[:count]


def test_first_predictions_on_a_terminal_mark_errors():
    _, label = digits(100)
    predicted = label.copy()
    predicted[3] = (label[3] + 1) % 10
    plain = images.first_predictions_text(label, predicted, made.digits().classes)
    assert plain.splitlines()[0].split()[3] == f"*{predicted[3]}"
    assert plain.count("*") == 2  # the error, and what the sign means
    assert len(plain.splitlines()) == 11


def test_long_class_names_are_numbers_that_are_explained():
    _, label = digits(10)
    names = [f"some class {i}" for i in range(10)]
    picture = images.first_grid(label, label, names)
    assert texts(picture) == [str(i) for i in label]
    assert "9 is some class 9" in picture.alt


# -- comparisons ---------------------------------------------------------------------------------

POINTS = [Point("small", 0.9, (0.85, 0.95), 1000), Point("large", 0.95, (0.93, 0.97), 50_000)]


def test_accuracy_against_parameters_has_intervals():
    picture = comparisons.against_parameters(POINTS)
    drawn = axes(picture).containers
    assert [c.lines[0].get_xdata()[0] for c in drawn] == [1000, 50_000]
    ends = [c.lines[2][0].get_segments()[0][:, 1].tolist() for c in drawn]
    assert ends == [pytest.approx([0.85, 0.95]), pytest.approx([0.93, 0.97])]
    assert axes(picture).get_xscale() == "log"
    assert "large 0.9500 [0.9300, 0.9700] with 50,000 parameters" in picture.alt


def test_every_seed_is_a_point_beside_mean_and_interval():
    values = {0: 0.9, 1: 0.92, 2: 0.92}
    picture = comparisons.seed_distribution([(Point("", 0.9133, (0.88, 0.94)), values)])
    points = axes(picture).get_lines()[0]
    assert points.get_xdata().tolist() == [0.9, 0.92, 0.92]
    assert len(set(points.get_ydata())) == 2  # equal values do not hide each other
    bar = axes(picture).containers[0]
    assert bar.lines[2][0].get_segments()[0][:, 0].tolist() == pytest.approx([0.88, 0.94])
    assert "3 seeds, from 0.9000 to 0.9200" in picture.alt


def test_no_accuracy_is_shown_beyond_one():
    """Student's interval of few seeds is wider than what an accuracy can be."""
    point = Point("one", 0.7224, (0.408, 1.037))
    assert point.interval == (0.408, 1.0)
    assert "1.0370" not in point.described()
    assert figure(0.7224, 0.38, (0.408, 1.037)) == "0.7224 ± 0.3800 [0.4080, 1.0000]"
    assert interval_text((-0.02, 0.01)) == "[-0.0200, 0.0100]", "a difference may be negative"


def test_an_unknown_interval_and_a_single_seed_are_drawn_without_one():
    picture = comparisons.seed_distribution([(Point("one", 0.9, None), {3: 0.9})])
    assert "[" not in picture.alt


def test_heat_map_has_a_number_a_setting():
    values = np.array([[0.9, 0.95], [np.nan, 0.8]])
    picture = comparisons.heat_map(("rate", ["1", "2"]), ("size", ["3", "4"]), values)
    assert texts(picture) == ["0.9000", "0.9500", "none", "0.8000"]
    assert "Highest 0.9500 at rate=1, size=4; lowest 0.8000" in picture.alt


def test_throughput_bars_start_at_zero():
    picture = comparisons.throughput([("a", 1000.0), ("b", 2500.0)])
    bars = axes(picture).patches
    assert [(bar.get_x(), bar.get_width()) for bar in bars] == [(0, 1000.0), (0, 2500.0)]
    assert "images per second" in axes(picture).get_xlabel()


def test_architecture_has_shape_and_parameters_of_every_layer():
    rows = made.recipe().table((8, 8, 1), 10)
    found = texts(architecture(rows))
    for row in rows:
        assert row.name in found
        assert "×".join(map(str, row.output)) in found
        assert f"{row.params:,}" in found or row.params == 0
    assert "38,826 parameters" in architecture(rows).title


# -- SVG -----------------------------------------------------------------------------------------


def hostile_pictures():
    image, label = digits(10)
    matrix = np.arange(100).reshape(10, 10)
    points = [Point(name, 0.9, (0.8, 1.0), 10 + i) for i, name in enumerate(HOSTILE)]
    yield matrices.confusion_matrix(matrix, HOSTILE)
    yield matrices.error_matrix(matrix, HOSTILE)
    yield images.first_grid(label, (label + 1) % 10, HOSTILE)
    yield images.variants(image, image[None], label, None, HOSTILE)
    yield comparisons.against_parameters(points)
    yield comparisons.seed_distribution([(point, {0: 0.9}) for point in points])
    yield comparisons.throughput([(name, 1.0) for name in HOSTILE])
    yield comparisons.heat_map(("<k>", HOSTILE), ("&", HOSTILE), matrix / 100)
    yield curves.overlay([(name, made.history()) for name in HOSTILE], "loss")
    yield curves.bands([(name, [made.history()]) for name in HOSTILE], "loss")


@pytest.mark.filterwarnings("ignore:Glyph")
def test_any_name_is_text_in_well_formed_svg():
    for picture in hostile_pictures():
        text = style.svg(picture)
        ElementTree.fromstring(text)
        body = style.inline(picture, text)
        assert "<script" not in body
        assert picture.alt
        assert picture.title


def test_equal_data_give_equal_bytes_with_text_as_text():
    first, again = (style.svg(matrices.confusion_matrix(MATRIX, ["a", "b", "c"])) for _ in "12")
    assert first == again
    assert ">true class</text>" in first
    assert not re.search(r"<dc:date|Matplotlib v", first)


def test_inline_svg_takes_the_colours_of_the_page():
    picture = curves.learning(made.history(), "accuracy", 4)
    body = style.inline(picture, style.svg(picture))
    assert body.startswith("<svg")
    assert "currentColor" in body
    assert "var(--validation)" in body
    assert not re.search(r"#[0-9a-f]{6}\b", body.replace("url(#", "")), "a colour of its own"
    ids = re.findall(r' id="([^"]+)"', body)
    assert len(ids) == len(set(ids))
    assert all(one.startswith("learning-accuracy-") for one in ids)
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', body)
    assert set(used) <= set(ids)


def luminance(colour):
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.03928, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_seen_on_paper_and_on_black():
    assert contrast(style.INK, "white") > 4.5
    assert contrast(style.INK, "black") > 4.5
    for light, dark in style.COLOURS.values():
        assert contrast(light, "white") > 3, light
        assert contrast(light, "black") > 3, light  # an SVG file of its own, in dark mode
        assert contrast(dark, "#14171a") > 4.5, dark


@pytest.mark.parametrize(("ink", "paper"), [("#1b1f23", "#ffffff"), ("#e8eaed", "#14171a")])
def test_numbers_in_shaded_cells_are_legible(ink, paper):
    """Text has 4.5 to any shade of the cells, in both modes (the page's ink and paper)."""
    under = np.array(matplotlib.colors.to_rgb(paper))
    for share in np.linspace(0, 1, 11):
        *rgb, alpha = style.SHADES(share)
        assert contrast(ink, tuple(alpha * np.array(rgb) + (1 - alpha) * under)) > 4.5, share
