"""What weights of seven classes of CIFAR-10 are worth for the other three, with few images.

    FLAXCNN_DATA_DIR=... python -m benchmarks.fine_tuning [--seeds N] [--output FILE]

A small network is trained on seven classes. With 50 images of each of the other three, of which ten
choose the epoch, it is trained from scratch, fine-tuned, and fine-tuned with its convolutions
frozen; each with so many seeds, on the same images. `flaxcnn.compare` says what the seeds show.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when jaxlib is imported

import numpy as np

import flaxcnn
from flaxcnn.backend import prepare
from flaxcnn.data.datasets import load
from flaxcnn.recipe.layers import Conv, Dense, Flatten, MaxPool
from flaxcnn.records.environment import environment
from flaxcnn.records.files import plain, write_atomic

OUTPUT = Path(__file__).parent / "results" / "fine-tuning.json"
NEW = ("cat", "horse", "truck")  # the other seven are those of the first training
TRAINED, CHOOSING = 40, 10  # images of each new class that train, and that choose the epoch
BODY = (
    Conv(32, 3, activation="relu"), MaxPool(2), Conv(48, 3, activation="relu"), MaxPool(2),
    Conv(64, 3, activation="relu"), Flatten(), Dense(64, activation="relu"),
)  # fmt: skip
RECIPE = flaxcnn.Config("cifar10", (*BODY, Dense(10)), batch_size=128, learning_rate=1e-3)
FEW = {"epochs": 60, "batch_size": 20, "learning_rate": 3e-4, "layers": (*BODY, Dense(len(NEW)))}
ARMS: dict[str, dict[str, Any]] = {
    "from scratch": {},
    "fine-tuned": {"init": True},
    "fine-tuned, convolutions frozen": {"init": True, "freeze": ("conv2d*",)},
}


def chosen(split: Any, names: np.ndarray, wanted: Any) -> tuple[np.ndarray, np.ndarray]:
    """Images, and the names of their classes, of the wanted classes."""
    label = names[split.label]
    rows = np.isin(label, wanted)
    return np.asarray(split.image)[rows], label[rows]


def few_of_each(image: np.ndarray, label: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Images that train and that choose the epoch, drawn once for all seeds."""
    order = np.random.default_rng(0).permutation(len(label))
    rows = np.concatenate([order[label[order] == name][: TRAINED + CHOOSING] for name in NEW])
    last = np.arange(len(rows)) % (TRAINED + CHOOSING) >= TRAINED
    return {"train": (image[rows[~last]], label[rows[~last]]),
            "validation": (image[rows[last]], label[rows[last]])}  # fmt: skip


def run(folder: Path, seeds: int) -> dict[str, Any]:
    """Train everything in `folder`."""
    cifar = load("cifar10")
    names = np.array(cifar.classes)
    old = [name for name in cifar.classes if name not in NEW]
    seven = [*chosen(cifar.train, names, old), *chosen(cifar.test, names, old)]
    parent = flaxcnn.train(
        RECIPE, data=seven, epochs=6, layers=(*BODY, Dense(len(old))), run_dir=folder / "parent"
    )
    data = few_of_each(*chosen(cifar.train, names, NEW))
    data["test"] = chosen(cifar.test, names, NEW)
    weights = flaxcnn.Weights(str(parent.path))
    studies = []
    for name, own in ARMS.items():
        settings = {**FEW, **{key: value for key, value in own.items() if key != "init"}}
        if own.get("init"):
            settings["init_from"] = weights
        studies.append(flaxcnn.study(
            RECIPE, seeds, data=data, name=name, study_dir=folder / name.replace(" ", "-"),
            **settings,
        ))  # fmt: skip
    compared = flaxcnn.compare(*studies)
    return {
        "old": old, "new": list(NEW), "images": TRAINED + CHOOSING, "choosing": CHOOSING,
        "seeds": seeds, "parent": {key: parent.summary[key] for key in (
            "test_accuracy", "epochs_run", "params", "train_rows", "params_digest")},
        "few": {key: FEW[key] for key in ("epochs", "batch_size", "learning_rate")},
        "test_rows": int(studies[0].rows[0]["test_rows"]),
        "arms": {study.name: [row["test_accuracy"] for row in study.rows] for study in studies},
        "sentences": compared.sentences(), "compared": compared.to_dict()["comparisons"],
        "environment": environment(),
    }  # fmt: skip


def main() -> None:
    """Train, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    prepare()
    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder), options.seeds)
    write_atomic(options.output, (json.dumps(plain(found), indent=1) + "\n").encode())
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
