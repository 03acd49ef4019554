"""Which rows train, validate and test, and the standardisation that the training rows give.

Rows are numbered through the archives, those of the train archive first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from flaxcnn.data.arrays import Dataset
from flaxcnn.data.images import Pixels, rows_at_once
from flaxcnn.data.stratified import hold_out
from flaxcnn.errors import ConfigError, DataError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.splits import Archive, Fold, Permuted

SHARE = 0.1  # of `validation` where a recipe does not say


@dataclass(frozen=True, eq=False)
class Rows:
    """Row numbers, int32 [n] each; row j of the test archive is len(train archive) + j."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def choose(dataset: Dataset, config: Config) -> Rows:
    """The rows that `config` (split, validation, split_seed) picks from `dataset`.

    Archive: `validation` rows (or that fraction, rounded) are held out of train, stratified by
    class; rows ascend. Where the data set has a validation split of its own, that is taken. With
    validation="test" the test rows serve as both. Permuted and Ranges
    take rows of the train archive alone, in the order that their documents give. Fold scores one
    fold of their training and validation rows in place of the test rows.

    Raises:
        ConfigError: more rows than the data set has, or "test" with a split of its own validation.
        DataError: a class with too few rows to hold any out.
    """
    split, rows = config.split, len(dataset.train)
    if isinstance(split, Fold):
        return _fold(dataset, config, split)
    if isinstance(split, Archive):
        return _archive(dataset, config)
    if config.validation == "test":
        raise ConfigError(
            f"validation='test' does not work with split={type(split).__name__.lower()}, which has "
            "its own validation rows; use split=archive"
        )
    needed = split.rows if isinstance(split, Permuted) else sum(
        (split.train, split.validation, split.test)
    )  # fmt: skip
    if needed > rows:
        raise ConfigError(
            f"split needs {needed} rows, but the train archive of {dataset.name} has {rows} (got "
            f"{split})"
        )
    if isinstance(split, Permuted):
        # train_test_split(test_size, random_state) without stratification draws the same rows
        order = np.random.RandomState(split.seed).permutation(split.rows)
        test, rest = np.split(order, [split.test])
        train, validation = np.split(rest, [len(rest) - split.validation])
    else:
        train, validation, test = np.split(
            np.arange(needed), [split.train, split.train + split.validation]
        )
    return Rows(*(part.astype(np.int32) for part in (train, validation, test)))


def _archive(dataset: Dataset, config: Config) -> Rows:
    rows = len(dataset.train)
    every = np.arange(rows, dtype=np.int32)
    test = np.arange(rows, rows + len(dataset.test), dtype=np.int32)
    if config.validation == "test":
        return Rows(every, test, test)
    if dataset.validation:
        if config.validation != SHARE:
            raise ConfigError(
                f"validation={config.validation} would hold rows out of train, but {dataset.name} "
                f"has a validation split of its own ({dataset.validation} rows); leave it out"
            )
        train, validation = np.split(every, [rows - dataset.validation])
        return Rows(train, validation, test)
    train, validation = _held_out(dataset, config, every)
    return Rows(train, validation, test)


def _fold(dataset: Dataset, config: Config, split: Fold) -> Rows:
    some = SHARE if dataset.validation else _some(config.validation)
    whole = dataclasses.replace(config, split=split.of, validation=some)
    rows = choose(dataset, whole)
    pool = np.sort(np.concatenate([rows.train, rows.validation]))
    others, scored = folds(dataset.train.label[pool], split.folds, split.seed)[split.index]
    if config.validation == "test":
        return Rows(pool[others], pool[scored], pool[scored])
    train, validation = _held_out(dataset, config, pool[others])
    return Rows(train, validation, pool[scored])


def _some(validation: float | int | str) -> float | int:
    """A hold-out that fits; its rows do not matter, since both sides are pooled."""
    return SHARE if isinstance(validation, str) else validation


def _held_out(dataset: Dataset, config: Config, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(train, validation) of rows of the train archive."""
    count = config.validation
    if isinstance(count, float):
        count = max(1, round(count * len(rows)))
    assert isinstance(count, int)  # "test" holds none out
    _check_hold_out(dataset, config, count, rows)
    train, validation = hold_out(dataset.train.label[rows], count, config.split_seed)
    return rows[train], rows[validation]


def _check_hold_out(dataset: Dataset, config: Config, count: int, used: np.ndarray) -> None:
    rows, classes = len(used), dataset.num_classes
    if not classes <= count <= rows - classes:
        raise ConfigError(
            f"validation must hold out {classes} to {rows - classes} of the {rows} train rows of "
            f"{dataset.name}, so that each of the {classes} classes is on both sides (got "
            f"{config.validation!r}, which is {count})"
        )
    members = np.bincount(dataset.train.label[used], minlength=classes)
    if members.min() < 2:
        rarest = dataset.classes[int(members.argmin())]
        raise DataError(
            f"{dataset.name}: class {rarest!r} must have 2 or more train rows, to train and to "
            f"validate (got {members.min()})"
        )


def steps_per_epoch(rows: int, batch_size: int, drop_last: bool = False) -> int:
    """Batches in one pass, with the incomplete one, unless it is dropped.

    >>> steps_per_epoch(100, 32), steps_per_epoch(100, 32, drop_last=True)
    (4, 3)

    Raises:
        ConfigError: it is dropped, and there is no other.
    """
    if drop_last and rows < batch_size:
        raise ConfigError(
            f"drop_last=true leaves no batch: there are {rows} training rows (got batch_size="
            f"{batch_size}); use a smaller batch_size, or drop_last=false"
        )
    return rows // batch_size if drop_last else -(-rows // batch_size)


def folds(label: np.ndarray, k: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """k pairs (train rows, validation rows), int32, ascending; stratified and shuffled by `seed`.

    Raises:
        ConfigError: k below 2 or above the number of rows of the smallest class.
    """
    names, members = np.unique(label, return_counts=True)
    if k < 2:
        raise ConfigError(f"folds must be at least 2 (got {k})")
    if not members.size or k > members.min():
        most = f"{members.min()}, the rows of class {names[members.argmin()]}" if len(label) else 0
        raise ConfigError(f"folds must be at most {most} (got {k})")
    from sklearn.model_selection import StratifiedKFold  # seconds to import

    drawn = StratifiedKFold(k, shuffle=True, random_state=seed).split(np.zeros(len(label)), label)
    return [(train.astype(np.int32), held.astype(np.int32)) for train, held in drawn]


def digest(rows: Rows) -> str:
    """SHA-256 (64 hex digits) of the three row lists."""
    hashed = hashlib.sha256()
    for field in fields(Rows):
        part = np.ascontiguousarray(getattr(rows, field.name), "<i4")
        hashed.update(f"{field.name} {len(part)}\n".encode() + part.tobytes())
    return hashed.hexdigest()


def to_json(rows: Rows) -> str:
    """Compact JSON text: the three lists and their digest."""
    lists = {field.name: getattr(rows, field.name).tolist() for field in fields(Rows)}
    return json.dumps({"digest": digest(rows), **lists}, separators=(",", ":"))


def standardisation(
    image: Pixels,
    normalize: Literal["unit", "per_pixel", "per_channel"],
    rows: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(mean, scale), float32 and broadcastable to [H, W, C], such that x = (pixel - mean) / scale.

    unit: 0 and 255. per_pixel: mean and standard deviation + 1e-7 of each pixel (document 004);
    per_channel: of each channel. The sums are exact integers, so that neither chunks nor machines
    change a bit.

    Args:
        image: uint8 [N, H, W, C].
        normalize: as above.
        rows: [n], the training rows; None: all.

    Raises:
        DataError: no rows.
    """
    if normalize == "unit":
        return np.zeros((1, 1, 1), np.float32), np.full((1, 1, 1), 255, np.float32)
    rows = np.arange(len(image)) if rows is None else rows
    if not len(rows):
        raise DataError(f"normalize={normalize} needs training rows (got none)")
    axes = (0,) if normalize == "per_pixel" else (0, 1, 2)
    total: Any = 0
    squares: Any = 0
    step = rows_at_once(image.shape)
    for start in range(0, len(rows), step):
        part = image[rows[start : start + step]]
        total = total + part.sum(axis=axes, dtype=np.int64)
        squares = squares + np.square(part, dtype=np.uint16).sum(axis=axes, dtype=np.int64)
    count = len(rows) * (1 if normalize == "per_pixel" else math.prod(image.shape[1:3]))
    # Python's integers: count * squares passes 2**63 for CIFAR-10's channels
    spread = count * squares.astype(object) - total.astype(object) ** 2  # count^2 * variance
    std = np.sqrt((spread / count**2).astype(np.float64))
    # A constant pixel carries no information, and its x is 0 in every training row whatever the
    # scale; dividing by 1e-7 would multiply a deviation in a test row by ten million.
    scale = np.where(std == 0, 1.0, std + 1e-7).astype(np.float32)
    mean = (total / count).astype(np.float32)
    return (mean, scale) if normalize == "per_pixel" else (mean[None, None], scale[None, None])
