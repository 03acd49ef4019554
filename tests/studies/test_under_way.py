"""Runs of a study that a signal stops go on where they were, to the same rows."""

import dataclasses
import json
import os
import signal
import time

import pytest

from flaxcnn.engine import resident
from flaxcnn.errors import InterruptedRun
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Dropout, Flatten
from flaxcnn.studies.study import study
from flaxcnn.studies.under_way import FOLDER, STACK

RECIPE = Config(
    dataset="digits", layers=(Flatten(), Dropout(0.2), Dense(10)), learning_rate=0.05,
    batch_size=300, epochs=3,
)  # fmt: skip
TIMES = ("seconds", "compile_seconds", "images_per_second")


def rows(record):
    return sorted(
        ({k: v for k, v in row.items() if k not in TIMES} for row in record.rows),
        key=lambda row: row["seed"],
    )


@pytest.fixture
def signal_at(monkeypatch):
    """Have the study get a signal once so many steps of all its runs are done; 0: never."""

    def plan(step):
        done = 0

        def one(left, *_):
            nonlocal done
            done += 1
            plan.steps += 1
            if done == step:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.5)  # the main thread hears of it when it wakes up
            return 1

        monkeypatch.setattr(resident, "next_steps", one)

    plan.steps = 0  # of all runs since the beginning
    return plan


@pytest.mark.slow
def test_a_stop_loses_no_step(digits, tmp_path, signal_at, monkeypatch):
    quiet = study(RECIPE, [0, 1, 2], study_dir=tmp_path / "quiet", dataset=digits, how="map")
    folder, steps = tmp_path / "stopped", 0
    for ahead in (7, 10):  # in the second epochs of two runs on two devices, or of the first run
        signal_at(ahead)
        with pytest.raises(InterruptedRun, match="those under way are saved"):
            study(RECIPE, [0, 1, 2], study_dir=folder, dataset=digits, how="map",
                  resume=folder.exists())  # fmt: skip
        under_way = list((folder / FOLDER).iterdir())
        assert under_way
        steps += ahead
    assert json.loads((folder / "status.json").read_text())["status"] == "interrupted"
    done = []
    monkeypatch.setattr(resident, "next_steps", lambda *_: done.append(1) or 1)
    found = study(RECIPE, [0, 1, 2], study_dir=folder, dataset=digits, how="map", resume=True)
    assert rows(found) == rows(quiet)
    assert not (folder / FOLDER).exists()
    per_epoch = 5  # 1,294 rows in batches of 300
    assert len(done) <= 3 * RECIPE.epochs * per_epoch - steps, "no step is done twice"


@pytest.mark.slow
def test_runs_side_by_side_lose_no_step_either(digits, tmp_path, signal_at):
    """Five runs in two stacks of three, one of them with a slot to spare; one run ends early."""
    config = dataclasses.replace(RECIPE, patience=1, min_delta=0.02, epochs=6)
    more = {"dataset": digits, "how": "vmap", "max_memory": 2_000_000}
    signal_at(0)
    quiet = study(config, range(5), study_dir=tmp_path / "quiet", **more)
    assert len({row["epochs_run"] for row in quiet.rows}) > 1
    steps, signal_at.steps = signal_at.steps, 0
    folder = tmp_path / "stopped"
    for ahead in (7, 10, 5, 8):
        signal_at(ahead)
        with pytest.raises(InterruptedRun, match="those under way are saved"):
            study(config, range(5), study_dir=folder, resume=folder.exists(), **more)
    signal_at(0)
    found = study(config, range(5), study_dir=folder, resume=True, **more)
    assert rows(found) == rows(quiet)
    assert signal_at.steps == steps, "no step is done twice"
    assert not (folder / FOLDER).exists()


@pytest.mark.slow
@pytest.mark.parametrize("content", ["{", "[[1]]", "[null]"])
def test_a_stack_that_cannot_go_on_begins_anew(digits, tmp_path, signal_at, content):
    more = {"dataset": digits, "how": "vmap", "max_memory": 2_000_000}
    signal_at(0)
    quiet = study(RECIPE, range(5), study_dir=tmp_path / "quiet", **more)
    signal_at(8)
    folder = tmp_path / "stopped"
    with pytest.raises(InterruptedRun):
        study(RECIPE, range(5), study_dir=folder, **more)
    saved = list((folder / FOLDER).glob(f"{STACK}*.json"))
    assert saved
    for record in saved:
        record.write_text(content)
    signal_at(0)
    assert rows(study(RECIPE, range(5), study_dir=folder, resume=True, **more)) == rows(quiet)


def test_what_is_damaged_begins_anew(digits, tmp_path, signal_at, caplog):
    config = dataclasses.replace(RECIPE, epochs=2)
    quiet = study(config, [0], study_dir=tmp_path / "quiet", dataset=digits)
    signal_at(6)
    with pytest.raises(InterruptedRun):
        study(config, [0], study_dir=tmp_path / "stopped", dataset=digits)
    (saved,) = (tmp_path / "stopped" / FOLDER).iterdir()
    for file in saved.rglob("*"):
        if file.is_file() and "progress" in file.parts:
            file.write_bytes(file.read_bytes().replace(b'"epoch"', b'"Epoch"'))
    signal_at(0)
    found = study(config, [0], study_dir=tmp_path / "stopped", dataset=digits, resume=True)
    assert "begins anew" in caplog.text
    assert rows(found) == rows(quiet)
