"""Trained runs that several modules look at, and a command line in a process of its own."""

import os
import shutil
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from flaxcnn.data import datasets
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.job import make_job
from flaxcnn.engine.train import Progress, epochs, fit
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Conv, Dense, Dropout, Flatten, MaxPool

SAFETY_NET = 300  # seconds after which a child process hangs for certain

# Dropout and an incomplete last batch, so that nothing in the step is left out. The rate is high:
# validation goes up and down, and the best epoch is not the last.
TINY = Config(
    dataset="digits",
    layers=(
        Conv(4, 3, activation="relu"),
        MaxPool(2),
        Flatten(),
        Dropout(0.1),
        Dense(10),
    ),
    learning_rate=0.05,
    batch_size=100,
    epochs=6,
    evaluate_train=True,
)

# Rows in a file and a split by position: the child imports no scikit-learn, which takes seconds.
RECIPE = """
    from flaxcnn.recipe.config import Config, Ranges
    from flaxcnn.recipe.layers import Dense, Dropout, Flatten
    from flaxcnn.recipe.optimizers import SGD

    small = Config(
        dataset="npz:{data}",
        split=Ranges(train=230, validation=50, test=60),
        layers=(Flatten(), Dropout(0.2), Dense(6, activation="relu"), Dense(10)),
        optimizer=SGD(momentum=0.9),
        learning_rate=0.02,
        batch_size=50,
        epochs=12,
    )
"""


@pytest.fixture(autouse=True)
def places(no_settings_from_outside, tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXCNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("FLAXCNN_RUNS_DIR", str(tmp_path / "runs"))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Folder of compiled programs: compiling is nearly all the time of a run this small."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def compile_once(compiled):
    """Fits of one recipe in this process compile it once."""
    settings = {
        "jax_compilation_cache_dir": str(compiled),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def trained(compile_once, digits, tmp_path_factory):
    """TINY, trained once per module; look, do not touch: `copy_of` is for what changes it."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLAXCNN_CACHE_DIR", str(folder / "cache"))
        return fit(TINY, digits, folder / "run", name="tiny")


@pytest.fixture
def copy_of(tmp_path):
    def copy(run):
        return shutil.copytree(run, tmp_path / "copy")

    return copy


@pytest.fixture(scope="module")
def states(compile_once, digits):
    """Reports of TINY by hand, without fit: (metrics, progress, params as numpy) per epoch."""
    job = make_job(TINY, digits)
    return [
        (report.metrics, report.progress, jax.device_get(report.state.params))
        for report in epochs(job, job.init(), Progress(), Interrupt())
    ]


class Child:
    """`flaxcnn` in a process of its own, with folders of its own."""

    def __init__(self, folder, compiled, data):
        self.folder = folder
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("FLAXCNN_", "JAX_"))}
        self.environment = {
            **clean,
            "FLAXCNN_CACHE_DIR": str(folder / "cache"),
            "FLAXCNN_RUNS_DIR": str(folder / "runs"),
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "3",  # XLA speaks of the cached programs on stderr
        }
        folder.mkdir(exist_ok=True)
        self.recipe = f"{folder / 'recipe.py'}:small"
        (folder / "recipe.py").write_text(textwrap.dedent(RECIPE.format(data=data)))

    def start(self, *arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "flaxcnn", *map(str, arguments)], env=self.environment,
            cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, *arguments):
        return self.finish(self.start(*arguments))

    @staticmethod
    def finish(process):
        out, err = process.communicate(timeout=SAFETY_NET)
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@pytest.fixture(scope="session")
def rows_file(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "digits.npz"
    image, label = digits.train.image, digits.train.label
    np.savez(path, image=image[:350], label=label[:350])
    return path


@pytest.fixture
def child(tmp_path, compiled, rows_file):
    return Child(tmp_path / "child", compiled, rows_file)
