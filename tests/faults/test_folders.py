"""Locks that lie, folders that go, disks that are full: never a wrong record, always a sentence."""

import errno
import fcntl
import json
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from flaxcnn.data import cache
from flaxcnn.data.datasets import load
from flaxcnn.engine import checkpoint
from flaxcnn.engine.checkpoint import Checkpoints
from flaxcnn.engine.train import fit
from flaxcnn.errors import (
    CheckpointError,
    ConfigError,
    FlaxcnnError,
    FolderInUseError,
    OutOfMemoryError,
    WriteError,
)
from flaxcnn.limits import is_full
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten
from flaxcnn.records import files, lease
from flaxcnn.records.folder import new_plan, new_run
from flaxcnn.records.run import RunDirectory

TINY = Config(dataset="digits", layers=(Flatten(), Dense(10)), epochs=3)


@pytest.fixture
def run(home):
    with RunDirectory(home / "run").open(TINY, resume=False) as run:
        yield run


@pytest.fixture
def soon(monkeypatch):
    """What takes seconds takes tenths."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "QUIET_SECONDS", 1.0)


def again(path):
    return RunDirectory(path).open(TINY, resume=True)


def no_locks(number):
    def flock(*_):
        if number:
            raise OSError(number, os.strerror(number))

    return flock


# -- locks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_or_whose_locks_lie(home, monkeypatch, number):
    """NFS without its lock server, or a lock that each machine keeps to itself."""
    monkeypatch.setattr(fcntl, "flock", no_locks(number))
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with RunDirectory(home / "run").open(TINY, resume=False):
        file = home / "run" / lease.NAME
        held = file.read_bytes()
        about = json.loads(b"{" + held.partition(b"{")[2])
    about |= {"process": other.pid, "started": lease._started(other.pid)}
    file.write_bytes(json.dumps(about).encode())
    with pytest.raises(FolderInUseError, match=f"in use by process {other.pid} on "):
        again(home / "run")
    other.communicate(b"\n")
    again(home / "run").close()  # it has ended


def test_a_number_that_another_process_has_now(home):
    """The holder was killed, and its process number is that of a program that still runs."""
    RunDirectory(home / "run").open(TINY, resume=False).close()
    about = {"process": os.getppid(), "machine": lease._machine(), "started": "1", "token": "x"}
    (home / "run" / lease.NAME).write_text(json.dumps(about))
    again(home / "run").close()


def test_a_holder_on_another_machine_that_is_gone(home, soon, caplog):
    RunDirectory(home / "run").open(TINY, resume=False).close()
    about = {"process": 1, "host": "node7", "machine": "node7/1", "token": "x", "beat": 3}
    (home / "run" / lease.NAME).write_text(json.dumps(about))
    again(home / "run").close()
    assert "whether process 1 on node7 still runs" in caplog.text


def test_a_holder_on_another_machine_that_works(home, soon, monkeypatch):
    """Its count goes up; nobody compares clocks."""
    monkeypatch.setattr(fcntl, "flock", no_locks(0))
    here = lease._machine()
    monkeypatch.setattr(lease, "_machine", lambda: "node7/1")
    with RunDirectory(home / "run").open(TINY, resume=False):
        monkeypatch.setattr(lease, "_machine", lambda: here)
        with pytest.raises(FolderInUseError, match="in use by process"):
            again(home / "run")


def test_one_whose_folder_was_taken_says_so_and_writes_nothing(run, monkeypatch):
    """Both looked at the same time, on a disk without locks: one of them finds out."""
    about = {"process": 7, "host": "node7", "machine": "node7/1", "token": "another"}
    (run.path / lease.NAME).write_text(json.dumps(about))
    before = sorted(run.path.iterdir())
    for write in (lambda: run.add_epoch([{"epoch": 1}]), lambda: run.write_json("x.json", {})):
        with pytest.raises(FolderInUseError, match="in use by process 7 on node7"):
            write()
    run.close()
    assert sorted(run.path.iterdir()) == before
    assert "another" in (run.path / lease.NAME).read_text(), "it is not ours to remove"


@pytest.mark.parametrize("content", [b"", b"process 1 on here\n", b"\xff\x00{", b"{}", b"[1]"])
def test_a_lock_file_of_anything(home, content):
    RunDirectory(home / "run").open(TINY, resume=False).close()
    (home / "run" / lease.NAME).write_bytes(content)
    again(home / "run").close()


# -- folders that go -------------------------------------------------------------------------------


def removed(path):
    shutil.rmtree(path)


def moved(path):
    path.rename(path.with_name("elsewhere"))


def replaced(path):
    moved(path)
    shutil.copytree(path.with_name("elsewhere"), path)


@pytest.mark.parametrize("what", [removed, moved, replaced])
def test_a_folder_that_goes_while_a_run_trains(run, what, caplog):
    run.add_epoch([{"epoch": 1}])
    what(run.path)
    with pytest.raises(WriteError, match=r"is gone|is another one now") as error:
        run.add_epoch([{"epoch": 1}, {"epoch": 2}])
    assert error.value.exit_code == 6
    run.set_status("failed", reason="")  # no error of its own in the place of the first
    assert caplog.records
    run.close()
    assert what is replaced or not run.path.exists(), "nothing is made anew there"


def test_two_starts_in_one_second(home):
    paths = [
        new_run("a/b", 0),
        new_run("a/b", 0),
        new_plan("study", "a/b"),
        new_plan("study", "a/b"),
    ]
    assert len({*paths}) == 4
    assert all(path.is_dir() for path in paths)


def test_a_start_that_fails_leaves_no_folder(home):
    code = "from flaxcnn.records.folder import new_run; new_run('a/b', 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not list((home / "runs").rglob("*"))


# -- full disks ------------------------------------------------------------------------------------


@pytest.fixture
def full(monkeypatch):
    """`full(n)`: the next n writes find no room."""
    monkeypatch.setattr(files, "SPACE_SECONDS", 2.0)
    monkeypatch.setattr(files.time, "sleep", lambda _: None)
    left = [0]
    real = files.os.fsync

    def fsync(handle):
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(files.os, "fsync", fsync)
    yield lambda count: left.__setitem__(0, count)
    files._full_until = None


def test_a_disk_that_is_full_for_a_moment(run, full, caplog):
    full(3)
    run.add_epoch([{"epoch": 1}])
    full(2)
    run.write_json("x.json", {"a": 1})
    assert run.history() == [{"epoch": 1}], "no half lines, and none twice"
    assert [p.name for p in run.path.iterdir() if ".x.json" in p.name] == []
    assert caplog.text.count("the disk is full; waiting 2 s for room") == 2


def test_a_disk_that_stays_full(run, full):
    run.add_epoch([{"epoch": 1}])
    before = sorted(p.name for p in run.path.iterdir())
    full(10**9)
    with pytest.raises(WriteError, match="No space left"):
        run.add_epoch([{"epoch": 1}, {"epoch": 2}])
    with pytest.raises(WriteError, match="No space left"):  # at once: it was waited for
        run.write_json("x.json", {})
    full(0)
    assert run.history() == [{"epoch": 1}]
    assert sorted(p.name for p in run.path.iterdir()) == before


def test_why_a_run_ends_is_more_than_what_cannot_be_noted_of_it(run, full, caplog):
    """A signal or a divergence keeps its exit code where the disk is full."""
    full(10**9)
    assert run.set_status("interrupted", reason="SIGTERM")["status"] == "interrupted"
    assert "No space left" in caplog.text
    with pytest.raises(WriteError, match="No space left"):
        run.set_status("complete")


def test_what_is_not_for_want_of_room_is_not_waited_for(run, monkeypatch):
    def refuse(_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files.os, "fsync", refuse)
    monkeypatch.setattr(files.time, "sleep", lambda _: pytest.fail("it waits"))
    with pytest.raises(WriteError, match="Read-only file system"):
        run.write_json("x.json", {})


@pytest.mark.parametrize(("error", "full"), [
    (OSError(errno.ENOSPC, "No space left on device"), True),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
    (ValueError("RESOURCE_EXHAUSTED: Error writing: [OS error 28: ENOSPC]"), True),
    (RuntimeError("write() failed: No space left on device"), True),
    (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), False),
    (MemoryError("RESOURCE_EXHAUSTED: out of host memory"), False),
    (OSError(errno.EROFS, "Read-only file system"), False),
])  # fmt: skip
def test_memory_that_is_full_is_no_full_disk(error, full):
    assert is_full(error) is full


@pytest.mark.parametrize("late", [False, True])
def test_a_checkpoint_that_finds_no_room_at_first(home, full, monkeypatch, late, caplog):
    """Whether it is said at once, or by the thread that writes it."""
    import jax.numpy as jnp

    failures = [2]

    def failing(real):
        def call(*given, **more):
            if failures[0]:
                failures[0] -= 1
                raise ValueError("RESOURCE_EXHAUSTED: No space left on device")
            return real(*given, **more)

        return call

    state = {"w": jnp.arange(5.0)}
    with Checkpoints(home / "c") as checkpoints:
        name = "wait_until_finished" if late else "save"
        monkeypatch.setattr(
            checkpoints._manager, name, failing(getattr(checkpoints._manager, name))
        )
        checkpoints.save(1, state, {"a": 1}, None)
        (home / "c" / "9.orbax-checkpoint-tmp").mkdir()
        checkpoints.save(2, state, {"a": 2}, None)
    with Checkpoints(home / "c", writes=False) as checkpoints:
        assert checkpoints.epochs()[-1] == 2
        assert checkpoints.restore(2, state)[1]["a"] == 2
    assert "the disk is full" in caplog.text


def test_no_new_thread_is_want_of_memory(home, monkeypatch):
    """A limit on memory looks so."""

    def refuse(*_, **__):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(checkpoint.ocp, "CheckpointManager", refuse)
    with pytest.raises(OutOfMemoryError, match="no new thread can be started"):
        Checkpoints(home / "c")


def test_a_cache_of_data_that_finds_no_room(home):
    """Also where the library that writes it raises what it likes."""
    full = 'Failed to finalize writing of split "train": write() failed: No space left on device'
    with pytest.raises(WriteError, match="set FLAXCNN_DATA_DIR"), cache.construction("x"):
        raise RuntimeError(full)
    assert list(cache.root().glob(".making-*")) == []
    with pytest.raises(RuntimeError, match="something else"), cache.construction("x"):
        raise RuntimeError("something else")


def test_checkpoints_of_another_run_are_not_added_to(home):
    """Said before the first epoch, and not after it."""
    with Checkpoints(home / "c") as checkpoints:
        checkpoints.save(5, {"w": np.zeros(3)}, {}, None)
    with pytest.raises(ConfigError, match="holds checkpoints of another run"):
        fit(TINY, load("digits"), home / "new", checkpoint_dir=home / "c")
    assert not (home / "new" / "metrics.jsonl").exists()


def test_little_room_is_said_before_the_first_epoch(home, monkeypatch):
    import jax.numpy as jnp

    state = {"w": jnp.zeros(10**6)}
    assert checkpoint.room(home, state) is None
    assert checkpoint.room("gs://bucket/run", state) is None
    free = shutil.disk_usage(home)._replace(free=10**6)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: free)
    assert "1.0 MB are free, but checkpoints and records may take 14.0 MB" in checkpoint.room(
        home, state
    )


def test_who_reads_a_run_makes_and_removes_nothing(home, caplog):
    """`checkpoints.json` of somebody else may name any folder."""
    caplog.set_level(logging.ERROR)
    with (
        pytest.raises(FlaxcnnError, match=r"nowhere|cannot be read"),
        Checkpoints(home / "nowhere", writes=False) as none,
    ):
        none.restore(1, {})
    assert not (home / "nowhere").exists()
    with RunDirectory(home / "run").open(TINY, resume=False) as run:
        for text, said in (
            ('{"folder": "up/and/away"}', "folder must be a whole path"),
            ("{}", "lacks folder"), ("[]", "is damaged"), ('{"folder": null}', "lacks folder"),
        ):  # fmt: skip
            (run.path / "checkpoints.json").write_text(text)
            with pytest.raises(CheckpointError, match=said):
                run.checkpoint_folder()
