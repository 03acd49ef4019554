"""XLA's messages on cached programs reach nobody; everything else on stderr does, at once."""

import os
import subprocess
import sys

import pytest

from flaxcnn import xla_messages

SAFETY_NET = 300  # seconds after which a child process hangs for certain
TRAIN = """
{first}
import flaxcnn
from flaxcnn.recipe.layers import Dense, Flatten

recipe = flaxcnn.Config(dataset="digits", layers=(Flatten(), Dense(10)), epochs=1)
run = flaxcnn.train(recipe, verbose=False)
flaxcnn.load(run.path)
"""
NOISY = b"E1130 04:51:25.593787   27114 cpu_aot_loader.cc:195] Loading XLA:CPU AOT result.\n"


@pytest.fixture
def stderr(capfd):
    """What file descriptor 2 of this process got since the last look."""
    return lambda: capfd.readouterr().err.encode()


@pytest.fixture
def speaking(monkeypatch):
    """As after `import jax; import flaxcnn`."""
    monkeypatch.setattr(xla_messages, "_speaks", True)


@pytest.mark.slow
def test_a_second_run_in_a_new_process_says_nothing(tmp_path):
    """The second one, since it loads what the first has compiled and kept."""
    unset = {"TF_CPP_MIN_LOG_LEVEL", "FLAXCNN_DEBUG"}
    clean = {key: value for key, value in os.environ.items() if key not in unset}
    for first in ("", "", "import jax"):
        done = subprocess.run(
            [sys.executable, "-c", TRAIN.format(first=first)], cwd=tmp_path, check=False,
            env={**clean, "FLAXCNN_CACHE_DIR": str(tmp_path / "cache")}, capture_output=True,
            text=True, timeout=SAFETY_NET,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
    assert list((tmp_path / "cache" / "compiled").rglob("*train_part*"))


def test_other_lines_pass_in_order_and_those_of_xla_do_not(stderr, speaking):
    with xla_messages.hushed():
        os.write(2, b"one\n" + NOISY + b"two\nE1130 an error of XLA that counts\n")
        os.write(2, NOISY[:30])
        os.write(2, NOISY[30:])
        os.write(2, b"a question? ")
    assert stderr() == b"one\ntwo\nE1130 an error of XLA that counts\na question? "
    os.write(2, NOISY)  # outside nothing is filtered
    assert stderr() == NOISY


def test_blocks_nest_and_a_child_that_holds_stderr_does_not_block_the_end(stderr, speaking):
    with xla_messages.hushed(), xla_messages.hushed():
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        os.write(2, b"inside\n" + NOISY)
    assert stderr() == b"inside\n"
    child.communicate(b"\n")


def test_an_error_inside_gives_stderr_back(stderr, speaking):
    with pytest.raises(ValueError, match="wrong"), xla_messages.hushed():
        raise ValueError("wrong")
    os.write(2, NOISY)
    assert stderr() == NOISY


@pytest.mark.parametrize(("level", "speaks"), [("1", True), (None, True), ("0", False)])
def test_a_level_that_the_user_chose_stays(monkeypatch, level, speaks):
    """jax, imported first, leaves 1 where nobody chose."""
    monkeypatch.setattr(xla_messages, "_speaks", False)
    monkeypatch.delenv("FLAXCNN_DEBUG", raising=False)
    if level is None:
        monkeypatch.delenv(xla_messages.LEVEL, raising=False)
    else:
        monkeypatch.setenv(xla_messages.LEVEL, level)
    xla_messages.choose_level()
    assert xla_messages._speaks is speaks
