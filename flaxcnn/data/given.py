"""Arrays given in Python, kept as a file so that a run on them can be done again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxcnn.data import cache
from flaxcnn.data.sources import NPZ_KEYS
from flaxcnn.errors import DataError, WriteError


def keep(arrays: Sequence[Any]) -> str:
    """The name of a data set made of arrays: images and labels, and maybe those of a test split.

    The arrays go to `arrays/SHA-256.npz` in the folder of prepared data, unless they are there.

    Args:
        arrays: NumPy arrays or anything that becomes one: images uint8 [N, H, W] or [N, H, W, C],
            labels integers [N] from 0 to K-1.

    Raises:
        DataError: another number of arrays, or one that is not of numbers. What else is wrong, the
            data set says when it is loaded.
        WriteError: the file cannot be written.
    """
    if len(arrays) not in (2, 4):
        raise DataError(
            "data must be (images, labels) or (images, labels, test_images, test_labels) "
            f"(got {len(arrays)} arrays)"
        )
    named = {
        key: np.ascontiguousarray(array)
        for key, array in zip(NPZ_KEYS[0].values(), arrays, strict=False)
    }
    digest = hashlib.sha256()
    for key, array in named.items():
        if array.dtype.kind not in "biuf":
            raise DataError(f"data: {key} must be an array of numbers (got {array.dtype})")
        if key.endswith("image") and array.dtype != np.uint8:
            raise DataError(
                f"data: {key} must be uint8, pixels from 0 to 255 (got {array.dtype}); for other "
                "numbers use flaxcnn.FlaxCNNClassifier"
            )
        digest.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    path = cache.root() / "arrays" / f"{digest.hexdigest()}.npz"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.npz")
            np.savez(part, **named)  # type: ignore[arg-type]  # keys are not options
            part.replace(path)
        except OSError as error:
            raise WriteError(f"cannot write {path} ({error.strerror})") from error
    return f"npz:{path}"
