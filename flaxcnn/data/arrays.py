"""A data set in memory: uint8 images and int32 labels, a train and a test split."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from flaxcnn.data.images import Images, Pixels, select
from flaxcnn.data.stratified import hold_out
from flaxcnn.errors import DataError

HELD_OUT = 0.2  # of the rows, where a data set has no test split of its own
HELD_OUT_SEED = 0  # not the run's seed, so that the test rows never change


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of one split, in the order of their source.

    Raises:
        DataError: other types or ranks than below, or lengths that differ.
    """

    image: Pixels  # uint8 [N, H, W, C], possibly memory-mapped or decoded on demand
    label: np.ndarray  # int32 [N]

    def __post_init__(self) -> None:
        image, label = self.image, self.label
        if image.dtype != np.uint8 or image.ndim != 4 or label.dtype != np.int32 or label.ndim != 1:
            raise DataError(
                "split: image must be uint8 [N, H, W, C] and label int32 [N] (got "
                f"{image.dtype}{list(image.shape)} and {label.dtype}{list(label.shape)})"
            )
        if len(image) != len(label):
            raise DataError(f"split: {len(image)} images do not match {len(label)} labels")

    def __len__(self) -> int:
        return len(self.label)


def repeated(split: Split, count: int) -> Split:
    """The first `count` rows, repeated from the start where the split has fewer."""
    if count <= len(split):
        return Split(split.image[:count], split.label[:count])
    row = np.arange(count) % len(split)
    return Split(split.image[row], split.label[row])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set: two splits, the names of its classes and a digest.

    Where the source has a validation split, its rows are the last `validation` ones of `train`.
    `test_origin` is "held out" where the source has no test split: then a fixed stratified fifth of
    its rows is the test split. `digest` is the SHA-256 of shapes, pixels and labels of both splits;
    for data decoded on demand, of names, sizes and labels (`Images.digest`), so the two forms of
    one source have different digests.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    digest: str
    test_origin: Literal["archive", "held out"] = "archive"
    validation: int = 0
    source: Mapping[str, str] = field(default_factory=dict)  # what else tells where it is from

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        height, width, channels = self.train.image.shape[1:]
        return height, width, channels

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels, decoded or not."""
        return self.train.image.nbytes + self.test.image.nbytes

    @property
    def undecoded(self) -> bool:
        """Whether images are decoded on demand."""
        return isinstance(self.train.image, Images)

    @property
    def num_classes(self) -> int:
        """Number of classes; labels are 0 to num_classes - 1."""
        return len(self.classes)


def content_digest(train: Split, test: Split, validation: int = 0) -> str:
    """SHA-256 (64 hex digits) of the shapes, image bytes and label bytes of both splits.

    For undecoded images, their own digest stands in place of their bytes. The number of
    `validation` rows at the end of train is part of it, where there are any.
    """
    hashed = hashlib.sha256()
    for split in (train, test):
        hashed.update(repr(tuple(split.image.shape)).encode())
        if isinstance(split.image, Images):
            hashed.update(split.image.digest().encode())
        else:
            hashed.update(np.ascontiguousarray(split.image).data)
        hashed.update(np.ascontiguousarray(split.label, "<i4").data)
    if validation:
        hashed.update(f"validation {validation}".encode())
    return hashed.hexdigest()


def dataset(
    name: str, train: Split, test: Split | None, classes: Sequence[str], validation: int = 0,
    source: Mapping[str, str] | None = None,
) -> Dataset:  # fmt: skip
    """A Dataset with its digest; without `test`, a fixed stratified fifth of `train` is held out.

    Args:
        name: what a recipe calls it.
        train: its training rows, then `validation` rows where the source has such a split.
        test: its test rows.
        classes: their names.
        validation: how many of the last rows of `train` the source gives to validate.
        source: what else tells where it is from, for the records.

    Raises:
        DataError: too few rows of a class to hold any out, or test images of another shape.
    """
    origin: Literal["archive", "held out"] = "archive"
    if test is None:
        train, test = _hold_out(name, train, classes, validation)
        origin = "held out"
    if train.image.shape[1:] != test.image.shape[1:]:
        raise DataError(
            f"{name}: train images {list(train.image.shape[1:])} and test images "
            f"{list(test.image.shape[1:])} must have one shape [H, W, C]"
        )
    digest = content_digest(train, test, validation)
    return Dataset(name, train, test, tuple(classes), digest, origin, validation, source or {})


def _hold_out(
    name: str, rows: Split, classes: Sequence[str], validation: int
) -> tuple[Split, Split]:
    own = len(rows) - validation
    label, held_out = rows.label[:own], math.ceil(HELD_OUT * own)
    count = np.bincount(label, minlength=len(classes))
    if count.min() < 2 or held_out < len(classes):
        rarest = int(count.argmin())
        raise DataError(
            f"{name}: too few rows to hold out a test split ({own}, {count[rarest]} of them "
            f"of class {classes[rarest]!r}); it needs at least 2 rows of each class and "
            f"{math.floor((len(classes) - 1) / HELD_OUT) + 1} in all, or a test split of its own"
        )
    kept, held = hold_out(label, held_out, HELD_OUT_SEED)
    kept = np.concatenate([kept, np.arange(own, len(rows))])
    return (
        Split(select(rows.image, kept), rows.label[kept]),
        Split(select(rows.image, held), rows.label[held]),
    )


def check_labels(
    where: str, train: np.ndarray, test: np.ndarray | None, validation: np.ndarray | None = None
) -> int:
    """Number of classes K of integer labels, shape [N] each.

    Raises:
        DataError: labels that are not 0..K-1 with each of them in train, or one class only.
    """
    present = np.unique(train)
    if present[0] < 0:
        row = int(np.flatnonzero(train == present[0])[0])
        raise DataError(f"{where}: labels must be at least 0 (got {present[0]} in train row {row})")
    if len(present) < 2:
        raise DataError(f"{where}: there must be two or more classes (got only {present[0]})")
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if gaps.size:
        raise DataError(
            f"{where}: labels must be 0..K-1, each of them in train (the highest is {present[-1]}, "
            f"but no train row has {gaps[0]})"
        )
    for split, label in (("test", test), ("validation", validation)):
        if label is not None and (unseen := np.setdiff1d(label, present)).size:
            row = int(np.flatnonzero(label == unseen[0])[0])
            raise DataError(
                f"{where}: no train row has label {unseen[0]} of {split} row {row}; labels must be "
                f"0..{len(present) - 1}"
            )
    return len(present)
