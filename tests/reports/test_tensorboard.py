"""Event files say what metrics.jsonl says, once, whatever happened to the run."""

import json
import math
import os
import subprocess
import sys
import time

import made
import numpy as np
import pytest
from events import events, files, scalars

import flaxcnn
from flaxcnn.cli.main import main
from flaxcnn.errors import CheckpointError, ConfigError
from flaxcnn.records.read import read
from flaxcnn.reports import tensorboard
from flaxcnn.reports.tensorboard import EventFiles, convert

SAFETY_NET = 300  # seconds after which a child process hangs for certain
TAGS = {"val": "validation", "train": "train"}


def assert_as_recorded(run):
    """Each epoch is there once, in order, with the values of metrics.jsonl."""
    rows = flaxcnn.history(run)
    for prefix, folder in TAGS.items():
        found = scalars(run / "tensorboard" / folder)
        for name in ("loss", "accuracy"):
            told = found[f"epoch_{name}"]
            assert [step for step, _ in told] == [row["epoch"] for row in rows]
            expected = [row[f"{prefix}_{name}"] for row in rows]
            np.testing.assert_allclose([value for _, value in told], expected, rtol=1e-6)


def add_line(run, row):
    with open(run / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row) + "\n")


def grow(run, rows):
    """What `fit` does: a line, then the call."""
    with EventFiles(run) as add:
        for row in rows:
            add_line(run, row)
            add(row)


@pytest.fixture
def young(tmp_path):
    """A run directory before its first epoch."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").touch()
    return run


def test_a_run_has_the_tags_of_keras(run):
    convert(run)
    assert_as_recorded(run)
    train, validation = (scalars(run / "tensorboard" / name) for name in ("train", "validation"))
    assert set(validation) == {"epoch_loss", "epoch_accuracy"}
    assert set(train) == {*validation, "epoch_images_per_second"}


def test_an_epoch_can_be_seen_as_soon_as_it_has_ended(young):
    rows = made.history(3)
    with EventFiles(young) as add:
        for row in rows:
            add_line(young, row)
            add(row)
            assert_as_recorded(young)
    assert events(young / "tensorboard/train")[0].file_version == "brain.Event:2"


def test_epochs_that_are_computed_again_are_there_once(young):
    """A run killed after four epochs, whose last checkpoint was of epoch 2."""
    rows = made.history(6)
    killed = EventFiles(young)
    for row in rows[:4]:
        add_line(young, row)
        killed(row)
    killed.__exit__(KeyboardInterrupt)
    made.lines(young, "metrics.jsonl", rows[:2])  # what `begin` of a resumed run leaves
    grow(young, rows[2:])
    assert_as_recorded(young)
    # A TensorBoard that is open forgets what it has read of the first start
    second = events(young / "tensorboard/validation")[1]
    assert (second.session_log.status, second.step) == (second.session_log.START, 0)


def test_files_of_earlier_starts_are_emptied_and_then_removed(young):
    """An open TensorBoard would stay at a file that vanishes while it reads it."""
    folder, rows, there = young / "tensorboard" / "train", made.history(3), []
    for row in rows:
        grow(young, [row])
        there.append({path.name: path.stat().st_size for path in folder.iterdir()})
    assert [len(sizes) for sizes in there] == [1, 2, 2]
    (first,) = there[0]
    assert there[1][first] == 0
    assert first not in there[2]


def test_starts_within_one_second_have_files_of_their_own(young, monkeypatch):
    """tensorboardX names files by the second: the later one would empty the earlier one."""
    monkeypatch.setattr("time.time", lambda: 1_800_000_000.0)
    folder = young / "tensorboard" / "train"
    with EventFiles(young) as first:
        add_line(young, made.history()[0])
        first(made.history()[0])
        (before,) = files(folder)
        with EventFiles(young):
            pass
        (after,) = files(folder)
        assert before.name != after.name
        assert before.stem == after.stem, "one second, one host, one process"


def test_a_loss_that_is_not_finite_is_told(young):
    row = {**made.history()[0], "train_loss": math.nan, "val_loss": math.inf}
    with EventFiles(young) as add:
        add_line(young, {**row, "train_loss": None, "val_loss": None})
        add(row)
        add_line(young, {**row, "epoch": 2, "train_loss": None, "val_loss": None})
        add({**row, "epoch": 2})
    assert_as_recorded_losses(young, [math.nan, math.nan], [math.nan, math.inf])


def assert_as_recorded_losses(run, train, validation):
    for folder, expected in (("train", train), ("validation", validation)):
        found = [value for _, value in scalars(run / "tensorboard" / folder)["epoch_loss"]]
        np.testing.assert_equal(found, expected)


def test_training_accuracy_after_the_epoch_has_a_folder_of_its_own(young):
    grow(young, [{**made.history()[0], "clean_train_loss": 0.5, "clean_train_accuracy": 0.75}])
    assert scalars(young / "tensorboard/clean_train")["epoch_accuracy"] == [(1, 0.75)]
    assert "epoch_accuracy" in scalars(young / "tensorboard/train")


def test_a_finished_run_taken_up_again_gets_them_too(run):
    with EventFiles(run):
        pass
    assert_as_recorded(run)


def test_a_start_that_fails_writes_nothing(tmp_path):
    with pytest.raises(ConfigError), EventFiles(tmp_path / "run"):
        raise ConfigError("the recipe does not fit")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_written_is_told_once_and_the_run_goes_on(young):
    (young / "tensorboard").write_text("in the way")
    notes = []
    with EventFiles(young, notes.append) as add:
        for row in made.history(3):
            add_line(young, row)
            add(row)
    (note,) = notes
    assert note.startswith("TensorBoard event files end here (")
    assert "tensorboard" in note


def test_each_run_of_a_study_has_a_folder(tmp_path):
    grid = {"learning_rate": [0.1, 0.01], "dataset": ["digits"]}
    study = made.study(tmp_path / "study", seeds=2, grid=grid, diverged={1})
    folder = convert(study)
    found = {str(path.parent.relative_to(folder)) for path in folder.glob("**/validation")}
    assert found == {f"learning_rate={rate}, dataset=_digits_/seed0" for rate in (0.1, 0.01)}
    first = scalars(folder / "learning_rate=0.1, dataset=_digits_/seed0/validation")
    assert [step for step, _ in first["epoch_loss"]] == list(range(1, 7))


def test_settings_that_a_name_cannot_tell_apart_are_not_mixed(study):
    rows = [json.loads(line) for line in (study / "runs.jsonl").read_text().splitlines()]
    for row, name in zip(rows, ("a/b", "a:b"), strict=False):
        row.update(setting={"dataset": name}, seed=0)
    made.lines(study, "runs.jsonl", rows[:2])
    folder = convert(study)
    assert len(list(folder.glob("dataset=_a_b_/seed0*/train"))) == 2


def test_the_command_converts_and_says_where(run, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["report", str(run), "--tensorboard", "--json"])
    assert not ended.value.code
    assert json.loads(capsys.readouterr().out)["tensorboard"] == [str(run / "tensorboard")]
    assert_as_recorded(run)


def test_without_tensorboardx_nothing_is_started(run, monkeypatch, capsys):
    monkeypatch.setattr(tensorboard.importlib.util, "find_spec", lambda name: None)
    before = sorted(run.parent.rglob("*"))
    for words in (["report", str(run)], ["train", "--run-dir", str(run.parent / "new")]):
        with pytest.raises(SystemExit) as ended:
            main([*words, "--tensorboard"])
        assert ended.value.code == 2
        assert capsys.readouterr().err == (
            "error: --tensorboard: needs tensorboardX, which is not installed; "
            "`pip install tensorboardX` does that\n"
        )
    assert sorted(run.parent.rglob("*")) == before


def test_it_is_imported_only_where_it_is_asked_for(run):
    code = (
        "import pathlib, sys, flaxcnn.cli.main, flaxcnn.reports.report as report; "
        f"report.write([pathlib.Path({str(run)!r})]); print('tensorboardX' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.slow
def test_a_run_killed_and_resumed(tmp_path):
    """The command, killed by SIGKILL within an epoch: no epoch is lost, none is there twice."""
    run = tmp_path / "run"
    layers = '[{"type": "flatten"}, {"type": "dense", "units": 10}]'
    words = ["train", "-s", f"layers={layers}", "--run-dir", str(run), "--tensorboard",
             "-s", "save_every=5", "-s", "schedule=constant"]  # fmt: skip

    def start(*more):
        return subprocess.Popen(
            [sys.executable, "-m", "flaxcnn", *words, *more], stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip

    process = start("-s", "epochs=100000")
    ends = time.monotonic() + SAFETY_NET
    while len(recorded := lines_of(run)) < 7:
        assert time.monotonic() < ends
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    before = scalars(run / "tensorboard/train")["epoch_loss"]
    assert len(before) >= len(recorded) - 1, "an epoch can be seen when it has ended"
    total = len(lines_of(run)) + 2
    process = start("-s", f"epochs={total}", "--resume")
    _, said = process.communicate(timeout=SAFETY_NET)
    assert process.returncode == 0, said
    assert len(flaxcnn.history(run)) == total
    assert_as_recorded(run)
    config = json.loads((run / "config.json").read_text())
    assert not [key for key in config if "tensorboard" in key], "no part of the recipe"


def lines_of(run):
    file = run / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


# -- the reader ----------------------------------------------------------------------------------


def test_history_gives_plain_numbers(run):
    rows = flaxcnn.history(str(run))
    assert rows == made.history()
    assert {type(value) for row in rows for value in row.values()} == {int, float, bool}


def test_history_leaves_a_line_that_is_being_written(run):
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"epoch": 7, "train_l')
    assert flaxcnn.history(run) == made.history()


def test_history_has_nan_for_null(run):
    made.lines(run, "metrics.jsonl", [{"epoch": 1, "train_loss": None, "best": False}])
    (row,) = flaxcnn.history(run)
    assert math.isnan(row["train_loss"])
    assert row["best"] is False


def test_history_of_a_study_has_the_seed_of_each_epoch(study):
    record = read(study)
    rows = flaxcnn.history(study)
    assert rows == flaxcnn.history(record)
    settings = [row["setting"] for row in record.rows for _ in record.histories[row["run"]]]
    assert len(rows) == len(settings) > 0
    for row, setting in zip(rows, settings, strict=True):
        assert list(row)[: 1 + len(setting)] == ["seed", *setting]
        assert "run" not in row
    assert {row["seed"] for row in rows} == {row["seed"] for row in record.rows}


def test_history_of_something_else_is_one_clear_error(tmp_path):
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(CheckpointError, match=r"holds no metrics\.jsonl; give a run"):
            flaxcnn.history(path)


def test_history_names_a_damaged_line(run):
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text.replace('{"epoch": 2', '{"epoch"'))
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: line 2 is damaged"):
        flaxcnn.history(run)


def test_history_needs_neither_jax_nor_numpy(run):
    code = (
        f"import sys, flaxcnn; flaxcnn.history({str(run)!r}); "
        "print({'jax', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
