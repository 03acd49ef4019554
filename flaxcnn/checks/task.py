"""A recipe made small enough to be trained half a dozen times within a minute or two."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flaxcnn.data.arrays import Dataset, Split
from flaxcnn.data.datasets import load
from flaxcnn.errors import ConfigError, DataError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import totals
from flaxcnn.recipe.schedules import Constant
from flaxcnn.recipe.splits import Archive

EPOCHS = 3
BATCHES = 3.5  # of training rows: the last one is not whole
RUNS = 8  # that all checks together train
WORK = 1.5e12  # multiply-adds of all of it; a minute on two cores
PASSES = 3  # of an image, forward and backward
OF_A_CLASS = 8  # rows at least, so that every part has some of each
HELD_OUT = 0.25  # of the training rows, for validation
RECIPE = "recipe.json"


@dataclass(frozen=True)
class Task:
    """What is trained, and the folder of all its runs."""

    config: Config
    dataset: Dataset
    folder: Path

    def child(self, run: str, devices: int) -> subprocess.Popen[bytes]:
        """Start to train in a process of its own, with so many CPU devices.

        By default it would have those of the environment, and not what this process asked jax for.
        """
        (self.folder / RECIPE).write_text(json.dumps(self.config.to_dict()))
        code = "import sys; from flaxcnn.checks.task import train_alone; train_alone(*sys.argv[1:])"
        return subprocess.Popen(
            [sys.executable, "-c", code, str(self.folder), run],
            env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip


def train_alone(folder: str, run: str) -> None:
    """Train the task in `folder`, as a process of its own."""
    from flaxcnn.backend import prepare
    from flaxcnn.engine.train import fit

    config = Config.from_dict(json.loads((Path(folder) / RECIPE).read_text()))
    prepare()
    fit(config, load(config.dataset), Path(folder) / run)


def small_task(config: Config, dataset: Dataset, folder: Path) -> Task:
    """The recipe on a few rows of its data, for a few epochs.

    Raises:
        ConfigError, DataError: the recipe does not fit the data, or the rows are too few.
    """
    macs = totals(config.table(dataset.shape, dataset.num_classes))["macs"]
    most = int(WORK / (max(macs, 1) * PASSES * EPOCHS * RUNS))
    least = OF_A_CLASS * dataset.num_classes
    wanted = math.ceil(BATCHES * config.batch_size / (1 - HELD_OUT)) + 1
    rows = max(min(wanted, most), least)
    part = _part(dataset, rows)
    trained = int(len(part.train) * (1 - HELD_OUT))
    batch = min(config.batch_size, max(int(trained / BATCHES), 1))
    whole = max(config.virtual_shards, config.accumulate)
    batch = max(batch // whole, 1) * whole
    path = folder / "rows.npz"
    np.savez(
        path, image=part.train.image, label=part.train.label, test_image=part.test.image,
        test_label=part.test.label, classes=np.array(dataset.classes),
    )  # fmt: skip
    changes: dict[str, Any] = {
        "dataset": f"npz:{path}", "resize": None, "channels": "auto", "split": Archive(),
        "validation": config.validation if config.validation == "test" else HELD_OUT,
        "epochs": EPOCHS, "patience": None, "batch_size": batch, "input": "auto", "save_every": 1,
        "distill": None,
    }  # fmt: skip
    try:
        small = dataclasses.replace(config, **changes)
    except ConfigError:  # what spans more epochs than there are here
        small = dataclasses.replace(config, **changes, schedule=Constant(), average=None)
    return Task(small, load(small.dataset), folder)


def _part(dataset: Dataset, rows: int) -> Dataset:
    """The first rows of each class, as many of each as far as there are, in their order."""
    own = dataset.train.label[: len(dataset.train) - dataset.validation]
    train, test = _chosen(own, rows), _chosen(dataset.test.label, max(rows // 4, 1))
    if len(np.unique(own[train])) < dataset.num_classes:
        raise DataError(f"{dataset.name}: the training rows lack a class")
    return dataclasses.replace(
        dataset,
        train=Split(np.asarray(dataset.train.image[train]), own[train]),
        test=Split(np.asarray(dataset.test.image[test]), dataset.test.label[test]),
        validation=0,
    )


def _chosen(label: np.ndarray, rows: int) -> np.ndarray:
    order = np.argsort(label, kind="stable")
    first = np.searchsorted(label[order], label[order])
    rank = np.empty(len(label), np.int64)
    rank[order] = np.arange(len(label)) - first  # of a row, among those of its class
    return np.sort(np.argsort(rank, kind="stable")[:rows])
