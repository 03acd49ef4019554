"""The page of a search says what its records say."""

import json

import made
import pytest

from flaxcnn.errors import CheckpointError, ConfigError
from flaxcnn.report.report import make, read, write


@pytest.fixture
def folder(tmp_path):
    return made.search(tmp_path)


def test_the_page_says_who_won_and_by_how_much(folder):
    target, page = write([folder])
    summary = json.loads((folder / "search.json").read_text())
    best = summary["candidates"][0]
    assert (
        page.text.splitlines()[1] == f"{best['mean']:.4f} [{best['low']:.4f}, {best['high']:.4f}]"
    )
    html = target.read_text()
    assert "4 trainings diverged; it cannot win" in html
    assert "9 parameters; allowed are 8" in html
    assert "0.9321" in html
    assert "<b>" not in html
    assert "wide=&lt;i&gt;" in html
    assert set(page.svgs) >= {"seeds", "grid"}
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
