"""A Keras notebook with augmentation and mixup beside its recipe: are the curves the same?

    python -m benchmarks.keras_notebook --keras PYTHON [--seeds N] [--output FILE]

Runs the two programs of docs/tutorials/keras-augmentation.md, as they stand there, with seeds 0 to
N - 1: Keras's by `--keras`, a Python that has keras and tensorflow, and the recipe here. Both get
the same rows. Curves are compared epoch by epoch; `python -m benchmarks.tables` makes the table and
the figure.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "tutorials" / "keras-augmentation.md"
OUTPUT = Path(__file__).parent / "results" / "keras-notebook-cpu.json"
DATASET = "fashion_mnist"
# A name of both sides -> Keras's
METRICS = {"train_loss": "loss", "val_loss": "val_loss", "val_accuracy": "val_accuracy"}
Curves = dict[str, list[float]]  # metric -> a value for each epoch


def programs() -> tuple[str, str]:
    """The page's two programs: Keras's and the recipe."""
    found = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    keras, recipe = found
    return keras, recipe


# -- in a Python that has Keras ------------------------------------------------------------------


def keras_side(seeds: int, rows: Path) -> dict[str, Any]:
    """Curves of Keras's program, and the versions of its packages."""
    import keras
    import tensorflow as tf

    with np.load(rows) as given:
        arrays = given["image"], given["label"]
    keras.datasets.fashion_mnist.load_data = lambda: (arrays, arrays)
    text, line = programs()[0], "set_random_seed(0)"
    assert text.count(line) == 1
    runs = []
    for seed in range(seeds):
        keras.backend.clear_session()
        names: dict[str, Any] = {}
        exec(text.replace(line, f"set_random_seed({seed})"), names)
        runs.append({ours: names["history"][theirs] for ours, theirs in METRICS.items()})
    packages = {"keras": keras.__version__, "tensorflow": tf.__version__}
    return {"curves": runs, "packages": packages}


def with_keras(python: str, seeds: int) -> dict[str, Any]:
    """`keras_side` in another Python, on the rows as this one has them."""
    from flaxcnn.data.datasets import load

    train = load(DATASET).train
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.npz"
        np.savez(rows, image=np.asarray(train.image)[..., 0], label=train.label)
        command = [python, "-m", "benchmarks.keras_notebook", "--side", str(rows)]
        done = subprocess.run(
            [*command, "--seeds", str(seeds)], cwd=ROOT, check=True, stdout=subprocess.PIPE,
            text=True, env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


# -- here ----------------------------------------------------------------------------------------


def recipe() -> Any:
    """The page's recipe, a Config."""
    module = types.ModuleType("my_notebook")
    exec(programs()[1], vars(module))
    return module.notebook


def own_side(seeds: int) -> list[Curves]:
    """Curves of the page's recipe."""
    import flaxcnn

    runs: list[Curves] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            result = flaxcnn.train(
                recipe(), seed=seed, run_dir=Path(folder) / str(seed), verbose=False
            )
            epochs = flaxcnn.history(result.path)
            runs.append({name: [float(epoch[name]) for epoch in epochs] for name in METRICS})
    return runs


def compared(ours: list[Curves], theirs: list[Curves]) -> dict[str, Any]:
    """Metric -> epoch by epoch: means and deviations of both, ours minus theirs (Welch) and its p.

    `p_corrected` is corrected (Holm) over the epochs of the metric.
    """
    from flaxcnn.studies.contrasts import compare_unpaired, holm

    found = {}
    for name in METRICS:
        ours_, theirs_ = (np.array([run[name] for run in runs]).T for runs in (ours, theirs))
        tests = [
            compare_unpaired(a.tolist(), b.tolist()) for a, b in zip(ours_, theirs_, strict=True)
        ]
        p = [1.0 if test.p_value is None else test.p_value for test in tests]
        found[name] = [
            {"flaxcnn": test.mean_a, "flaxcnn_sd": test.sd_a, "keras": test.mean_b,
             "keras_sd": test.sd_b, "difference": test.difference, "interval": test.interval,
             "p": test.p_value, "p_corrected": corrected}
            for test, corrected in zip(tests, holm(p), strict=True)
        ]  # fmt: skip
    return found


def main() -> None:
    """Run both sides and write the document."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keras_notebook")
    parser.add_argument("--keras", default=sys.executable, help="a Python that has keras")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--side", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(keras_side(options.seeds, options.side)))
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when jaxlib is imported
    from benchmarks.peers import record
    from flaxcnn import backend
    from flaxcnn.records.environment import source_revision
    from flaxcnn.records.files import plain, write_atomic

    revision = source_revision()  # of what is loaded, whatever the checkout becomes meanwhile
    backend.prepare()
    theirs, ours = with_keras(options.keras, options.seeds), own_side(options.seeds)
    document = {
        "seeds": options.seeds, "curves": {"flaxcnn": ours, "keras": theirs["curves"]},
        "compared": compared(ours, theirs["curves"]), "packages": theirs["packages"],
        "source_revision": revision,
        "environment": record.environment(backend.cores(), "cpu"),
    }  # fmt: skip
    write_atomic(options.output, json.dumps(plain(document), indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
