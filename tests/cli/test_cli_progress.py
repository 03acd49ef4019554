"""What a command is doing: noted by the engine, shown at the foot of a terminal, or as lines."""

import io
import os
import pty
import re
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from flaxcnn import activity
from flaxcnn.cli.progress import Progress, duration, foot, progress, sentence

SAFETY_NET = 300  # seconds after which a child process hangs for certain
COLUMNS = 80


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on when it is told to."""
    now = [100.0]
    monkeypatch.setattr(activity.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    monkeypatch.setattr(activity, "_took", {})


def shown(bar):
    console = Console(file=io.StringIO(), width=COLUMNS, force_terminal=False)
    console.print(foot(bar, console))
    return console.file.getvalue().splitlines()


def test_what_is_compiled_is_told_with_its_seconds(clock):
    with activity.doing("preparing the run"), activity.doing("compiling the training steps"):
        clock(8)
        last = shown(Progress())[-1]
        assert last.endswith("compiling the training steps, 8 s")
    assert activity.under_way() == []


def test_an_epoch_moves_by_what_the_last_one_took(clock):
    """The device does not tell how far it is: the text says that it is an estimate."""
    with activity.doing("epoch 1", images=1000, kind="a") as first:
        clock(10)
        assert (first.share(), sentence(first)) == ((None, False), "epoch 1, 10 s")
    with activity.doing("epoch 2", images=1000, kind="a") as second:
        clock(5)
        assert second.share() == (0.5, True)
        assert sentence(second) == "epoch 2: about 500 of 1,000 images, 100 images/s"
        clock(50)
        assert second.share()[0] < 1
    with activity.doing("epoch 1", images=1000, kind="another program") as other:
        assert other.share() == (None, False)


def test_an_epoch_of_chunks_counts_its_images_and_knows_its_loss(clock):
    with activity.doing("epoch 1", images=1000, kind="a") as epoch, activity.doing("inside"):
        clock(2)
        activity.moved(300, lambda: 0.25)
        activity.moved(300, lambda: 0.125)
        assert sentence(epoch) == "epoch 1: 600 of 1,000 images, 300 images/s, loss 0.1250"
        thread = threading.Thread(target=activity.moved, args=(100, lambda: None))
        thread.start()
        thread.join()
        assert epoch.done == 600  # another thread has epochs of its own


def test_time_left_is_by_the_pace_since_training_began(clock):
    bar = Progress()
    bar.plan(20, "epoch", done=10)
    clock(30)  # compiles, once
    with activity.listening(bar.begun), activity.doing("epoch 11", images=100):
        assert bar.left() is None
        clock(4)
        bar.at(11)
        assert bar.left() == pytest.approx(36)
        clock(3)
        assert bar.left() == pytest.approx(33)
        assert "11 of 20 epochs" in shown(bar)[0]
        assert "about 33 s left" in shown(bar)[0]
    assert max(map(len, shown(bar))) <= COLUMNS


def test_without_a_terminal_each_preparation_is_a_line_once(capsys):
    with progress():
        for what in ("compiling the training steps", "compiling the training steps", "epoch 1"):
            with activity.doing(what):
                pass
    assert capsys.readouterr().out == "compiling the training steps ...\n"
    with progress(as_json=True), activity.doing("measuring how many runs fit side by side"):
        pass
    assert capsys.readouterr() == ("", "measuring how many runs fit side by side ...\n")


def test_the_line_of_an_epoch_fits_the_terminal():
    line = ("epoch   7/20  loss 0.5674  accuracy 0.8152  val_loss 0.1438  val_accuracy 0.9514  "
            "12.20 s  best")  # fmt: skip
    bar = Progress()
    assert bar.fitted(line) == line
    bar.columns = COLUMNS
    assert len(bar.fitted(line)) <= COLUMNS
    assert "val_acc 0.9514" in bar.fitted(line)
    assert bar.fitted(line).endswith("*")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (60, "1 min 0 s")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def on_a_terminal(*arguments):
    """(exit code, all that was drawn, the lines that stay), at 80 columns."""
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": "40"}
    child = subprocess.Popen(
        [sys.executable, "-m", "flaxcnn", *map(str, arguments)],
        stdin=its, stdout=its, stderr=its, env=environment,
    )  # fmt: skip
    os.close(its)
    drawn = b""
    try:
        while part := os.read(ours, 65536):
            drawn += part
    except OSError:  # Linux: the other end is closed
        pass
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.decode())
    return child.wait(SAFETY_NET), text


def test_train_on_a_terminal_says_what_it_does_and_every_epoch():
    code, text = on_a_terminal("train", "recipes.py:small")
    assert code == 0
    for sign in ("reading digits", "starting JAX", "compiling the", "of 2 epochs", "writing the"):
        assert sign in text
    lines = [line.strip() for line in re.split(r"[\r\n]+", text)]
    epochs = [line for line in lines if line.startswith("epoch  ")]
    assert [line[:11] for line in epochs] == ["epoch   1/2", "epoch   2/2"]
    assert max(map(len, epochs)) <= COLUMNS
