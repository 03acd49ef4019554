"""`flaxcnn experiments run`, `table` and `gallery`."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from flaxcnn.cli import experiments

SAFETY_NET = 300  # seconds after which a child process hangs for certain
RECIPES = """
from flaxcnn.recipe.catalog import Experiment
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten
from flaxcnn.recipe.optimizers import SGD

def config(**more):
    return Config(layers=(Flatten(), Dense(10)), optimizer=SGD(), learning_rate=0.1,
                  batch_size=500, **{"dataset": "digits", "epochs": 2, "patience": 3} | more)

small = config()
endless = config(epochs=10**6, patience=None)
lost = config(dataset="npz:nowhere.npz")
EXPERIMENTS = (Experiment("file/named", "named", "", config=small),)
"""
OF_THE_CLOCK = {"seconds", "compile_seconds", "images_per_second", "curves", "environment"}


@pytest.fixture(autouse=True)
def recipes(home, monkeypatch):
    (home / "models.py").write_text(RECIPES)
    monkeypatch.setattr(experiments, "quiet", lambda: None)


def rows(folder):
    found = [json.loads(line) for file in sorted(folder.glob("*/*.jsonl"))
             for line in file.read_text().splitlines()]  # fmt: skip
    return [{k: v for k, v in row.items() if k not in OF_THE_CLOCK}
            | {"curves": {k: v for k, v in row["curves"].items() if k != "seconds"}}
            for row in sorted(found, key=lambda row: row["seed"])]  # fmt: skip


def run(flaxcnn, *arguments):
    return flaxcnn("experiments", "run", *arguments)


def test_run_then_run_again(flaxcnn, home):
    done = run(flaxcnn, "models.py:small", "--seeds", "2", "--results", "rows", "--json")
    assert done.code == 0, done.err
    assert [row[:3] for row in done.json["rows"]] == [
        ["models.py:small", "honest", s] for s in (0, 1)
    ]
    assert (done.json["left"], done.json["failed"]) == ([], [])
    first = rows(home / "rows")
    again = run(flaxcnn, "models.py:small", "--seeds", "2", "--results", "rows")
    assert (again.code, again.out.count("2 done before")) == (0, 1)
    assert rows(home / "rows") == first


def test_one_that_a_file_names(flaxcnn, home):
    done = run(flaxcnn, home / "models.py:file/named", "--results", "rows")
    assert done.code == 0, done.err
    assert [str(p.relative_to(home)) for p in home.glob("rows/*/*")] == [
        "rows/models/file-named.jsonl"
    ]
    assert "1 done before" in run(flaxcnn, home / "models.py:file/named", "--results", "rows").out


def test_a_warning_is_told_once(flaxcnn):
    """Patience 3 in 2 epochs: both seeds have that to say."""
    done = run(flaxcnn, "models.py:small", "--seeds", "2")
    assert done.code == 0
    assert done.err.count("patience") == 1


def test_data_that_is_missing_leaves_the_others(flaxcnn, home):
    done = run(flaxcnn, "models.py:lost", "models.py:small", "--results", "rows", "--json")
    assert done.code == 3
    assert [row[0] for row in done.json["rows"]] == ["models.py:small"]
    (failed,) = done.json["failed"]
    assert failed["task"] == "models.py:lost, honest protocol, seed 0"
    assert "nowhere.npz" in failed["reason"]
    assert len(rows(home / "rows")) == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("mnist-lader",), 2, "did you mean 'mnist-ladder'"),
        (("digits/quickstart", "--hours", "0"), 2, "--hours must be above 0 (got 0)"),
        (("digits/quickstart", "--protocol", "onest"), 2, "did you mean 'honest'"),
        ((), 2, "which ones"),
        (("digits/quickstart", "--results", "."), 2, "is not a results folder"),
        (("digits/quickstart", "--results", "models.py"), 2, "is a file"),
        (("digits/quickstart", "--results", "models.py/below"), 6, "--results: "),
        (("digits/quickstart", "--results", "other"), 2, "in another format"),
    ],
)
def test_bad_input_is_one_line(flaxcnn, home, arguments, code, says):
    (home / "other").mkdir()
    (home / "other" / "about.json").write_text('{"format": 0, "flaxcnn": "0.0.1"}')
    before = sorted(home.rglob("*"))
    done = run(flaxcnn, *arguments)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert says in done.err
    assert sorted(home.rglob("*")) == before


@pytest.mark.slow
def test_hours_end_it_in_time(process, home):
    began = time.monotonic()
    names = ("models.py:endless", "models.py:small")
    done = process("experiments", "run", *names, "--results", "rows", "--json",
                   "--hours", str(12 / 3600))  # fmt: skip
    assert time.monotonic() - began < 60
    assert done.code == 0, done.err
    assert [row[0] for row in done.json["rows"]] == ["models.py:small"]
    (left,) = done.json["left"]
    assert left["task"] == "models.py:endless, honest protocol, seed 0"
    assert left["seconds"] > 60
    assert "time is up; 1 left, about" in done.err
    assert "endless" in done.err


def test_an_hour_that_is_over_leaves_everything(flaxcnn, home):
    done = run(flaxcnn, "models.py:small", "--results", "rows", "--hours", "1e-9", "--json")
    assert done.code == 0
    assert (done.json["rows"], len(done.json["left"])) == ([], 1)
    assert rows(home / "rows") == []


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again(process, home):
    command = ("experiments", "run", "digits/quickstart", "--seeds", "2")
    whole = process(*command, "--results", "whole")
    assert whole.code == 0, whole.err
    queue = home / "runs" / "queue"
    shutil.rmtree(queue)
    child = subprocess.Popen(
        [sys.executable, "-m", "flaxcnn", *command, "--results", "killed"], env=dict(os.environ),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    ends = time.monotonic() + SAFETY_NET
    second = "digits/quickstart/*seed1*"
    while not any(path.name.isdigit() for path in queue.glob(f"{second}/checkpoints/*")):
        assert child.poll() is None, "it ended too soon"
        assert time.monotonic() < ends
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    files = list(queue.glob(f"{second}/metrics.jsonl"))
    (first,) = queue.glob("digits/quickstart/*seed0*/metrics.jsonl")
    seen, kept = first.read_bytes(), files[0].read_bytes().splitlines()[0]
    assert len(rows(home / "killed")) == 1
    again = process(*command, "--results", "killed", "--json")
    assert again.code == 0, again.err
    assert [row[2] for row in again.json["rows"]] == [1]  # the first seed is not trained again
    assert first.read_bytes() == seen
    # The second went on from its checkpoint: its first epoch has the seconds of the killed process.
    epochs = files[0].read_bytes().splitlines()
    assert epochs[0] == kept
    assert [json.loads(line)["epoch"] for line in epochs] == list(range(1, len(epochs) + 1))
    assert rows(home / "killed") == rows(home / "whole")
    assert len({row["params_digest"] for row in rows(home / "killed")}) == 2


# -- table and gallery ---------------------------------------------------------------------------


def test_table_and_gallery_of_a_folder(flaxcnn, home):
    assert run(flaxcnn, "models.py:small", "--results", "rows").code == 0
    done = flaxcnn("experiments", "table", "--results", "rows", "--json")
    assert (done.code, len(done.json["verdicts"])) == (0, 28)
    assert done.json["table"] == str(home / "rows" / "RESULTS.md")
    text = (home / "rows" / "RESULTS.md").read_text()
    assert text.startswith("# Results\n")
    other = flaxcnn("experiments", "table", "--results", "rows", "--output", "mine.md")
    assert other.out == f"table {home / 'mine.md'}\n"
    assert (home / "mine.md").read_text() == text
    pages = flaxcnn("experiments", "gallery", "--results", "rows", "--json")
    assert (pages.code, pages.json) == (0, {"pages": [], "warnings": []})  # no document's row


@pytest.mark.parametrize("command", ["table", "gallery"])
def test_bad_input_of_table_and_gallery(flaxcnn, home, command):
    for folder, says in (("nowhere", "no folder"), (".", "not a results folder")):
        done = flaxcnn("experiments", command, "--results", folder)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert says in done.err
    (home / "rows").mkdir()
    wrong = {"table": home, "gallery": home / "models.py"}[command]
    done = flaxcnn("experiments", command, "--results", "rows", "--output", wrong)
    assert (done.code, done.err.count("\n")) == (2, 1)
