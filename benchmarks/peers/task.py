"""What a peer is asked to train: a recipe and its pixels, the same for all of them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from flaxcnn.data import datasets, splits
from flaxcnn.data.arrays import Dataset, Split, dataset
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.recipe.execution import PRECISIONS
from flaxcnn.recipe.optimizers import SGD, Constant
from flaxcnn.recipe.splits import Archive, Permuted

# Peers evaluate in batches of the one that is faster for them; flaxcnn chooses for itself.
EVAL_BATCHES = (500, 50)
SYNTHETIC_ROWS = (60_000, 10_000)
DTYPES = {short: PRECISIONS[short] for short in ("f32", "bf16")}


@dataclass(frozen=True)
class Task:
    """One recipe for one peer. `to_dict` and `from_dict` carry it through a pipe."""

    model: str
    config: Config
    dtype: str  # "float32" or "bfloat16"
    threads: int
    synthetic: bool  # random images even where the data set is prepared

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {**vars(self), "config": self.config.to_dict()}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Task:
        """The task that `to_dict` was made of."""
        return cls(**{**plain, "config": Config.from_dict(plain["config"])})


def comparable(config: Config, dtype: str) -> tuple[Config, list[str]]:
    """The recipe reduced to what every peer does in the same way, and what was left out."""
    left_out = []
    if config.augment:
        left_out.append("augmentation")
    if config.schedule != Constant():
        left_out.append("learning rate schedule")
    if config.label_smoothing:
        left_out.append("label smoothing")
    if config.optimizer.weight_decay:
        left_out.append("weight decay")
    optimizer = dataclasses.replace(config.optimizer, weight_decay=0.0)
    same = dataclasses.replace(
        config, augment=(), schedule=Constant(), label_smoothing=0.0, optimizer=optimizer,
        precision=dtype,
    )  # fmt: skip
    return same, left_out


def is_prepared(name: str) -> bool:
    """Whether the data set can be read without a download."""
    if name == "digits" or name.startswith(("folder:", "npz:")):
        return True
    return (datasets.cache_path(name) / "meta.json").is_file()


def load(task: Task) -> tuple[Dataset, str]:
    """The recipe's data set and where its pixels come from: its name, or "synthetic"."""
    name = task.config.dataset
    if not task.synthetic and is_prepared(name):
        return datasets.load(name), name
    return synthetic(name), "synthetic"


def synthetic(name: str) -> Dataset:
    """Random images in the shape of a built-in data set, the same on every machine."""
    shape, classes = KNOWN_DATA[name]
    draw = np.random.default_rng(0)

    def rows(count: int) -> Split:
        image = draw.integers(0, 256, (count, *shape), np.uint8)
        return Split(image, draw.integers(0, classes, count, np.int32))

    train, test = (rows(count) for count in SYNTHETIC_ROWS)
    return dataset(name, train, test, tuple(map(str, range(classes))))


def scaled(train: Split, test: Split, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Both splits' images as float32 [N, H, W, C], normalised once and for all.

    flaxcnn does this anew in every step; that others need not is to their advantage.
    """
    mean, scale = splits.standardisation(train.image, config.normalize)
    return tuple((split.image.astype(np.float32) - mean) / scale for split in (train, test))  # type: ignore[return-value]


def epoch_rows(config: Config, data: Dataset) -> tuple[int, int]:
    """Training rows of one epoch, and validation and test rows together, as flaxcnn splits them."""
    split = config.split
    if isinstance(split, Permuted):
        return split.rows - split.test - split.validation, split.test + split.validation
    if not isinstance(split, Archive):
        return split.train, split.validation + split.test
    held = config.validation
    rows = len(data.train)
    count = max(1, round(held * rows)) if isinstance(held, float) else int(held)
    return rows - count, count + len(data.test)


def whole_batches(rows: int, batch: int) -> int:
    """The largest multiple of `batch` up to `rows`, at least one batch."""
    return max(rows // batch, 1) * batch


def momentum_of(config: Config) -> dict[str, Any]:
    """`momentum` and `nesterov` of SGD, by the names that Keras, torch and optax share."""
    assert isinstance(config.optimizer, SGD)
    return {"momentum": config.optimizer.momentum, "nesterov": config.optimizer.nesterov}
