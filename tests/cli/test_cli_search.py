"""`flaxcnn search` as a user types it."""

import json
import subprocess
import sys

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
    assert found["incumbent"] == "unchanged"
    assert {row["label"] for row in found["candidates"]} == {
        "unchanged", "learning_rate=0.5, epochs=1", "learning_rate=0.0001, epochs=1"
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
        (["recipes.py:small"], "such as --grid learning_rate=0.1,0.01"),
        (
            ["digits/quickstart", "--grid", "epochs=1", "--folds", "0"],
            "--folds must be at least 2 (got 0)",
        ),
        (["digits/quickstart", "--grid", "learning_rat=1"], "did you mean 'learning_rate'"),
        (
            ["digits/quickstart", "--grid", "epochs=1", "--folds", "1"],
            "--folds must be at least 2 (got 1)",
        ),
        (["digits/quickstart", "--grid", "epochs=1", "--protocol", "fair"], "--protocol must be"),
        (["digits/quickstart", "--grid", "epochs=1", "--how", "vmp"], "did you mean 'vmap'"),
        (["digits/quickstart", "--grid", "epochs=1", "--max-params", "5"], "no candidate is left"),
        (
            ["digits/quickstart", "--grid", "epochs=1", "--resume"],
            "--resume needs the search",
        ),
        (
            ["digits/quickstart", "--grid", "epochs=1", "--trials", "5"],
            "--trials needs --sampler",
        ),
        (["digits/quickstart", "--sampler", "tpe"], "--sampler needs a search space"),
        (["digits/quickstart", "--sampler", "tpr", "--grid", "epochs=1,2"], "did you mean 'tpe'"),
        (["digits/quickstart", "--sampler", "tpe", "--space", "none.toml"], "--space none.toml"),
        (["fashion-budget/grid", "--sampler", "tpe"], "such as fashion-budget/final"),
    ],
)
def test_what_cannot_be_searched(flaxcnn, arguments, message):
    done = flaxcnn("search", *arguments)
    assert done.code == 2, done.err
    assert message in done.err


def test_more_folds_than_rows_of_a_class(flaxcnn):
    done = flaxcnn("search", "digits/quickstart", "--grid", "epochs=1", "--folds", "200")
    assert done.code == 2, done.err
    assert "folds must be at most 139, the rows of class 8 (got 200)" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "name",
    ["fashion-slim/grid", "cifar-tuning/grid-a", "cifar-tuning/grid-b", "mnist-archs/grid-kernel",
     "fashion-budget/grid"],
)  # fmt: skip
def test_documented_grids_have_an_incumbent(name):
    from flaxcnn.recipe import catalog

    layer = search.Layer([], None, None)
    wanted, incumbent = search._candidates(catalog.find(name), {}, layer, sampled=False)
    from flaxcnn.studies.plan import label

    assert incumbent in [label(settings) for settings, _ in wanted]
    assert len(wanted) >= len([c for c in catalog.find(name).candidates if c.config])


def test_a_grid_that_cannot_contain_the_incumbent_says_so(capsys):
    """Document 004's grid gives both dropout layers one rate; its own model has two."""
    from flaxcnn.recipe import catalog

    layer = search.Layer([], None, None)
    wanted, incumbent = search._candidates(
        catalog.find("fashion-budget/grid"), {}, layer, sampled=False
    )
    said = capsys.readouterr().err
    assert "the grid cannot contain fashion-budget/final" in said
    assert "the nearest in layers; it is tried beside them" in said
    assert incumbent == 'incumbent="fashion-budget/final"'
    assert len(wanted) == 25
    search._candidates(catalog.find("mnist-archs/grid-kernel"), {}, layer, sampled=False)
    assert "cannot contain" not in capsys.readouterr().err
    one = catalog.find("digits/quickstart")
    search._candidates(one, {"learning_rate": [0.1]}, layer, sampled=False)
    assert "no combination of --grid is the recipe unchanged" in capsys.readouterr().err
    search._candidates(
        one, {"learning_rate": [0.1, one.config.learning_rate]}, layer, sampled=False
    )
    assert not capsys.readouterr().err


DRAWN = ("--sampler", "tpe", "--trials", "5", "--grid", "learning_rate=0.5,0.1,0.02,0.004",
         "--folds", "3", "-s", "epochs=10")  # fmt: skip


def test_drawn_candidates(flaxcnn, home):
    done = flaxcnn("search", "recipes.py:small", *DRAWN, "--search-dir", "found", "--json")
    assert done.code == 0, done.err
    assert done.json["sampler"] == "tpe"
    assert "trial   4  learning_rate=" in done.err
    assert (home / "found" / "report.html").is_file()


@pytest.mark.slow
def test_processes_share_the_trials(flaxcnn, home):
    """Two at once: no trial twice, one table, and that of the last to end."""
    rates = ",".join(str(0.5 / 2**power) for power in range(16))  # more than there are trials
    trained = ("search", "recipes.py:small", *DRAWN[:4], "--grid", f"learning_rate={rates}",
               *DRAWN[6:], "--pruner", "none", "--search-dir", "found")  # fmt: skip
    first = flaxcnn(*trained, "--trials", "1", "--no-refit")
    assert first.code == 0, first.err
    more = [sys.executable, "-m", "flaxcnn", *trained, "--trials", "12", "--resume"]
    both = [subprocess.Popen(more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for _ in range(2)]  # fmt: skip
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    trials = [int(line.split()[1]) for text in said for line in text.splitlines()
              if line.startswith("trial ")]  # fmt: skip
    assert sorted(trials) == list(range(1, 12))
    found = json.loads((home / "found" / "search.json").read_text())
    assert len(found["candidates"]) + len(found["dropped"]) == 13
    assert any("The winner, " in text for text in said)


@pytest.mark.soak
@pytest.mark.parametrize("way", [("--grid", "learning_rate=0.5,0.1,0.02,0.004", "--folds", "6"),
                                 (*DRAWN[:2], "--trials", "8", *DRAWN[4:])],
                         ids=["grid", "drawn"])  # fmt: skip
def test_killed_five_times_it_ends_the_same(home, killed_at_random, way):
    """SIGKILL at random moments: the table of a search nobody touched, and no run twice."""
    command = [sys.executable, "-m", "flaxcnn", "search", "recipes.py:small", *way,
               "-s", "determinism=exact", "-s", "epochs=40"]  # fmt: skip
    subprocess.run([*command, "--search-dir", "quiet"], check=True, capture_output=True)
    assert killed_at_random(command, "--search-dir", 5) >= 3
    tables = []
    for name in ("quiet", "killed"):
        found = json.loads((home / name / "search.json").read_text())
        tables.append([{**row, "seconds": 0} for row in found["candidates"]])
        rows = [json.loads(line)["run"] for file in (home / name).rglob("runs.jsonl")
                for line in file.read_text().splitlines()]  # fmt: skip
        assert len(set(rows)) == len(rows)
    assert tables[0] == tables[1]
