"""A first convolution that whitens the patches of the training images, computed before training."""

from __future__ import annotations

import hashlib

import numpy as np

from flaxcnn.data.arrays import Dataset
from flaxcnn.data.batches import Scaling
from flaxcnn.data.splits import Rows
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
    window, channels = pair(layer.kernel, "kernel"), dataset.shape[-1]
    size, count = window[0] * window[1] * channels, 0
    moments = np.zeros((size, size))
    for first in range(0, len(rows), AT_ONCE):
        image = np.asarray(dataset.train.image[rows[first : first + AT_ONCE]], np.float64)
        image = (image - np.asarray(scaling.mean)) / np.asarray(scaling.scale)
        views = np.lib.stride_tricks.sliding_window_view(image, window, (1, 2))
        patches = np.moveaxis(views, 3, -1).reshape(-1, size)  # rows, columns, channels
        moments, count = moments + patches.T @ patches, count + len(patches)
    values, vectors = np.linalg.eigh(moments / count)
    half = layer.filters // 2
    best = vectors.T[::-1][:half]
    signs = np.sign(np.take_along_axis(best, np.abs(best).argmax(1)[:, None], axis=1))
    filters = best * signs / np.sqrt(values[::-1][:half, None] + FLOOR)
    both = np.concatenate([filters, -filters])
    return both.T.reshape(*window, channels, layer.filters).astype(np.float32)
