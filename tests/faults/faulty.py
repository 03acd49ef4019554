"""What the tests of faults share: the command in this process or in one of its own."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flaxcnn.cli.main import main
from flaxcnn.records.files import read_lines

SAFETY_NET = 900  # seconds after which a child process hangs for certain
LAYERS = 'layers=[{"type":"flatten"},{"type":"dense","units":10}]'
TIMES = ("seconds", "images_per_second", "stall")
MOUNTS = pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="mounts a file system"
)


def said(*arguments):
    """(exit code, the error line) of a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main([str(word) for word in arguments])
    lines = [line for line in err.getvalue().splitlines() if line.startswith("error:")]
    assert "Traceback" not in err.getvalue()
    return ended.value.code or 0, lines[-1] if lines else ""


def refused(code, *arguments):
    """The one sentence with which a command ends, of the exit code that is documented for it."""
    ended, text = said(*arguments)
    assert ended == code, (ended, text)
    assert text, arguments
    assert "unexpected" not in text
    assert "\n" not in text
    return text


class Train:
    """`flaxcnn train` in a process of its own, on the digits."""

    patience = SAFETY_NET

    def __init__(self, run, *more, epochs=60, **popen):
        self.run = Path(run)
        small = ["epochs=" + str(epochs), "patience=none", "batch_size=500", LAYERS]
        command = ["train", "--run-dir", str(run), *map(str, more)]
        command += [word for setting in small for word in ("-s", setting)]
        environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", **popen.pop("env", {})}
        self.child = subprocess.Popen(
            [sys.executable, "-m", "flaxcnn", *command], env=environment, text=True,
            **({"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE} | popen),
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        """No process is left behind by a test that fails."""
        if self.child.poll() is None:
            self.child.kill()
            self.child.communicate()

    def epochs(self):
        try:
            return (self.run / "metrics.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0

    def until(self, epochs):
        """Wait until so many epochs are recorded, or it has ended."""
        while self.child.poll() is None and self.epochs() < epochs:
            time.sleep(0.02)
        return self

    def ended(self):
        """(exit code, stderr)."""
        try:
            _, err = self.child.communicate(timeout=self.patience)
        except subprocess.TimeoutExpired:
            self.child.send_signal(signal.SIGKILL)
            self.child.communicate()
            pytest.fail("it hangs")
        assert "Traceback" not in (err or "")
        return self.child.returncode, err or ""


def records(run):
    """All that the run says, but for times."""
    rows = [
        {k: v for k, v in row.items() if k not in TIMES}
        for row in read_lines(run / "metrics.jsonl")
    ]
    summary = json.loads((run / "summary.json").read_text())
    return rows, {key: summary[key] for key in ("params_digest", "test_accuracy", "kept_epoch")}


def names(run):
    """Its files, but for those of checkpoints, which are told by their folders."""
    folders = [p for p in run.rglob("*") if "checkpoints" not in p.relative_to(run).parts[:-1]]
    return sorted(str(p.relative_to(run)) for p in folders) + sorted(
        p.name for p in (run / "checkpoints").iterdir()
    )
