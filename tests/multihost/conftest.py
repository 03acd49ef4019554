"""Real processes of one run on this machine, over gloo; each with a time limit of its own."""

import os
import socket
import subprocess
import sys
import textwrap

import numpy as np
import pytest

SAFETY_NET = 240  # seconds after which a process hangs for certain
# One size of the thread pool for all layouts: it decides how a long sum is cut, and so the bits.
THREADS = "4"
RECIPES = """
    from flaxcnn.recipe.config import Config
    from flaxcnn.recipe.splits import Ranges
    from flaxcnn.recipe.layers import Activation, BatchNorm, Conv, Dense, Dropout, Flatten
    from flaxcnn.recipe.optimizers import SGD

    common = dict(dataset="npz:{data}", split=Ranges(train=150, validation=45, test=45),
                  batch_size=32, optimizer=SGD(momentum=0.9), learning_rate=0.02, epochs=2)
    plain = Config(layers=(Conv(4, 3, activation="relu"), Flatten(), Dense(10)), **common)
    normed = Config(layers=(Conv(4, 3), BatchNorm(), Activation("relu"), Flatten(), Dense(10)),
                    **common)
    dropped = Config(layers=(Flatten(), Dense(16, "relu"), Dropout(0.3), Dense(10)), **common)
"""


class Hosts:
    """`flaxcnn` in processes that know each other."""

    def __init__(self, folder, compiled):
        self.folder = folder
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("FLAXCNN_", "JAX_"))},
            "FLAXCNN_CACHE_DIR": str(folder / "cache"),
            "FLAXCNN_RUNS_DIR": str(folder / "runs"),
            "JAX_PLATFORMS": "cpu",
            "PJRT_NPROC": THREADS,
            "JAX_COMPILATION_CACHE_DIR": str(compiled),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }

    def start(self, *arguments, devices=1, **environment):
        """One process; its output is a pipe."""
        return subprocess.Popen(
            [sys.executable, "-m", "flaxcnn", *map(str, arguments)], cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**self.environment, "JAX_NUM_CPU_DEVICES": str(devices), **environment},
        )  # fmt: skip

    def group(self, count, *arguments, devices=1, own=(), **environment):
        """`count` processes of one run; `own` has further arguments of each."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            where = f"127.0.0.1:{probe.getsockname()[1]}"
        return [
            self.start(*arguments, *(own[i] if own else ()), "--coordinator", where,
                       "--processes", count, "--process", i, devices=devices, **environment)
            for i in range(count)
        ]  # fmt: skip

    @staticmethod
    def finish(processes):
        """(exit code, stdout, stderr) of each."""
        found = []
        for process in processes:
            try:
                out, err = process.communicate(timeout=SAFETY_NET)
            finally:
                for each in processes:
                    if process.returncode is None:
                        each.kill()
            assert "Traceback" not in err, err
            found.append((process.returncode, out, err))
        return found


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with recipes and 290 rows of noise with a bright spot for each class."""
    folder = tmp_path_factory.mktemp("hosts")
    random = np.random.default_rng(0)
    label = np.arange(290) % 10
    image = random.integers(0, 100, (290, 8, 8, 1), np.uint8)
    image[np.arange(290), label % 8, label // 2] = 255
    np.savez(folder / "rows.npz", image=image[:240], label=label[:240], test_image=image[240:],
             test_label=label[240:])  # fmt: skip
    text = textwrap.dedent(RECIPES.format(data=folder / "rows.npz"))
    (folder / "recipes.py").write_text(text)
    return folder


@pytest.fixture(scope="session")
def hosts(home, tmp_path_factory):
    return Hosts(home, tmp_path_factory.mktemp("compiled"))
