"""The page of several recipes: what differs first, then by how much, and whether it is chance."""

import json

import made
import numpy as np
import pytest
from elements import Elements

from flaxcnn.api.report import compared, write
from flaxcnn.errors import ConfigError
from flaxcnn.records.differing import difference_table, differing, side_labels
from flaxcnn.records.read import read
from flaxcnn.reports.report import make
from flaxcnn.reports.sides import sides_of


def text(page):
    """What a reader of the page sees."""
    return " ".join(Elements(page.html).text.split())


@pytest.fixture
def two(tmp_path):
    """Two studies that differ in their epochs; the second is better by three points."""
    made.study(tmp_path / "short")
    made.study(tmp_path / "long", epochs=9)
    lines = (tmp_path / "long" / "runs.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows = [{**row, "test_accuracy": row["test_accuracy"] - 0.03} for row in rows]
    made.lines(tmp_path / "long", "runs.jsonl", rows)
    return [tmp_path / "short", tmp_path / "long"]


def test_the_difference_is_the_headline_with_the_verdict_of_compare(two):
    found = compared(two)
    page = make([read(path) for path in two], compared=found)
    test = found["comparisons"][0]["comparison"]
    assert test["difference"] == pytest.approx(-0.03)
    low, high = (f"{100 * end:+.2f}" for end in test["interval"])
    assert f"{100 * test['difference']:+.2f} 95 % interval {low} to {high}" in page.text
    words = text(page)
    assert "Worse by more than chance" in words
    assert words.index("Settings that differ") < words.index("All recipes; differences")
    assert {"differences", "seeds", "bands-accuracy", "bands-loss"} <= set(page.svgs)


def test_sides_are_those_of_compare_and_named_by_what_differs(two):
    sides = sides_of([read(path) for path in two])
    found = compared(two)
    assert [side.label for side in sides] == [one["label"] for one in found["sides"]]
    assert [side.label for side in sides] == ["epochs=6", "epochs=9"]
    assert [side.values() for side in sides] == [one["values"] for one in found["sides"]]
    assert found["differing"] == {"epochs": ["6", "9"]}


def test_why_nothing_is_compared_is_said(tmp_path, two):
    run = made.run(tmp_path / "run", config=made.recipe("epochs=5"))
    target, page = write([run, two[0]], tmp_path / "page.html")
    assert target.is_file()
    words = text(page)
    assert "Whether it is more than chance is unknown" in words
    assert "left with 1 of the two or more seeds" in words
    assert "differences" not in page.svgs


def test_classes_are_compared_where_predictions_are_kept(tmp_path):
    one = made.run(tmp_path / "one")
    other = made.run(tmp_path / "other", config=made.recipe("epochs=5"))
    with np.load(one / "predictions.npz") as arrays:
        kept = dict(arrays)
    worse = kept["label"] == 3
    kept["logits"][worse] = 0.0
    kept["logits"][worse, 8] = 9.0
    np.savez_compressed(other / "predictions.npz", **kept)
    page = make([read(one), read(other)])
    assert "3 loses most: -" in text(page)
    assert "classes" in page.svgs


def test_settings_by_layer_and_by_kind():
    conv = {"type": "conv", "filters": 8}
    same = [{"layers": [conv, {"type": "dense", "units": n}], "epochs": 3} for n in (10, 20)]
    assert differing(same) == {"layers.1.units": ["10", "20"]}
    other = [{"layers": [conv, conv]}, {"layers": [conv]}]
    assert differing(other) == {"layers": ["conv x 2", "conv"]}
    assert differing([{"a": 1}, {}]) == {"a": ["1", "-"]}


def test_labels(tmp_path):
    paths = [tmp_path / name for name in "abc"]
    rates = [{"learning_rate": rate, "epochs": e} for rate, e in ((0.1, 3), (0.2, 3), (0.1, 5))]
    everything = ["all"] * 3
    assert side_labels(["x"] * 3, rates, everything, paths) == [
        "learning_rate=0.1, epochs=3", "learning_rate=0.2", "epochs=5",
    ]  # fmt: skip
    assert side_labels(["x", "y", "z"], rates, everything, paths) == ["x", "y", "z"]
    many = [{f"setting{i}": number for i in range(9)} for number in range(3)]
    assert side_labels(["x"] * 3, many, everything, paths) == ["a", "b", "c"]
    twins = side_labels(["x"] * 2, [{}, {}], everything[:2], paths[:2])
    assert twins == [f"x ({tmp_path / name})" for name in "ab"]
    table = difference_table(["one", "two"], {"epochs": ["3", "5"]})
    assert table.lines() == [["recipe", "epochs"], ["one", "3"], ["two", "5"]]


def test_a_page_is_html_or_refused(two, tmp_path):
    with pytest.raises(ConfigError, match=r"--output writes .html or .htm"):
        write(two, tmp_path / "a.pdf")
    assert not (tmp_path / "a.pdf").exists()


def test_an_index_of_everything_under_a_folder(tmp_path):
    run = made.run(tmp_path / "runs" / "deep" / "one")
    made.study(tmp_path / "runs" / "seeds", seeds=3)
    made.search(tmp_path / "runs" / "tried")
    (run / "report.html").write_text("")
    target, page = write([tmp_path / "runs"])
    assert target == tmp_path / "runs" / "report.html"
    assert 'href="deep/one/report.html"' in page.html
    assert page.html.count('class="spark"') == 3
    assert "1 run, 1 study, 1 search" in text(page)
