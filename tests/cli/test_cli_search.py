"""`flaxcnn search` as a user types it."""

import json

import pytest

from flaxcnn.cli import search


@pytest.fixture(autouse=True)
def loud(monkeypatch):
    monkeypatch.setattr(search, "quiet", lambda: None)


def test_a_search_says_what_it_found(flaxcnn, home):
    done = flaxcnn("search", "recipes.py:small", "--grid", "learning_rate=0.5,0.0001", "--grid",
                   "epochs=1", "--folds", "2", "--search-dir", "found", "--json")  # fmt: skip
    assert done.code == 0, done.err
    found = done.json
    assert found["incumbent"] == "as it is"
    assert {row["label"] for row in found["candidates"]} == {
        "as it is", "learning_rate=0.5, epochs=1", "learning_rate=0.0001, epochs=1"
    }  # fmt: skip
    assert found["planned"] == 6
    assert 0.5 < found["refit"]["test_accuracy"] <= 1
    assert "run   6/6" in done.err
    written = json.loads((home / "found" / "search.json").read_text())
    assert written["candidates"] == found["candidates"]
    again = flaxcnn("search", "recipes.py:small", "--grid", "learning_rate=0.5,0.0001", "--grid",
                    "epochs=1", "--folds", "2", "--search-dir", "found", "--resume")  # fmt: skip
    assert again.code == 0, again.err
    assert "\nrun " not in again.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["recipes.py:small"], "--grid: "),
        (["digits/quickstart", "--grid", "epochs=1", "--folds", "0"], "--folds: got 0"),
        (["digits/quickstart", "--grid", "learning_rat=1"], "did you mean 'learning_rate'"),
        (["digits/quickstart", "--grid", "epochs=1", "--protocol", "fair"], "--protocol: got"),
        (["digits/quickstart", "--grid", "epochs=1", "--how", "vmp"], "did you mean 'vmap'"),
        (["digits/quickstart", "--grid", "epochs=1", "--max-params", "5"], "no candidate is left"),
        (["digits/quickstart", "--grid", "epochs=1", "--resume"], "which search?"),
    ],
)
def test_what_cannot_be_searched(flaxcnn, arguments, message):
    done = flaxcnn("search", *arguments)
    assert done.code == 2, done.err
    assert message in done.err


@pytest.mark.parametrize(
    "name",
    ["fashion-slim/grid", "cifar-tuning/grid-a", "cifar-tuning/grid-b", "mnist-archs/grid-kernel",
     "fashion-budget/grid"],
)  # fmt: skip
def test_documented_grids_have_an_incumbent(name):
    from flaxcnn.recipe import catalog

    layer = search.Layer([], None, None)
    wanted, incumbent = search._wanted(catalog.find(name), {}, layer)
    from flaxcnn.studies.plan import label

    assert incumbent in [label(settings) for settings, _ in wanted]
    assert len(wanted) >= len([c for c in catalog.find(name).candidates if c.config])
