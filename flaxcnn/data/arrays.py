"""What every data set becomes: uint8 images and int32 labels, a train and a test split."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flaxcnn.data.images import Images, Pixels, select
from flaxcnn.data.stratified import hold_out
from flaxcnn.errors import DataError

HELD_OUT = 0.2  # of the rows, where a data set has no test split of its own
HELD_OUT_SEED = 0  # never the run's seed: the test rows of a data set are always the same


@dataclass(frozen=True, eq=False)
class Split:
    """Rows of one split, in the order of their source.

    Raises:
        DataError: other types or ranks than the ones below, or lengths that differ.
    """

    image: Pixels  # uint8 [N, H, W, C], possibly memory-mapped or decoded on demand
    label: np.ndarray  # int32 [N]

    def __post_init__(self) -> None:
        image, label = self.image, self.label
        if image.dtype != np.uint8 or image.ndim != 4 or label.dtype != np.int32 or label.ndim != 1:
            raise DataError(
                f"split: got image {image.dtype}{list(image.shape)} and label "
                f"{label.dtype}{list(label.shape)}; allowed are uint8 [N, H, W, C] and int32 [N]"
            )
        if len(image) != len(label):
            raise DataError(f"split: got {len(image)} images and {len(label)} labels")

    def __len__(self) -> int:
        return len(self.label)


def repeated(split: Split, count: int) -> Split:
    """The first `count` rows, from the start again where the split has fewer."""
    if count <= len(split):
        return Split(split.image[:count], split.label[:count])
    row = np.arange(count) % len(split)
    return Split(split.image[row], split.label[row])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set as the rest of the package sees it.

    `test_origin` is "held out" where the source has no test split: then a stratified fifth of its
    rows, drawn by a seed that no run can change, is the test split. `digest` is the SHA-256 of
    shapes, pixels and labels of both splits; of data decoded on demand, that of names, sizes and
    labels (`Images.digest`), so the two forms of one source have different digests.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    digest: str
    test_origin: Literal["archive", "held out"] = "archive"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        height, width, channels = self.train.image.shape[1:]
        return height, width, channels

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels, held or not."""
        return self.train.image.nbytes + self.test.image.nbytes

    @property
    def undecoded(self) -> bool:
        """Whether images are decoded on demand."""
        return isinstance(self.train.image, Images)

    @property
    def num_classes(self) -> int:
        """How many classes the labels name: 0 to num_classes - 1."""
        return len(self.classes)


def content_digest(train: Split, test: Split) -> str:
    """SHA-256 (64 hex digits) of the shapes, image bytes and label bytes of both splits.

    Undecoded images stand with their own digest for their bytes.
    """
    found = hashlib.sha256()
    for split in (train, test):
        found.update(repr(tuple(split.image.shape)).encode())
        if isinstance(split.image, Images):
            found.update(split.image.digest().encode())
        else:
            found.update(np.ascontiguousarray(split.image).data)
        found.update(np.ascontiguousarray(split.label, "<i4").data)
    return found.hexdigest()


def dataset(name: str, train: Split, test: Split | None, classes: Sequence[str]) -> Dataset:
    """A Dataset with its digest; without `test`, a fixed stratified fifth of `train` is held out.

    Raises:
        DataError: too few rows of a class to hold any out, or test images of another shape.
    """
    origin: Literal["archive", "held out"] = "archive"
    if test is None:
        train, test = _hold_out(name, train, classes)
        origin = "held out"
    if train.image.shape[1:] != test.image.shape[1:]:
        raise DataError(
            f"{name}: got train images of {list(train.image.shape[1:])} and test images of "
            f"{list(test.image.shape[1:])}; allowed is one shape [H, W, C]"
        )
    return Dataset(name, train, test, tuple(classes), content_digest(train, test), origin)


def _hold_out(name: str, rows: Split, classes: Sequence[str]) -> tuple[Split, Split]:
    count = np.bincount(rows.label, minlength=len(classes))
    if count.min() < 2 or math.ceil(HELD_OUT * len(rows)) < len(classes):
        rarest = int(count.argmin())
        raise DataError(
            f"{name}: got {len(rows)} rows, {count[rarest]} of them of class "
            f"{classes[rarest]!r}, and no test split; allowed are at least 2 rows of each class "
            f"and {math.floor((len(classes) - 1) / HELD_OUT) + 1} in all, or a test split"
        )
    kept, held = hold_out(rows.label, math.ceil(HELD_OUT * len(rows)), HELD_OUT_SEED)
    return (
        Split(select(rows.image, kept), rows.label[kept]),
        Split(select(rows.image, held), rows.label[held]),
    )


def check_labels(where: str, train: np.ndarray, test: np.ndarray | None) -> int:
    """Number of classes K of integer labels, shape [N] each.

    Raises:
        DataError: labels that are not 0..K-1 with each of them in train, or one class only.
    """
    present = np.unique(train)
    if present[0] < 0:
        row = int(np.flatnonzero(train == present[0])[0])
        raise DataError(f"{where}: got label {present[0]} in train row {row}; allowed is 0 and up")
    if len(present) < 2:
        raise DataError(f"{where}: got one class only, {present[0]}; allowed are two or more")
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if gaps.size:
        raise DataError(
            f"{where}: got labels up to {present[-1]} and no train row of label {gaps[0]}; allowed "
            f"are labels 0..K-1, each of them in train"
        )
    if test is not None and (unseen := np.setdiff1d(test, present)).size:
        row = int(np.flatnonzero(test == unseen[0])[0])
        raise DataError(
            f"{where}: got label {unseen[0]} in test row {row}, which no train row has; "
            f"allowed are 0..{len(present) - 1}"
        )
    return len(present)
