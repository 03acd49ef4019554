"""`flaxcnn` in this process, from a folder of its own, and one trained run."""

import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
from typing import NamedTuple

import numpy as np
import pytest

from flaxcnn.cli import rates, runs, train
from flaxcnn.cli.main import main

SAFETY_NET = 300  # seconds after which a child process hangs for certain

RECIPES = """
from flaxcnn.recipe.catalog import Experiment
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Conv, Dense, Flatten
from flaxcnn.recipe.optimizers import SGD

small = Config(
    dataset="digits", layers=(Flatten(), Dense(10)), optimizer=SGD(), learning_rate=0.5,
    batch_size=100, epochs=2,
)
EXPERIMENTS = (Experiment("mine/named", "a title", "", config=small),)
"""


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self):
        """The one document on stdout."""
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def home(no_settings_from_outside, tmp_path, monkeypatch):
    """The folder that commands start in; everything they may write lies below it."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "recipes.py").write_text(RECIPES)
    monkeypatch.chdir(home)
    monkeypatch.setenv("FLAXCNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("FLAXCNN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("COLUMNS", "100")
    # It silences this whole process, in which pytest wants to hear what goes wrong
    monkeypatch.setattr(train, "quiet", lambda: None)
    monkeypatch.setattr(runs, "quiet", lambda: None)
    monkeypatch.setattr(rates, "quiet", lambda: None)
    return home


def call(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main([str(a) for a in arguments])
    assert "Traceback" not in err.getvalue()
    return Done(ended.value.code or 0, out.getvalue(), err.getvalue())


@pytest.fixture
def flaxcnn():
    return call


@pytest.fixture
def process():
    """`flaxcnn` in a process of its own."""

    def run(*arguments, code=None, **settings):
        command = ["-c", code] if code else ["-m", "flaxcnn", *map(str, arguments)]
        done = subprocess.run(
            [sys.executable, *command], env={**os.environ, **settings}, capture_output=True,
            text=True, timeout=SAFETY_NET, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """(what `train --json` gave, run directory); look, do not touch."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "recipes.py").write_text(RECIPES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLAXCNN_CACHE_DIR", str(folder / "cache"))
        patch.setattr(train, "quiet", lambda: None)
        done = call("train", f"{folder / 'recipes.py'}:small", "--run-dir", folder / "run",
                    "--json", "-s", "epochs=3", "-s", "patience=3")  # fmt: skip
    assert done.code == 0, done.err
    return done, folder / "run"


@pytest.fixture
def copied(trained, home):
    """A copy of the trained run that a test may change."""
    return shutil.copytree(trained[1], home / "run")


@pytest.fixture(scope="session")
def digit():
    """One test image of the digits, uint8 [8, 8], and all of them [360, 8, 8]."""
    from flaxcnn.data.datasets import load

    image = load("digits").test.image[..., 0]
    return np.array(image[0]), image


@pytest.fixture
def killed_at_random(home):
    """(command, option of its folder, kills) -> kills by SIGKILL before it ended, in `killed`.

    It is started again with --resume after each, and once more at the end.
    """

    def ended():
        return sum(p.read_bytes().count(b"\n") for p in (home / "killed").rglob("runs.jsonl"))

    def run(command, option, wanted):
        seed = random.randrange(2**32)
        print(f"seed of the moments: {seed}")  # shown if the test fails
        moments, kills = random.Random(seed), 0
        while kills < wanted:
            resume = ["--resume"] if (home / "killed" / "plan.json").is_file() else []
            child = subprocess.Popen(
                [*command, option, "killed", *resume],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            # While it starts, or when one or two more runs have ended, however fast the machine.
            awaited = ended() + moments.randrange(3)
            time.sleep(moments.uniform(0, 1))
            while child.poll() is None and ended() < awaited:
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.1))
            if child.poll() is not None:
                break  # it had nothing left to do
            child.kill()
            child.wait()
            kills += 1
        last = subprocess.run([*command, option, "killed", "--resume"], capture_output=True,
                              text=True, check=False)  # fmt: skip
        assert last.returncode == 0, last.stderr
        return kills

    return run
