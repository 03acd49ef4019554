"""Run directories: files whole or not at all, one run at a time, nothing of others touched."""

import dataclasses
import json
import math
import multiprocessing
import os
import threading

import pytest
from small_runs import TINY

from flaxcnn.errors import CheckpointError, ConfigError, WriteError
from flaxcnn.recipe.optimizers import Cosine
from flaxcnn.records import environment as record
from flaxcnn.records import files
from flaxcnn.records.environment import environment, versions
from flaxcnn.records.files import flat, plain, write_atomic
from flaxcnn.records.run import RunDirectory, check_same
from flaxcnn.studies.reproduce import _changed as changed

as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


def add_all(run, lines):
    done = []
    for each in lines:
        done.append(each)
        run.add_epoch(done)


def line(epoch, **more):
    return {"epoch": epoch, "train_loss": 0.5, "best": True, **more}


@pytest.fixture
def run(tmp_path):
    with RunDirectory(tmp_path / "run").open(TINY, resume=False) as run:
        yield run


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# -- opening -------------------------------------------------------------------------------------


def test_a_new_run_may_be_in_an_empty_folder(tmp_path):
    (tmp_path / "run").mkdir()
    with RunDirectory(tmp_path / "run").open(TINY, resume=False) as run:
        assert run.config() == TINY


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for resume in (False, True):
        with pytest.raises(ConfigError, match=r"holds thesis\.tex but no run; use a new"):
            RunDirectory(tmp_path).open(TINY, resume)
    assert list(content(tmp_path).values()) == [b"years of work"]


def test_a_run_is_not_overwritten_without_resume(run):
    run.close()
    before = content(run.path)
    with pytest.raises(ConfigError, match="holds a run already; add --resume"):
        RunDirectory(run.path).open(TINY, resume=False)
    assert content(run.path) == before


def test_a_start_that_was_killed_at_once_is_no_obstacle(tmp_path):
    (tmp_path / ".config.json.k1ll3d").write_text("{")
    (tmp_path / "run.lock").write_text("process 1 on here\n")
    RunDirectory(tmp_path).open(TINY, resume=False).close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seed": 1}, r"recipe: seed \(seed was 0, now 1\)"),
        ({"learning_rate": 0.1, "batch_size": 7}, r"recipe: learning_rate, batch_size \("),
        ({"layers": TINY.layers[:2] + TINY.layers[2:3] + TINY.layers[4:]}, "recipe: layers"),
        ({"schedule": Cosine()}, "recipe: schedule"),
    ],
)
def test_another_recipe_is_refused_by_the_fields_that_differ(run, change, says):
    run.close()
    with pytest.raises(ConfigError, match=says):
        RunDirectory(run.path).open(dataclasses.replace(TINY, **change), resume=True)
    assert run.config() == TINY


def test_a_run_may_be_made_longer_unless_its_schedule_spans_the_epochs(tmp_path):
    for name, schedule in (("constant", TINY.schedule), ("cosine", Cosine())):
        config = dataclasses.replace(TINY, schedule=schedule)
        RunDirectory(tmp_path / name).open(config, resume=False).close()
    longer = dataclasses.replace(TINY, epochs=9, save_every=2)
    with RunDirectory(tmp_path / "constant").open(longer, resume=True) as run:
        assert run.config() == longer
    with pytest.raises(ConfigError, match="recipe: epochs"):
        RunDirectory(tmp_path / "cosine").open(
            dataclasses.replace(TINY, schedule=Cosine(), epochs=9), resume=True
        )


@pytest.mark.parametrize(
    "change",
    [
        {"data_memory": 10**9}, {"input": "stream"}, {"workers": 3}, {"parallel": "jit"},
        {"remat": True}, {"save_every": 5}, {"shard_optimizer": True},
    ],
    ids=str,
)  # fmt: skip
def test_how_a_run_is_computed_may_change_on_resume(run, change):
    run.close()
    other = dataclasses.replace(TINY, **change)
    with RunDirectory(run.path).open(other, resume=True) as again:
        assert again.config() == other


def test_a_record_without_newer_fields_can_be_resumed():
    old = TINY.to_dict()
    for name in ("remat", "parallel", "resize", "data_memory"):
        del old[name]
    check_same("checkpoint", old, TINY.to_dict())


def test_a_run_cannot_be_made_shorter_than_it_is(run):
    add_all(run, map(line, (1, 2, 3)))
    run.close()
    with pytest.raises(ConfigError, match=r"epochs must be at least 3, .* has already \(got 2\)"):
        RunDirectory(run.path).open(dataclasses.replace(TINY, epochs=2), resume=True)
    assert run.config() == TINY


def test_damaged_records_are_named(run):
    run.close()
    (run.path / "env.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"env\.json: is damaged"):
        run.read_json("env.json")
    (run.path / "digests.json").unlink(missing_ok=True)
    (run.path / "data.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"data\.json: lacks digest"):
        RunDirectory(run.path).open(TINY, resume=True, data_digest="0" * 64)
    (run.path / "config.json").write_text('{"dataset": ')
    with pytest.raises(CheckpointError, match=r"config\.json: is damaged"):
        RunDirectory(run.path).open(TINY, resume=True)
    with pytest.raises(CheckpointError, match=r"summary\.json: No such file"):
        run.read_json("summary.json")


# -- the lock ------------------------------------------------------------------------------------


def hold(path, ready, done):
    with RunDirectory(path).open(TINY, resume=True):
        ready.set()
        done.wait()


def test_a_second_run_is_refused_and_the_first_one_named(run):
    for resume in (False, True):
        with pytest.raises(WriteError, match=rf"in use by process {os.getpid()} on ") as error:
            RunDirectory(run.path).open(TINY, resume)
        assert error.value.exit_code == 6


def test_a_lock_dies_with_its_process(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    ready, done = spawn.Event(), spawn.Event()
    RunDirectory(tmp_path / "run").open(TINY, resume=False).close()
    other = spawn.Process(target=hold, args=(tmp_path / "run", ready, done))
    other.start()
    assert ready.wait(120)
    with pytest.raises(WriteError, match=rf"in use by process {other.pid} on "):
        RunDirectory(tmp_path / "run").open(TINY, resume=True)
    other.kill()
    other.join()
    assert f"process {other.pid} " in (tmp_path / "run" / "run.lock").read_text()
    RunDirectory(tmp_path / "run").open(TINY, resume=True).close()


# -- where nothing can be written ----------------------------------------------------------------


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(WriteError, match=str(path)) as error:
            RunDirectory(path).open(TINY, resume=False)
        assert error.value.exit_code == 6


@as_root
def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(WriteError, match="Permission denied"):
        RunDirectory(tmp_path / "locked" / "run").open(TINY, resume=False)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_atomic(path, b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(files, "SPACE_SECONDS", 0.1)
    with pytest.raises(WriteError, match=r"summary\.json: cannot be written \(No space left"):
        write_atomic(path, b"new")
    assert content(tmp_path) == {path.relative_to(tmp_path): b"old"}


def test_what_a_killed_process_left_half_written_goes(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.open(TINY, resume=False).close()
    left, own = run.path / ".history.csv.n6zvyi_a", run.path / ".hidden.csv"
    for path in (left, own):
        path.write_bytes(b"half")
    run.open(TINY, resume=True).close()
    assert not left.exists()
    assert own.exists()


def test_a_reader_sees_the_old_file_or_the_new_one(tmp_path):
    path, stop, seen = tmp_path / "file", threading.Event(), set()
    path.write_bytes(b"a" * 100_000)

    def read():
        while not stop.is_set():
            data = path.read_bytes()
            seen.add((len(data), len(set(data))))

    reader = threading.Thread(target=read)
    reader.start()
    for letter in b"bcdefghij":
        write_atomic(path, bytes([letter]) * 100_000)
    stop.set()
    reader.join()
    assert seen == {(100_000, 1)}


# -- records -------------------------------------------------------------------------------------


def test_what_is_not_finite_becomes_null():
    value = {"a": [math.nan, math.inf, 1.0], "b": (-math.inf, "NaN"), "c": {"d": math.nan}}
    assert plain(value) == {"a": [None, None, 1.0], "b": [None, "NaN"], "c": {"d": None}}


def test_nested_dictionaries_are_laid_out():
    nested = {"a": 1, "b": {"c": [2], "d": {"e": None}}, "f": {}}
    assert flat(nested) == {"a": 1, "b.c": [2], "b.d.e": None}


def test_a_torn_last_line_does_not_count(run):
    lines = [plain(line(epoch, val_loss=math.nan)) for epoch in (1, 2)]
    add_all(run, lines)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "train_l')
    assert run.history() == [line(1, val_loss=None), line(2, val_loss=None)]
    run.begin(lines)
    run.add_epoch([*lines, line(3)])
    assert [row["epoch"] for row in run.history()] == [1, 2, 3]
    table = (run.path / "history.csv").read_text().splitlines()
    assert table[0] == "epoch,train_loss,best,val_loss"
    assert table[1] == "1,0.5,True,"


def test_epochs_that_will_be_computed_again_are_dropped(run):
    add_all(run, map(line, (1, 2, 3)))
    run.begin([line(1)])
    assert run.history() == [line(1)]
    run.begin([])
    assert run.history() == []


def test_the_environment_is_plain_json():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["versions"] == versions()
    assert found["backend"] == "cpu"
    assert {"jax", "jaxlib", "flax", "python", "flaxcnn"} <= set(found["versions"])


def test_a_package_that_is_missing_is_left_out(monkeypatch):
    monkeypatch.setattr(record, "PACKAGES", ("jax", "no-such-package"))
    assert list(versions()) == ["python", "flaxcnn", "jax"]


def test_what_decides_nothing_is_no_change():
    """A verdict on numerics is told; other bits have other causes."""
    now = environment()
    assert changed({**now, "numerics": {"passed": [], "failed": ["sort"], "not run": []}}) == []
    assert changed({**now, "versions": {**now["versions"], "jax": "0.9"}}) == [
        f"versions.jax: then 0.9, now {now['versions']['jax']}"
    ]
    assert changed({**now, "accelerator": {"libtpu": "0.0.1"}}) == [
        "accelerator.libtpu: then 0.0.1, now None"
    ]
