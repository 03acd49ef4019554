"""Arrays given in Python, kept as a file so that a run on them can be done again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxcnn.data import cache
from flaxcnn.data.sources import NPZ_KEYS
from flaxcnn.errors import DataError, WriteError, first_line, near_miss

SPLITS = ("train", "validation", "test")
FORMS = (
    "(images, labels), (images, labels, test_images, test_labels), or a dict of pairs (images, "
    "labels) for train, and maybe validation and test"
)
Arrays = Sequence[Any] | Mapping[str, Any]


def keep(data: Arrays) -> str:
    """The name of a data set made of arrays.

    The arrays go to `arrays/SHA-256.npz` in the folder of prepared data, unless they are there.

    Args:
        data: (images, labels), with test_images and test_labels or without; two such pairs, as
            Keras's `load_data()` gives them; or a dict of pairs for train and maybe validation
            and test. An array is a NumPy array or anything that becomes one.

            Images are [N, H, W] or [N, H, W, C]: integers from 0 to 255, or such pixels divided by
            255. Labels are [N]: integers or text. Where they are not the integers from 0 to K-1,
            classes are the labels of train in their order, and keep them as names.

    Raises:
        DataError: another number of arrays, or one that is neither images nor labels. What else is
            wrong, the data set says when it is loaded.
        WriteError: the file cannot be written.
    """
    named: dict[str, np.ndarray] = {}
    for split, (image, label) in _pairs(data).items():
        part = "" if split == "train" else f"{split}_"
        named[f"{part}image"] = _pixels(f"{part}image", _array(f"{part}image", image))
        named[f"{part}label"] = _labels(f"{part}label", _array(f"{part}label", label))
    named |= _numbered({key: array for key, array in named.items() if key.endswith("label")})
    digest = hashlib.sha256()
    for key in NPZ_KEYS[0]:
        if key in named:
            array = named[key] = np.ascontiguousarray(named[key])
            digest.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
            digest.update(array.tobytes())
    path = cache.root() / "arrays" / f"{digest.hexdigest()}.npz"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part_file = path.with_suffix(".part.npz")
            np.savez(part_file, **named)  # type: ignore[arg-type]  # keys are not options
            part_file.replace(path)
        except OSError as error:
            raise WriteError(f"cannot write {path} ({error.strerror})") from error
    return f"npz:{path}"


def _pairs(data: Arrays) -> dict[str, Sequence[Any]]:
    """(images, labels) by split, train first."""
    if isinstance(data, Mapping):
        for key in data:
            if key not in SPLITS:
                raise DataError(
                    f"data has no split {key!r}; the keys are train, validation and test"
                    f"{near_miss(str(key), SPLITS)}"
                )
        if "train" not in data:
            raise DataError("data: the split train is missing")
        pairs = {split: data[split] for split in SPLITS if data.get(split) is not None}
    elif isinstance(data, tuple | list) and len(data) in (2, 4):
        parts = list(data)
        if len(data) == 4:
            parts = [data[:2], data[2:]]
        elif not all(isinstance(part, tuple) and len(part) == 2 for part in data):
            parts = [data]
        pairs = dict(zip(("train", "test"), parts, strict=False))
    else:
        got = f"{len(data)} arrays" if isinstance(data, tuple | list) else type(data).__name__
        raise DataError(f"data must be {FORMS} (got {got})")
    for split, pair in pairs.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise DataError(f"data: {split} must be a pair (images, labels)")
    return pairs


def _array(key: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except Exception as error:  # tensors on a device, images of several sizes: each its own
        raise DataError(f"data: {key} cannot be made an array ({first_line(error)})") from None


def _pixels(key: str, array: np.ndarray) -> np.ndarray:
    """uint8 images of the same values, or DataError where they have none."""
    if array.dtype.kind not in "biuf":
        raise DataError(f"data: {key} must be an array of numbers (got {array.dtype})")
    if array.ndim == 4 and array.shape[3] > 4 >= array.shape[1]:
        raise DataError(
            f"data: {key} must be [N, H, W, C] (got {list(array.shape)}); of images [N, C, H, W], "
            "np.moveaxis(images, 1, -1) makes them"
        )
    if array.dtype == np.uint8 or not array.size:
        return array
    low, high = array.min(), array.max()
    if array.dtype.kind in "iu" and low >= 0 and high <= 255:
        return array.astype(np.uint8)
    if array.dtype.kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "f" and low >= 0 and high <= 255:  # NaN is in no such range
        # Division by 255 rounds a pixel by half an epsilon; anything else is not one.
        scale = 255 if high <= 1 else 1
        near = np.rint(array.astype(np.float64) * scale)
        error = np.abs(near / scale - array).max()
        if error <= np.finfo(array.dtype).eps:
            return near.astype(np.uint8)
    raise DataError(
        f"data: {key} must be pixels, integers from 0 to 255 or those divided by 255 (got "
        f"{array.dtype} from {low:g} to {high:g}); round other images to such, as (255 * "
        "images).round() of shares of 1, or use flaxcnn.FlaxCNNClassifier, which takes any numbers"
    )


def _labels(key: str, array: np.ndarray) -> np.ndarray:
    """Labels [N], integers or text."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        hint = "; of one-hot rows, labels.argmax(1) makes them" if array.ndim == 2 else ""
        raise DataError(f"data: {key} must be [N] (got {list(array.shape)}){hint}")
    if array.dtype.kind == "O":
        for kind in (str, int):
            if all(isinstance(value, kind) for value in array):
                return array.astype(kind)
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.rint(array)).all():
        return array.astype(np.int64)
    if array.dtype.kind not in "biuUT":
        odd = next((v for v in array.tolist() if not isinstance(v, str | int)), array.dtype)
        raise DataError(f"data: {key} must be all integers or all text (got {odd!r})")
    return array


def _numbered(labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The labels as numbers of classes, with the names of these where labels are not numbers yet.

    Raises:
        DataError: a split has a label that train has not, or another kind of labels.
    """
    train = labels["label"]
    kinds = {"text" if array.dtype.kind in "UT" else "integers" for array in labels.values()}
    if len(kinds) > 1:
        raise DataError("data: labels must be all integers or all text (got both)")
    present = np.unique(train)
    if train.dtype.kind in "iu" and np.array_equal(present, np.arange(len(present))):
        return labels
    named = {}
    for key, array in labels.items():
        if (unseen := np.setdiff1d(array, present)).size:
            row = int(np.flatnonzero(array == unseen[0])[0])
            raise DataError(
                f"data: {key} has {unseen[0].item()!r} in row {row}, which no row of train has"
            )
        named[key] = np.searchsorted(present, array).astype(np.int64)
    return {**named, "classes": present.astype(str)}
