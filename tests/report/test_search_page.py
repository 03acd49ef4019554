"""The page of a search says what its records say."""

import json

import numpy as np
import pytest

from flaxcnn.errors import CheckpointError, ConfigError
from flaxcnn.recipe import catalog
from flaxcnn.report.report import make, read, write
from flaxcnn.studies import ranking

SETTINGS = [{"learning_rate": rate, "epochs": e} for rate in (0.1, 0.01) for e in (5, 10)]


@pytest.fixture
def folder(tmp_path):
    """What a search leaves behind: five candidates on four folds, one of which diverged."""
    random = np.random.default_rng(0)
    found = [ranking.Scored("as it is", {}, 1000)]
    found += [ranking.Scored(f"a <b> {i}", one, 1000 + i) for i, one in enumerate(SETTINGS)]
    for number, one in enumerate(found[:-1]):
        one.scores = {(0, k): [0.9 + 0.01 * number + 0.001 * random.normal()] for k in range(4)}
        one.seconds = [1.0]
    found[-1].diverged = 4
    config = catalog.experiments()["digits/quickstart"].config.to_dict()
    plan = {
        "experiment": "digits/quickstart", "folds": 4, "repeats": 1, "seeds": [0],
        "candidates": [{"label": one.label, "settings": dict(one.settings), "params": one.params,
                        "config": config} for one in found],
        "dropped": [{"label": "wide=<i>", "reason": "9 parameters; allowed are 8"}],
    }  # fmt: skip
    summary = {
        **plan, "protocol": "honest", "planned": 20, "trained": 10,
        **ranking.rank(found, "as it is", 1 / 3), "refit": {"test_accuracy": 0.9321},
    }  # fmt: skip
    env = {"versions": {}, "device": "cpu", "source_revision": "abc"}
    for name, value in (("plan", plan), ("search", summary), ("env", env)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    return tmp_path


def test_the_page_says_who_won_and_by_how_much(folder):
    target, made = write([folder])
    summary = json.loads((folder / "search.json").read_text())
    best = summary["candidates"][0]
    assert (
        made.text.splitlines()[1] == f"{best['mean']:.4f} [{best['low']:.4f}, {best['high']:.4f}]"
    )
    html = target.read_text()
    assert "4 trainings diverged; it cannot win" in html
    assert "9 parameters; allowed are 8" in html
    assert "0.9321" in html
    assert "<b>" not in html
    assert "wide=&lt;i&gt;" in html
    assert set(made.svgs) >= {"seeds", "grid"}
    assert "flaxcnn reproduce" in html


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
    with pytest.raises(ConfigError, match="got a search beside others"):
        make([read(folder)] * 2)
