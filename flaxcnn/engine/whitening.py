"""A first convolution that whitens the patches of the training images, known before training."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.data.arrays import Dataset
from flaxcnn.data.batches import Resident, Scaling, take
from flaxcnn.data.splits import Rows
from flaxcnn.data.standardize import standardize
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import WHITENED, Conv, pair

IMAGES = 5000  # the first training rows, as airbench takes them
AT_ONCE = 250  # of them, so that their patches fit a small memory
FLOOR = 5e-4  # added to the variance along each direction
_kept: dict[tuple[str, ...], np.ndarray] = {}  # of the data sets of this process


def whitening(
    config: Config, dataset: Dataset, rows: Rows, scaling: Scaling
) -> dict[str, np.ndarray]:
    """The array of a first layer that whitens, by its path; none for other networks.

    Its kernel [kh, kw, C, O] has, for each eigenvector v of the patches' second moments with value
    e, largest first, v / sqrt(e + FLOOR), and after all of these their negatives (Page 2019; Jordan
    2024, arXiv:2404.00498, section 3.2). The largest number of each is positive.
    """
    if not config.whitens:
        return {}
    layer = config.layers[0]
    assert isinstance(layer, Conv)  # which `whitens` says
    parts = (dataset.digest, str(layer), *(
        hashlib.sha256(np.asarray(array).tobytes()).hexdigest()
        for array in (rows.train[:IMAGES], scaling.mean, scaling.scale)
    ))  # fmt: skip
    if dataset.digest and parts in _kept:
        return {f"params/{WHITENED}": _kept[parts]}
    kernel = _kernel(layer, dataset, rows.train[:IMAGES], scaling)
    _kept[parts] = kernel
    return {f"params/{WHITENED}": kernel}


def _kernel(layer: Conv, dataset: Dataset, rows: np.ndarray, scaling: Scaling) -> np.ndarray:
    size, count = _size(layer, dataset.shape[-1]), 0
    moments = np.zeros((size, size))
    for first in range(0, len(rows), AT_ONCE):
        image = np.asarray(dataset.train.image[rows[first : first + AT_ONCE]], np.float64)
        patches = _patches(layer, (image - np.asarray(scaling.mean)) / np.asarray(scaling.scale))
        moments, count = moments + patches.T @ patches, count + len(patches)
    return np.asarray(_filters(layer, moments / count)).astype(np.float32)


def whitened(layer: Conv, data: Resident, rows: jax.Array) -> jax.Array:
    """The same kernel [H, W, C, N], computed in float32 inside a program.

    Args:
        layer: the first of the network.
        data: on the device.
        rows: [N] int32, the training rows in their order.
    """
    rows = rows[:IMAGES]

    def moments_of(rows: jax.Array) -> jax.Array:
        batch = take(data, rows, jnp.ones(len(rows), bool))
        patches = _patches(layer, standardize(batch.image, data.scaling.mean, data.scaling.scale))
        return jnp.matmul(patches.T, patches, precision="highest") / len(patches)

    whole = len(rows) // AT_ONCE * AT_ONCE
    each = jax.lax.map(moments_of, rows[:whole].reshape(-1, AT_ONCE)).sum(axis=0) * AT_ONCE
    if whole < len(rows):
        each = each + moments_of(rows[whole:]) * (len(rows) - whole)
    kernel: jax.Array = _filters(layer, each / len(rows))
    return kernel


def _size(layer: Conv, channels: int) -> int:
    """Numbers of a patch."""
    return math.prod(pair(layer.kernel, "kernel")) * channels


def _patches(layer: Conv, image: Any) -> Any:
    """The patches [n, rows * columns * channels] of images [B, H, W, C], of NumPy or jax."""
    (rows, columns), (height, width) = pair(layer.kernel, "kernel"), image.shape[1:3]
    parts = [
        image[:, y : height - rows + 1 + y, x : width - columns + 1 + x]
        for y in range(rows) for x in range(columns)
    ]  # fmt: skip
    stack = image.__array_namespace__().stack(parts, axis=3)
    return stack.reshape(-1, _size(layer, image.shape[-1]))


def _filters(layer: Conv, moments: Any) -> Any:
    """The kernel [H, W, C, N] for second moments [P, P] of patches, of NumPy or jax."""
    xp = moments.__array_namespace__()
    values, vectors = xp.linalg.eigh(moments)
    half = layer.filters // 2
    best = vectors.T[::-1][:half]
    largest = xp.abs(best).argmax(axis=1)[:, None]
    signs = xp.sign(xp.take_along_axis(best, largest, axis=1))
    filters = best * signs / xp.sqrt(values[::-1][:half, None] + FLOOR)
    both = xp.concatenate([filters, -filters])
    window = pair(layer.kernel, "kernel")
    return both.T.reshape(*window, len(moments) // math.prod(window), layer.filters)
