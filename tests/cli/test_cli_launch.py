"""`flaxcnn launch` with children that only end: which exit codes it starts again."""

import os
import signal
import sys

import pytest

from flaxcnn.cli import processes

ABORT = "kill -ABRT $$"
EPOCH = 'echo "{}" >> "$RUN/metrics.jsonl"'


@pytest.fixture
def launched(flaxcnn, home, monkeypatch):
    """(what each start of process 0 does, options) -> (what it ended with, starts)."""
    monkeypatch.setattr(processes, "FIRST_WAIT_SECONDS", 0)
    monkeypatch.setattr(processes, "POLL_SECONDS", 0.01)
    run = home / "launched"
    run.mkdir()

    def launch(*starts, restarts=5, resumed=0):
        (run / "metrics.jsonl").write_text("{}\n" * resumed)
        (home / "starts").write_text("")
        cases = "\n".join(f"{number}) {what} ;;" for number, what in enumerate(starts, start=1))
        child = home / "child"
        child.write_text(
            f"#!/bin/bash\nRUN={run}\necho >> {home}/starts\n"
            f"case $(wc -l < {home}/starts) in\n{cases}\nesac\n"
        )
        child.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(child))
        done = flaxcnn("launch", "--processes", 1, "--max-restarts", restarts, "--", "train",
                       "--run-dir", run)  # fmt: skip
        return done, (home / "starts").read_text().count("\n")

    return launch


@pytest.mark.parametrize("resumed", [0, 3])
@pytest.mark.parametrize("restarts", [0, 5])
def test_an_abort_before_an_epoch_is_not_started_again(launched, resumed, restarts):
    """As of a compiler, which would abort again."""
    done, starts = launched(ABORT, "exit 0", resumed=resumed, restarts=restarts)
    assert (done.code, starts) == (1, 1)
    (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert "exit code 134" in line
    assert "before its first epoch" in line
    assert "restarting" not in done.err


def test_an_exit_code_of_134_is_the_same_as_the_signal(launched):
    done, starts = launched("exit 134", "exit 0")
    assert (done.code, starts) == (1, 1)


def test_an_abort_after_an_epoch_is_started_again(launched):
    done, starts = launched(f"{EPOCH}; {ABORT}", ABORT, "exit 0")
    assert (done.code, starts) == (0, 3)
    assert "exit code 134: restarting from epoch 1" in done.err


def test_aborts_after_an_epoch_are_still_counted(launched):
    done, starts = launched(f"{EPOCH}; {ABORT}", *[ABORT] * 9, restarts=2)
    assert (done.code, starts) == (134, 4)
    assert "no further restart after 3 without a new epoch" in done.err


@pytest.mark.parametrize("code", sorted({*processes.RESUMABLE} - {processes.ABORTED}))
def test_what_was_killed_is_started_again_without_an_epoch(launched, code):
    done, starts = launched(f"exit {code}", "exit 0")
    assert (done.code, starts) == (0, 2)


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5, 6])
def test_what_would_come_again_is_not(launched, code):
    done, starts = launched(f"{EPOCH}; exit {code}", "exit 0")
    assert (done.code, starts) == (code, 1)


def test_signals_are_counted_as_a_shell_does():
    assert 128 + signal.SIGABRT == processes.ABORTED


def test_gpus_are_shared_out_by_their_device_files(monkeypatch, tmp_path):
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia10", "nvidia2", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    monkeypatch.setattr("flaxcnn.hardware.ROOT", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    shared = [processes._environment(i, 2)["CUDA_VISIBLE_DEVICES"] for i in range(2)]
    assert shared == ["0,1", "2,10"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # none, by the user's wish
    assert (
        processes._environment(0, 2)["CUDA_VISIBLE_DEVICES"] == os.environ["CUDA_VISIBLE_DEVICES"]
    )
