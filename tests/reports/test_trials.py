"""Pictures of a search: settings on axes, what mattered, the order in which recipes were tried."""

import doctest
import itertools

import made
import numpy as np
import pytest
from elements import Elements

from flaxcnn.records.read import read
from flaxcnn.reports import trials
from flaxcnn.reports.report import make
from flaxcnn.reports.search import search_page
from flaxcnn.reports.trials import Trial, importance, main_effects, scale


def test_what_the_docstrings_show():
    assert doctest.testmod(trials).failed == 0


def test_axes_of_settings():
    rates = scale("learning_rate", [1e-4, 1e-1, 1e-2])  # three decades: by the logarithm
    np.testing.assert_allclose(rates.places, [0, 1, 2 / 3])
    np.testing.assert_allclose(scale("batch_size", [32, 96, 64]).places, [0, 1, 0.5])
    kinds = scale("optimizer", ["sgd", "adam", None])
    assert [text for _, text in kinds.ticks] == ["sgd", "adam", "null"]
    assert scale("epochs", [5, 5]).places == [0.5, 0.5]


def test_labels_of_a_narrow_axis_do_not_touch():
    """The least and the largest are kept, and of the others those that there is room for."""
    for texts in (["0.0001", "0.001", "0.01", "0.1"], ["adam", "momentum", "nadam"] * 3):
        ticks = [(n / (len(texts) - 1), text) for n, text in enumerate(texts)]
        for room in (1.4, 1.7, 6.0):
            found = trials.apart(ticks, room)
            assert [found[0][0], found[-1][0]] == [0.0, 1.0]
            for (left, one), (right, other) in itertools.pairwise(found):
                assert (right - left) * room > 0.06 * (len(one) + len(other)) / 2
    assert trials.apart(ticks, 40.0) == ticks
    close = [(0.0, "0.001"), (0.05, "0.002"), (1.0, "0.1")]
    assert trials.apart(close, 1.5) == [close[0], close[2]]


def test_main_effects_by_hand():
    """Scores are a + b: of their variance, what each setting does alone adds up to all."""
    effect = {0.1: 0.0, 0.2: 0.04}, {32: 0.0, 64: 0.01}
    found = main_effects([
        Trial(1, {"rate": rate, "size": size}, effect[0][rate] + effect[1][size])
        for rate in effect[0] for size in effect[1]
    ])  # fmt: skip
    # Variances of two equally likely values: (0.04 / 2)^2 and (0.01 / 2)^2
    assert found == {"rate": pytest.approx(16 / 17), "size": pytest.approx(1 / 17)}
    assert main_effects([Trial(1, {"rate": 1}, 0.5), Trial(2, {"rate": 2}, 0.5)]) == {}
    alone = [Trial(n, {"rate": n}, n / 10) for n in range(1, 5)]
    assert main_effects(alone) == {}  # each value once would explain everything


def test_importances_are_said_with_where_they_come_from():
    picture = importance({"rate": 0.75, "size": 0.25}, "Importances by Optuna")
    assert picture.alt == "rate 75%, size 25%; Importances by Optuna."


def test_the_page_of_a_search_has_settings_in_columns(tmp_path):
    page = make([read(made.search(tmp_path))])
    assert {"parallel", "importance", "slices", "grid", "seeds"} <= set(page.svgs)
    assert "history" not in page.svgs  # a grid has no order
    shown = " ".join(Elements(page.html).text.split())
    assert "rank" in shown
    assert "learning_rate" in shown
    best = read(tmp_path).summary["candidates"][0]
    cells = [cell for cell in Elements(page.html).text.split("\n") if cell.strip()]
    assert f"{best['setting.learning_rate']:.4g}" in " ".join(cells)


def test_what_all_candidates_share_is_said_once(tmp_path):
    """Beside each other stand pictures of like height; equal numbers have no column."""
    found = read(made.search(tmp_path))
    for row in found.summary["candidates"]:
        row |= {"folds": 5, "params": 1000}
    page = search_page(found)
    section = next(section for section in page.sections if section.name == "candidates")
    assert not {"folds", "parameters"} & set(section.tables[0].header)
    assert "all: 1,000 parameters, 5 folds" in section.tables[0].caption
    heights = [picture.figure.get_size_inches()[1] for picture in section.pictures]
    beside = [abs(a - b) for a, b in zip(heights[::2], heights[1::2], strict=False)]
    assert beside[0] == min(abs(heights[0] - other) for other in heights[1:])


def test_drawn_recipes_are_shown_in_the_order_they_were_drawn(tmp_path):
    path = made.search(tmp_path)
    found = read(path)
    for part, name in ((found.plan, "plan"), (found.summary, "search")):
        part |= {"sampler": "tpe", "pruner": "none", "trials": 4, "space": {}}
        made.write(path, f"{name}.json", part)
    made.write(path, "search.json", found.summary | {"importance": {"learning_rate": 1.0}})
    page = make([read(path)])
    assert {"history", "parallel", "importance"} <= set(page.svgs)
    assert "grid" not in page.svgs
    assert "Importances by Optuna" in Elements(page.html).text
