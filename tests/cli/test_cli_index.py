"""`flaxcnn runs`: everything under a folder is listed, shown and deleted; nothing else is."""

import fcntl
import json
import sys
from pathlib import Path

import pytest

import flaxcnn
from flaxcnn.errors import ConfigError

sys.path.append(str(Path(__file__).parents[1] / "reports"))
import made


@pytest.fixture
def folder(home):
    """A run, a study, a search, a run under way, a damaged one, and what is no record."""
    runs = home / "runs"
    made.run(runs / "deep" / "er" / "one")
    made.study(runs / "seeds", seeds=3)
    made.search(runs / "tried")
    under_way = runs / "under-way"
    under_way.mkdir()
    made.write(under_way, "config.json", made.recipe("epochs=9").to_dict())
    made.write(under_way, "status.json", {"status": "running"})
    made.lines(under_way, "metrics.jsonl", made.history(epochs=3))
    broken = made.study(runs / "broken", seeds=2)
    (broken / "runs.jsonl").write_text("no JSON\n")
    (runs / "notes").mkdir()
    (runs / "notes" / "config.json").write_text("{}")
    return runs


def test_everything_under_a_folder(flaxcnn, folder):
    found = {Path(each["path"]).name: each for each in flaxcnn("runs", "list", "--json").json}
    assert {name: (each["kind"], each["status"]) for name, each in found.items()} == {
        "one": ("run", "complete"), "seeds": ("study", "complete"), "tried": ("search", "complete"),
        "under-way": ("run", "running"), "broken": ("study", "damaged"),
    }  # fmt: skip
    summary = json.loads((folder / "deep/er/one/summary.json").read_text())
    assert found["one"]["accuracy"] == summary["test_accuracy"]
    assert len(found["under-way"]["curve"]) == found["under-way"]["epochs"] == 3
    mean = json.loads((folder / "seeds/study.json").read_text())["settings"][0]["metrics"]
    assert found["seeds"]["accuracy"] == mean["test_accuracy"]["mean"]
    assert [found["seeds"]["low"], found["seeds"]["high"]] == mean["test_accuracy"]["t_interval"]
    assert "line 1 is damaged" in found["broken"]["note"]
    assert flaxcnn("runs").out == flaxcnn("runs", "list", "runs").out


def test_only_some_in_another_order(flaxcnn, folder):
    names = lambda *words: [  # noqa: E731
        Path(each["path"]).name for each in flaxcnn("runs", "list", *words, "--json").json
    ]
    assert names("--kind", "run", "--match", "under") == ["under-way"]
    assert names("--status", "damaged") == ["broken"]
    assert names("--sort", "accuracy")[-1] in ("under-way", "broken")  # without one
    wrong = flaxcnn("runs", "list", "--sort", "acuracy")
    assert wrong.code == 2
    assert "did you mean 'accuracy'" in wrong.err


def test_columns_for_pandas(folder):
    found = flaxcnn.runs(folder)
    table = found.to_dict()
    assert len({len(column) for column in table.values()}) == 1
    assert len(found.where(kind="study")) == 2
    assert found[0].when >= found[-1].when
    with pytest.raises(ConfigError, match="there is no such folder"):
        flaxcnn.runs(folder / "nowhere")


def test_one_in_short(flaxcnn, folder):
    text = flaxcnn("runs", "show", "runs/under-way").out
    assert text.startswith("run of under-way: running\n")
    assert "epochs         3" in text
    done = flaxcnn("runs", "show", "runs/notes")
    assert done.code == 5
    assert "holds no run, study or search" in done.err


def test_away_with_some(flaxcnn, folder):
    asked = flaxcnn("runs", "rm", "runs/seeds")
    assert asked.code == 2
    assert "add --yes" in asked.err
    refused = flaxcnn("runs", "rm", "runs/seeds", "runs/notes", "--yes")
    assert refused.code == 5
    assert (folder / "seeds").is_dir()  # nothing is deleted where one is refused
    done = flaxcnn("runs", "rm", "runs/seeds", "runs/tried", "--yes", "--json")
    assert done.code == 0, done.err
    assert [Path(path).name for path in done.json["deleted"]] == ["seeds", "tried"]
    assert not (folder / "seeds").exists()
    assert (folder / "notes" / "config.json").is_file()


def test_what_is_in_use_stays(flaxcnn, folder):
    status = lambda: flaxcnn("runs", "show", "runs/under-way", "--json").json["status"]  # noqa: E731
    with open(folder / "under-way" / "run.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = flaxcnn("runs", "rm", "runs/under-way", "--yes")
        assert status() == "running"
    assert status() == "stopped"  # nobody holds its lock: the process was killed
    assert done.code == 6
    assert "in use" in done.err
    assert (folder / "under-way").is_dir()
