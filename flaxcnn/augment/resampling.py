"""Images resampled: a map says where each pixel comes from, and maps compose."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.augment.rows import Rows, as_float
from flaxcnn.recipe.transforms import Fill

# Of the pixels before and after a place: index [B, H, W] int32 and weight [B, H, W] float32
Corners = tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]


# Pixels of the longer side up to which a TPU resamples by products, which take H and W times the
# memory of an image; a gather costs more than a step of a small network (benchmarks/NOTES.md).
PRODUCTS_PAY = 64


class Map(NamedTuple):
    """Where a pixel comes from: y' = yy * y + yx * x + y0, and x' likewise, from the centre.

    Each is [B], or a number for all rows.
    """

    yy: jax.Array | float = 1.0
    yx: jax.Array | float = 0.0
    y0: jax.Array | float = 0.0
    xy: jax.Array | float = 0.0
    xx: jax.Array | float = 1.0
    x0: jax.Array | float = 0.0

    def after(self, first: Map) -> Map:
        """The map that does `first` and then this one."""
        return Map(
            self.yy * first.yy + self.yx * first.xy, self.yy * first.yx + self.yx * first.xx,
            self.yy * first.y0 + self.yx * first.x0 + self.y0,
            self.xy * first.yy + self.xx * first.xy, self.xy * first.yx + self.xx * first.xx,
            self.xy * first.y0 + self.xx * first.x0 + self.x0,
        )  # fmt: skip


def turned(degrees: jax.Array) -> Map:
    """A turn by an angle [B], counter-clockwise."""
    angle = degrees * jnp.float32(np.pi / 180)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return Map(yy=cos, yx=sin, xy=-sin, xx=cos)


def slanted(along: jax.Array, up: jax.Array | float = 0.0) -> Map:
    """A slant by angles [B] in degrees, as torchvision's `affine` with shear=(along, up)."""
    radians = jnp.float32(np.pi / 180)
    tan_x, tan_y = jnp.tan(along * radians), jnp.tan(jnp.asarray(up, jnp.float32) * radians)
    return Map(yy=jnp.ones_like(tan_x), yx=tan_y, xy=tan_x, xx=1.0 + tan_x * tan_y)


def resampled(
    rows: Rows, source: Map, fill: Fill, field: tuple[jax.Array, jax.Array] | None = None
) -> jax.Array:
    """Images [B, H, W, C] of `rows` with every pixel from where `source` says, bilinear -> float32.

    Args:
        rows: with images in uint8 or float32.
        source: of each pixel, from the centre of the image.
        fill: of what is outside.
        field: added to the place of each pixel of the result before `source`; [B, H, W] in y and x.
    """
    image = rows.readable()
    count, height, width = image.shape[:3]
    y = jnp.arange(height, dtype=jnp.float32)[None, :, None] - (height - 1) / 2
    x = jnp.arange(width, dtype=jnp.float32)[None, None, :] - (width - 1) / 2
    if field is not None:
        y, x = y + field[0], x + field[1]
    whole = (jnp.broadcast_to(jnp.asarray(number, jnp.float32), count) for number in source)
    drawn = rows.settled(Map(*whole))
    part = Map(*(number[:, None, None] for number in drawn))
    at = (
        part.yy * y + part.yx * x + part.y0 + (height - 1) / 2,
        part.xy * y + part.xx * x + part.x0 + (width - 1) / 2,
    )
    corners = [_neighbours(place, size, fill) for place, size in zip(at, (height, width))]
    products = rows.platform == "tpu" and max(height, width) <= PRODUCTS_PAY
    between = _by_products if products else _gathered
    result, covered = between(image, *corners)
    if fill == "constant":
        result += (1.0 - covered)[..., None] * rows.blank[None]
    return result


def _gathered(image: jax.Array, rows: Corners, columns: Corners) -> tuple[jax.Array, jax.Array]:
    """Weighted sums of four pixels each [B, H, W, C] float32, and of their weights [B, H, W]."""
    count, height, width, channels = image.shape
    flat = image.reshape(count, height * width, channels)
    gather = jax.vmap(functools.partial(jnp.take, axis=0, mode="clip"))
    result, covered = jnp.zeros(image.shape, jnp.float32), jnp.zeros(rows[0][0].shape, jnp.float32)
    for (row, weight_y), (column, weight_x) in itertools.product(rows, columns):
        index = (row * width + column).reshape(count, -1)
        weight = weight_y * weight_x
        result += weight[..., None] * as_float(gather(flat, index)).reshape(image.shape)
        covered += weight
    return result, covered


def _by_products(image: jax.Array, rows: Corners, columns: Corners) -> tuple[jax.Array, jax.Array]:
    """The same for a TPU, where a gather takes one pixel after the other.

    Weights of all rows of an image for each pixel of the result, most of them 0, times the image;
    then a sum over columns likewise.
    """
    count, height, width, channels = image.shape
    down, along = _weights(rows, height), _weights(columns, width)
    flat = as_float(image).reshape(count, height, width * channels)
    of_rows = jnp.einsum("bhp,bhk->bkp", down, flat, precision="highest")
    of_rows = of_rows.reshape(count, width, channels, -1)
    result = (of_rows * along[:, :, None]).sum(axis=1).swapaxes(1, 2).reshape(image.shape)
    (_, above), (_, below) = rows
    (_, before), (_, after) = columns
    return result, (above + below) * (before + after)


def _weights(pairs: Corners, size: int) -> jax.Array:
    """The weight [B, size, H * W] of every row, or column, for each pixel of the result."""
    every = jnp.arange(size, dtype=jnp.int32)[None, :, None]
    flat = [(index.reshape(len(index), 1, -1), weight.reshape(len(weight), 1, -1))
            for index, weight in pairs]  # fmt: skip
    first, second = (jnp.where(index == every, weight, 0.0) for index, weight in flat)
    return first + second


def _neighbours(at: jax.Array, size: int, fill: Fill) -> Corners:
    """(index, weight) of the pixels before and after coordinates; weight 0 outside if constant."""
    if fill == "reflect":
        at = reflected(at, size)
    elif fill == "nearest":
        at = jnp.clip(at, 0.0, size - 1.0)
    before = jnp.floor(at)
    share = at - before
    pairs = []
    for index, weight in ((before, 1.0 - share), (before + 1.0, share)):
        if fill == "constant":
            weight = jnp.where((index >= 0) & (index <= size - 1), weight, 0.0)
        pairs.append((jnp.clip(index, 0, size - 1).astype(jnp.int32), weight))
    return pairs[0], pairs[1]


def reflected(at: jax.Array, size: int) -> jax.Array:
    """Coordinates mirrored at the centres of the first and last pixel (numpy.pad's "reflect")."""
    last = max(size - 1, 1)
    if size == 1:
        return jnp.zeros_like(at)
    if at.dtype == jnp.float32:
        at = at - 2 * last * jnp.floor((at + last) / (2 * last))  # % calls a slow function on CPU
        return abs(at)
    return abs((at + last) % (2 * last) - last)
