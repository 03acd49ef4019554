"""A small recipe, programs compiled once, and `flaxcnn` in a process of its own."""

import contextlib
import os
import subprocess
import sys
import textwrap

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Conv, Dense, Dropout, Flatten, MaxPool

SAFETY_NET = 300  # seconds after which a child process hangs for certain

# A read that fails leaves the other reads of its checkpoint behind, never awaited or answered by
# TensorStore after their event loop was closed.
ABANDONED = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. (None|<coroutine):pytest.PytestUnraisableExceptionWarning"
    ),
    pytest.mark.usefixtures("collected"),
]

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
    epochs=8,
    evaluate_train=True,
)

# Rows in a file and a split by position: the child imports no scikit-learn, which takes seconds.
RECIPE = """
    from flaxcnn.recipe.config import Config
    from flaxcnn.recipe.splits import Ranges
    from flaxcnn.recipe.layers import Dense, Dropout, Flatten
    from flaxcnn.recipe.optimizers import SGD

    small = Config(
        dataset="npz:{data}",
        split=Ranges(train=230, validation=60, test=60),
        layers=(Flatten(), Dropout(0.2), Dense(6, activation="relu"), Dense(10)),
        optimizer=SGD(momentum=0.9),
        learning_rate=0.02,
        batch_size=50,
        epochs=12,
    )
"""


@contextlib.contextmanager
def compiled_in(folder):
    """Programs compiled inside are kept in `folder` and taken from there the next time."""
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


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


def damage(checkpoint):
    """Flip a bit in every 64 bytes of the file of the arrays; of replaced nodes none is read."""
    file = max((checkpoint / "state").rglob("*"), key=lambda p: p.is_file() * p.stat().st_size)
    data = bytearray(file.read_bytes())
    for place in range(0, len(data), 64):
        data[place] ^= 1
    file.write_bytes(data)
