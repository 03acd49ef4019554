"""Images of any size brought to the size of the recipe, by Pillow's bilinear filter."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from flaxcnn.recipe.resize import Resize

AREA = (0.08, 1.0)  # of a random crop, as a share of the image (Szegedy et al. 2015)
ASPECT = (3 / 4, 4 / 3)  # width / height, uniform in its logarithm
TRIES = 10
UNIT = 2.0**-53  # 53 random bits make a float64 in [0, 1)
Box = tuple[float, float, float, float]  # left, upper, right, lower


class Draws(NamedTuple):
    """What random crops of an epoch depend on, besides the row number."""

    seed: int  # of augmentation
    epoch: int
    copy: int = 0  # of a row that an epoch has several times


def fit(image: Image.Image, resize: Resize, draws: Draws | None, row: int) -> Image.Image:
    """The image in the size of the recipe: with `draws` as for training, else for evaluation."""
    policy = resize.evaluate if draws is None else resize.train
    wanted = (resize.width, resize.height)
    box: Box = (0, 0, image.width, image.height)
    if policy == "center_crop":
        box = central(image.size, resize.width / resize.height)
    elif policy == "random_crop":
        assert draws is not None  # evaluation has no such policy
        box = random_box(image.size, draws, row)
    if image.size == wanted and box == (0, 0, *wanted):
        return image
    return image.resize(wanted, Image.Resampling.BILINEAR, box=box)


def central(size: tuple[int, int], aspect: float) -> Box:
    """The largest part of an image of `size` (width, height) that has `aspect`, in its middle.

    >>> central((60, 40), aspect=1.0)
    (10.0, 0.0, 50.0, 40.0)
    """
    width, height = size
    inner = (min(width, height * aspect), min(height, width / aspect))
    left, upper = (width - inner[0]) / 2, (height - inner[1]) / 2
    return left, upper, left + inner[0], upper + inner[1]


def random_box(size: tuple[int, int], draws: Draws, row: int) -> Box:
    """A random part in whole pixels, a function of (seed, epoch, copy, row) alone.

    As in Inception: ten tries of an area and an aspect that fit, else the largest central part of
    an allowed aspect.
    """
    # Philox is counter-based, so that any worker draws the same for a row; NumPy guarantees its raw
    # stream, but not that of its distributions.
    key = [draws.seed << 32 | draws.epoch, row]
    source = np.random.Philox(counter=[0, draws.copy, 0, 0], key=key)
    width, height = size
    for _ in range(TRIES):
        u = (source.random_raw(4) >> np.uint64(11)).astype(np.float64) * UNIT
        area = width * height * (AREA[0] + (AREA[1] - AREA[0]) * u[0])
        low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
        aspect = math.exp(low + (high - low) * u[1])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, upper = int(u[2] * (width - w + 1)), int(u[3] * (height - h + 1))
            return left, upper, left + w, upper + h
    return central(size, min(max(width / height, ASPECT[0]), ASPECT[1]))
