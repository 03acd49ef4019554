"""Data without preparation: the digits of scikit-learn, and NumPy's .npz files."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from flaxcnn.data.arrays import Dataset, Split, check_labels, dataset
from flaxcnn.errors import DataError, first_line
from flaxcnn.limits import open_regular

MAX_RATIO = 200  # inflated : stored; beyond it only arrays up to ALWAYS_READ are read
ALWAYS_READ = 2**30  # bytes
# RuntimeError: an encrypted member, or a compression that zipfile does not know
UNREADABLE = (
    OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, MemoryError,
)  # fmt: skip
NPZ_KEYS = (
    {"image": "image", "label": "label", "test_image": "test_image", "test_label": "test_label",
     "validation_image": "validation_image", "validation_label": "validation_label",
     "classes": "classes"},
    {"image": "x_train", "label": "y_train", "test_image": "x_test", "test_label": "y_test",
     "validation_image": "x_val", "validation_label": "y_val", "classes": "classes"},
)  # fmt: skip


def digits() -> Dataset:
    """1,797 handwritten digits of 8x8 pixels; a fixed stratified fifth is the test split.

    scikit-learn holds ink counts 0..16; a pixel here is round(count * 255 / 16), so that white is
    255 as in every other data set.
    """
    from sklearn.datasets import load_digits  # seconds to import

    data = load_digits()
    image = np.rint(data.images[..., None] * (255 / 16)).astype(np.uint8)
    label = data.target.astype(np.int32)
    return dataset("digits", Split(image, label), None, [str(i) for i in range(10)])


def npz(path: Path) -> Dataset:
    """Keys image, label (and test_image, test_label), or Keras' x_train, y_train (x_test, y_test).

    Images are uint8 [N, H, W] or [N, H, W, C] with 1 to 4 channels, labels integers [N] or [N, 1]
    from 0 to K-1. Without test rows, a fixed stratified fifth of the rows is held out for test.
    validation_image and validation_label, or x_val and y_val, may give rows to validate, and
    `classes`, text [K], the names of the classes.
    No pickle is ever read, and no array whose header does not match its size in the file.

    Raises:
        DataError: anything else; the message names file, key, what is wrong and what is allowed.
    """
    path = path.expanduser()
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            arrays = _arrays(path, archive)
    except OSError as error:
        raise DataError(f"npz:{path}: {error.strerror or error}") from None
    except UNREADABLE as error:
        raise DataError(
            f"npz:{path}: cannot be read as an .npz file ({first_line(error)})"
        ) from None
    where = f"npz:{path}"
    train = _split(path, arrays["image"], arrays["label"])
    test, held = (
        _split(path, arrays[f"{split}_image"], arrays[f"{split}_label"])
        if f"{split}_image" in arrays
        else None
        for split in ("test", "validation")
    )
    count = check_labels(
        where, train.label, None if test is None else test.label,
        None if held is None else held.label,
    )  # fmt: skip
    classes = [str(i) for i in range(count)]
    if "classes" in arrays:
        classes = _class_names(where, arrays["classes"].array.tolist(), count)
    if held is None:
        return dataset(where, train, test, classes)
    return dataset(where, joined(where, train, held), test, classes, len(held))


def joined(where: str, train: Split, validation: Split) -> Split:
    """The rows of train, then those of validation, which must have images of the same shape."""
    if train.image.shape[1:] != validation.image.shape[1:]:
        raise DataError(
            f"{where}: train images {list(train.image.shape[1:])} and validation images "
            f"{list(validation.image.shape[1:])} must have one shape [H, W, C]"
        )
    return Split(
        np.concatenate([train.image, validation.image]),
        np.concatenate([train.label, validation.label]),
    )


def _class_names(where: str, names: list[str], count: int) -> list[str]:
    if len(names) != count or len(set(names)) != count:
        raise DataError(
            f"{where}: classes must be {count} different names, one for each label (got "
            f"{len(names)}, {len(set(names))} of them different)"
        )
    return names


class _Member(NamedTuple):
    key: str
    array: np.ndarray


def _arrays(path: Path, archive: zipfile.ZipFile) -> dict[str, _Member]:
    names = [member.filename for member in archive.infolist()]
    members = [name.removesuffix(".npy") for name in names if name.endswith(".npy")]
    keys = _keys(path, members)
    return {role: _Member(key, _read(path, archive, key)) for role, key in keys.items()}


def _keys(path: Path, members: list[str]) -> Mapping[str, str]:
    """Role -> key in the file."""
    allowed = "; ".join(", ".join(keys.values()) for keys in NPZ_KEYS)
    styles = [k for k in NPZ_KEYS if k["image"] in members or k["label"] in members]
    if len(styles) != 1 or len(set(members)) != len(members):
        raise DataError(
            f"npz:{path}: the keys must be one of the sets {allowed}, each key once and those "
            f"after the second optional (got {', '.join(sorted(members)) or 'none'})"
        )
    keys = {role: key for role, key in styles[0].items() if key in members}
    for part in ("", "test_", "validation_"):
        pair = (f"{part}image", f"{part}label")
        if len(missing := [styles[0][r] for r in pair if r not in keys]) == 1:
            raise DataError(f"npz:{path}: key {missing[0]} is missing; images need labels")
    return keys


def _read(path: Path, archive: zipfile.ZipFile, key: str) -> np.ndarray:
    """One array, read only after its header, its size in the file and its type agree."""
    where = f"npz:{path}: {key}"
    member = archive.getinfo(f"{key}.npy")
    try:
        with archive.open(member) as file:
            shape, dtype = _header(file)
            header = file.tell()
        _check_type(where, key, dtype, shape)
        expected, size = math.prod(shape) * dtype.itemsize, member.file_size - header
        ratio = member.file_size / max(member.compress_size, 1)
        if expected != size or (size > ALWAYS_READ and ratio > MAX_RATIO):
            raise DataError(
                f"{where}: is damaged or a decompression bomb: its header announces {expected} "
                f"bytes of {dtype}{list(shape)}, but {size} are packed into {member.compress_size}"
            )
        with archive.open(member) as file:
            array = npy.read_array(file, allow_pickle=False)
            file.read(1)  # the end of the member, where zipfile compares its checksum
            return np.ascontiguousarray(array)
    except UNREADABLE as error:
        raise DataError(f"{where}: the array cannot be read ({first_line(error)})") from None


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, type) that an array announces; ValueError where that cannot be read."""
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:  # (3, 0) is for record arrays and fails here
        shape, _, dtype = read(file)
    except Exception as error:  # of a Python literal, also TokenError, RecursionError, MemoryError
        raise ValueError(f"its header is no table of NumPy's ({type(error).__name__})") from None
    return shape, dtype


def _check_type(where: str, key: str, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    if key == "classes":
        fits = dtype.kind == "U" and len(shape) == 1
        allowed = "text [K], the name of each class"
    elif key.endswith("image") or key.startswith("x_"):
        fits = dtype == np.uint8 and (len(shape) == 3 or (len(shape) == 4 and 1 <= shape[3] <= 4))
        allowed = "uint8 [N, H, W] or [N, H, W, C] with 1 to 4 channels, pixels 0..255"
    else:
        fits = dtype.kind in "iu" and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1))
        allowed = "integers [N], the class number of each image"
    if not fits or 0 in shape:
        got = "objects (a pickle)" if dtype.hasobject else f"{dtype}{list(shape)}"
        empty = ", none of the sizes 0" if 0 in shape else ""
        raise DataError(f"{where} must be {allowed}{empty} (got {got})")


def _split(path: Path, image: _Member, label: _Member) -> Split:
    if len(image.array) != len(label.array):
        raise DataError(
            f"npz:{path}: {image.key} and {label.key} must have equal lengths (got "
            f"{len(image.array)} and {len(label.array)} rows)"
        )
    flat = label.array.reshape(len(label.array))  # Keras stores CIFAR's labels as [N, 1]
    limit = np.iinfo(np.int32).max
    if (far := np.flatnonzero((flat < 0) | (flat > limit))).size:
        raise DataError(
            f"npz:{path}: {label.key} must be 0..K-1 (got {flat[far[0]]} in row {far[0]})"
        )
    pixels = image.array if image.array.ndim == 4 else image.array[..., None]
    return Split(pixels, flat.astype(np.int32))
