"""Signals from the start of the process to its last line: the exit code is the documented one."""

import os
import signal
import subprocess
import sys
import time

import pytest

from flaxcnn.signals import EXIT_CODES

SAFETY_NET = 300  # seconds after which a child process hangs for certain
# Tells of what is imported, so that a signal comes at the same place on any machine
TOLD = """
import sys
class Tell:
    def find_spec(self, name, path=None, target=None):
        if name in {names!r}:
            print(name, flush=True)
            import time
            time.sleep(0.5)
sys.meta_path.insert(0, Tell())
from flaxcnn.cli.start import main
main()
"""
# What runs the tests may have them ignored, as nohup does
NOT_IGNORED = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
"""


def started(*names):
    """A child that waits a moment before it imports one of the modules."""
    return subprocess.Popen(
        [sys.executable, "-c", NOT_IGNORED + TOLD.format(names=names), "train", "-s", "epochs=1"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip


@pytest.mark.parametrize("module", ["typer", "jax"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_while_it_imports(module, number):
    child = started(module)
    assert child.stdout.readline() == f"{module}\n"
    child.send_signal(number)
    _, err = child.communicate(timeout=SAFETY_NET)
    assert child.returncode == EXIT_CODES[number]
    assert "Traceback" not in err
    (line,) = err.splitlines()
    assert line.startswith((f"interrupted: {number.name}", "error: interrupted"))


def test_below_nohup_a_closed_terminal_is_nothing():
    child = subprocess.Popen(
        ["nohup", sys.executable, "-c", TOLD.format(names=("typer",)), "--version"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert child.stdout.readline() == "typer\n"
    child.send_signal(signal.SIGHUP)
    out, _ = child.communicate(timeout=SAFETY_NET)
    assert (child.returncode, out.split()[0]) == (0, "flaxcnn")


@pytest.mark.slow
def test_when_all_is_written_but_the_page(home):
    """The run is complete: its code says that the command did not end, its folder that it did."""
    run = home / "run"
    child = subprocess.Popen(
        [sys.executable, "-m", "flaxcnn", "train", "-s", "epochs=1", "--run-dir", str(run)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + SAFETY_NET
    while not (run / "summary.json").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=SAFETY_NET)
    assert child.returncode in (0, EXIT_CODES[signal.SIGTERM])
    assert "Traceback" not in err
