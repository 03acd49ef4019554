"""The page of a search says what its records say."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import made
import numpy as np
import pytest

from flaxcnn.errors import CheckpointError, ConfigError
from flaxcnn.recipe import catalog
from flaxcnn.reports.commands import of_search
from flaxcnn.reports.grids import layout
from flaxcnn.reports.report import make, read, write
from flaxcnn.reports.search import _name, _places
from flaxcnn.studies.candidates import of_grid
from flaxcnn.studies.plan import parse_grid

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    return made.search(tmp_path)


def test_the_page_says_who_won_and_by_how_much(folder):
    target, page = write([folder])
    summary = json.loads((folder / "search.json").read_text())
    best = summary["candidates"][0]
    low, high = 100 * best["low"], 100 * best["high"]
    assert page.text.splitlines()[1].endswith(
        f"{100 * best['mean']:.2f} % 95 % interval {low:.2f} to {high:.2f} %"
    )
    html = target.read_text()
    assert "4 trainings diverged; it cannot win" in html
    assert "9 parameters; allowed are 8" in html
    assert "93.21 %" in html
    assert "<b>" not in html
    assert "wide=&lt;i&gt;" in html
    assert set(page.svgs) >= {"seeds", "grid"}
    assert "flaxcnn reproduce" in html


def test_long_labels_keep_what_tells_them_apart():
    """Cut off, candidates that differ in their last settings would have one name."""
    row = {"label": 'activation="relu", optimizer="Adadelta", dropout_rate=0.2, epochs=30',
           "params": 1, "mean": 0.5, "setting.activation": "relu", "setting.optimizer": "Adadelta",
           "setting.dropout_rate": 0.2, "setting.epochs": 30}  # fmt: skip
    assert _name(row) == "relu, Adadelta, 0.2, 30"
    assert _name({**row, "label": "epochs=30"}) == "epochs=30"


def test_the_recipe_as_it_stands_has_its_place_in_the_grid():
    """It is the twin of a point of the grid, which is not tried twice."""
    base = catalog.find("digits/quickstart").config
    tried = of_grid(base, {"optimizer": ["sgd", "adam"], "layers.0.filters": [32, 8]})
    rows = [{f"setting.{key}": value for key, value in settings.items()} | {"mean": number / 10}
            for number, (settings, config) in enumerate(tried)
            if not settings or config != base]  # fmt: skip
    grid = layout(_places(rows, base.to_dict()))
    np.testing.assert_array_equal(grid.means, [[0.1, 0.2], [0.0, 0.4]])
    elsewhere = layout(_places(rows, {"optimizer": "rmsprop"}))
    np.testing.assert_array_equal(elsewhere.means, [[0.1, 0.2], [np.nan, 0.4]])


def test_another_recipe_has_no_place_in_the_grid():
    """Not even where it has the values of a point that was dropped: its layers may differ."""
    base = catalog.find("digits/quickstart").config
    rows = [{"setting.optimizer": name, "setting.layers.0.filters": filters, "mean": 0.5}
            for name, filters in (("sgd", 32), ("sgd", 8), ("adam", 8))]  # fmt: skip
    rows += [{"setting.incumbent": "digits/other", "mean": 0.9}]
    grid = layout(_places(rows, base.to_dict()))
    np.testing.assert_array_equal(grid.means, [[0.5, 0.5], [np.nan, 0.5]])


def test_no_winner_is_said(folder):
    summary = json.loads((folder / "search.json").read_text())
    summary.update(winner=None, candidates=[summary["candidates"][-1]])
    (folder / "search.json").write_text(json.dumps(summary))
    assert "no winner" in make([read(folder)]).text


def test_a_damaged_search_is_named(folder):
    (folder / "search.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"search\.json: lacks experiment"):
        read(folder)


def test_a_search_stands_alone(folder):
    with pytest.raises(ConfigError, match="shows a search only alone"):
        make([read(folder)] * 2)


# -- the command that does it again --------------------------------------------------------------

KERNELS = ROOT / "experiments" / "results" / "searches" / "mnist-archs" / "grid-kernel" / "honest"


def again(path, plan):
    lines = dict(of_search(path, plan["experiment"], plan, None, refit=False))
    return lines.get("Run it again as a new search:")


def planned(wanted, **more):
    """plan.json as a search writes it."""
    return {
        "experiment": "digits/quickstart", "folds": 5, "repeats": 1, "seeds": [0],
        "document": False, "max_params": None, **more,
        "candidates": [{"settings": settings, "config": config.to_dict()}
                       for settings, config in wanted],
    }  # fmt: skip


def test_a_documented_grid_with_fewer_epochs():
    plan = json.loads((KERNELS / "plan.json").read_text())
    for one in plan["candidates"]:
        one["config"]["epochs"] = 2
    assert again(KERNELS, plan) == "flaxcnn search mnist-archs/grid-kernel -s epochs=2"
    plan["candidates"][2]["config"]["epochs"] = 3  # no one setting does that
    assert again(KERNELS, plan) is None


def test_a_grid_of_ones_own(tmp_path):
    base = catalog.find("digits/quickstart").config
    grid = {"learning_rate": [0.1, 0.01], "optimizer": ["sgd", "adam"]}
    plan = planned(of_grid(base, grid), folds=3, seeds=[0, 1], max_params=50_000, document=True)
    line = again(tmp_path, plan)
    assert line == (
        "flaxcnn search digits/quickstart --grid learning_rate=0.1,0.01 --grid optimizer=sgd,adam "
        "--folds 3 --max-params 50000 --seeds 2 --protocol document"
    )
    words = shlex.split(line)
    assert parse_grid([words[4], words[6]]) == grid
    plan["candidates"].pop()  # one was dropped: the grid does not give these
    assert again(tmp_path, plan) is None


def test_a_drawn_search(tmp_path):
    base = replace(catalog.find("digits/quickstart").config, epochs=3)
    plan = planned([({}, base)], sampler="tpe", trials=7, pruner="none")
    assert again(tmp_path, plan) == (
        "flaxcnn search digits/quickstart -s epochs=3 --sampler tpe --trials 7 --pruner none "
        f"--space {tmp_path / 'space.json'}"
    )


def test_an_experiment_of_a_users_file_has_no_line(tmp_path):
    plan = planned([({}, catalog.find("digits/quickstart").config)], experiment="mine/own")
    assert again(tmp_path, plan) is None
