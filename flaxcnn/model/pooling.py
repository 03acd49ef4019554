"""Pooling, [B, H, W, C], with gradients that XLA's CPU compiler runs fast.

The gradient of `reduce_window` max becomes a slow scatter there; here both passes are slices and
selections.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from flaxcnn.model.depthwise import depthwise2d
from flaxcnn.model.kernels import NO_PADS, Pads, pads
from flaxcnn.model.layout import Pair, dilate_pad, materialize
from flaxcnn.recipe.layers import Padding

MOST_SMALL = 255  # places of a window, and one number for none, that uint8 and bfloat16 can tell
MOST_PLACES = 2**16  # that half a word can tell


def max_pool2d(
    x: jax.Array, size: Pair, stride: Pair, padding: Padding, platform: str | None = None
) -> jax.Array:
    """Largest value of each window, [B, H, W, C] -> [B, H', W', C].

    The gradient goes to the first largest value of a window in row order, as Keras, TensorFlow
    and XLA's select-and-scatter have it.
    """
    if size == (1, 1) and stride == (1, 1):
        return x
    pad = pads((x.shape[1], x.shape[2]), size, stride, padding)
    return _max_pool(x, size, stride, pad, platform)


def avg_pool2d(x: jax.Array, size: Pair, stride: Pair, padding: Padding) -> jax.Array:
    """Mean of each window over the true pixels only, [B, H, W, C] -> [B, H', W', C]."""
    pad = pads((x.shape[1], x.shape[2]), size, stride, padding)
    total = functools.reduce(jnp.add, _window_values(x, size, stride, pad, 0.0))
    if padding == "valid":
        return total / jnp.asarray(size[0] * size[1], x.dtype)
    ones = jnp.ones_like(x[:1, :, :, :1])
    return total / functools.reduce(jnp.add, _window_values(ones, size, stride, pad, 0.0))


def _window_values(
    x: jax.Array, size: Pair, stride: Pair, pad: Pads, fill: float
) -> Iterator[jax.Array]:
    """For each place in the window, in row order, its value in every window: [B, H', W', C]."""
    low, high = pad
    shape = (x.shape[1] + sum(low), x.shape[2] + sum(high))
    x = lax.pad(x, jnp.asarray(fill, x.dtype), [(0, 0, 0), (*low, 0), (*high, 0), (0, 0, 0)])
    out = [(n - k) // s + 1 for n, k, s in zip(shape, size, stride, strict=True)]
    for i, j in itertools.product(range(size[0]), range(size[1])):
        rows = slice(i, i + (out[0] - 1) * stride[0] + 1, stride[0])
        columns = slice(j, j + (out[1] - 1) * stride[1] + 1, stride[1])
        yield x[:, rows, columns]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_pool(x: jax.Array, size: Pair, stride: Pair, pad: Pads, platform: str | None) -> jax.Array:
    return functools.reduce(jnp.maximum, _window_values(x, size, stride, pad, -jnp.inf))


def _winner_type(places: int, dtype: Any, platform: str | None) -> Any:
    """Of the numbers of places in a window.

    Small ones save a GPU memory traffic; a TPU lays arrays of one type out alike; on CPU both cost
    time.
    """
    where = platform or jax.default_backend()
    if where == "cpu" or places >= MOST_SMALL:
        return jnp.int32
    return dtype if where == "tpu" else jnp.uint8


def largest(
    x: jax.Array, size: Pair, stride: Pair, pad: Pads, platform: str | None,
    sign: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """(largest value of each window, its place in the window in row order), [B, H', W', C] both.

    With `sign`, 1 or -1 and broadcast against x, those of x * sign.
    """
    if sign is not None and pad != NO_PADS:
        x, sign = x * sign, None  # what is filled in stays the smallest
    values = list(_window_values(x, size, stride, pad, -jnp.inf))
    if sign is not None:  # of a value where it is read: x * sign is never written
        values = [value * sign for value in values]
    y = functools.reduce(jnp.maximum, values)
    number = _winner_type(len(values), x.dtype, platform)
    winner = jnp.full(y.shape, len(values), number)
    for place in reversed(range(len(values))):
        winner = jnp.where(values[place] == y, jnp.asarray(place, number), winner)
    # or the gradient compares all values once more
    return y, materialize(winner, winner.shape, platform)


def _max_pool_forward(
    x: jax.Array, size: Pair, stride: Pair, pad: Pads, platform: str | None
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y, winner = largest(x, size, stride, pad, platform)
    return y, (winner, jnp.empty((0, *x.shape[1:3]), bool))  # the second only carries a shape


def _max_pool_backward(
    size: Pair, stride: Pair, pad: Pads, platform: str | None,
    residuals: tuple[jax.Array, jax.Array], dy: jax.Array,
) -> tuple[jax.Array]:  # fmt: skip
    winner, like = residuals
    dx = spread(winner, dy, (like.shape[1], like.shape[2]), size, stride, pad, platform)
    return (dx.astype(dy.dtype),)


def spread(
    winner: jax.Array, dy: jax.Array, shape: Pair, size: Pair, stride: Pair, pad: Pads,
    platform: str | None,
) -> jax.Array:  # fmt: skip
    """dy [B, H', W', C] at the places that `largest` gave, [B, *shape, C]; 0 elsewhere.

    The same values, of dy's type or float32.
    """
    height, width = shape
    back = _spread_overlapping
    if size == stride:
        back = _spread_on_tpu if platform == "tpu" else _spread_apart
    padded = (height + sum(pad[0]), width + sum(pad[1]))
    dx = back(winner, dy, size, stride, padded)
    (top, _), (left, _) = pad
    return dx[:, top : top + height, left : left + width]


def _spread_apart(
    winner: jax.Array, dy: jax.Array, size: Pair, stride: Pair, shape: Pair
) -> jax.Array:
    """Windows side by side: every input pixel asks its one window whether it won."""
    batch, rows, columns, channels = dy.shape
    place = jnp.arange(size[0] * size[1], dtype=winner.dtype).reshape(1, 1, size[0], 1, size[1], 1)
    wins = winner[:, :, None, :, None] == place
    dx = jnp.where(wins, dy[:, :, None, :, None], jnp.zeros((), dy.dtype))
    dx = dx.reshape(batch, rows * size[0], columns * size[1], channels)
    rest = (shape[0] - dx.shape[1], shape[1] - dx.shape[2])  # pixels in no window
    return jnp.pad(dx, ((0, 0), (0, rest[0]), (0, rest[1]), (0, 0)))


def _spread_on_tpu(
    winner: jax.Array, dy: jax.Array, size: Pair, stride: Pair, shape: Pair
) -> jax.Array:
    """The same; bfloat16 values become float32 ones.

    Of those, one word has both the value, in its upper half, and the place, in its lower one, which
    the place that asks cancels: one array is repeated, and 16 bits would be packed and unpacked.
    """
    rows, columns = (np.arange(n) % k for n, k in zip(shape, size, strict=True))
    place = jnp.asarray((rows[:, None] * size[1] + columns[None])[None, :, :, None], jnp.uint32)
    if dy.dtype != jnp.bfloat16 or math.prod(size) >= MOST_PLACES:
        wins = _repeated(winner, size, shape) == place.astype(winner.dtype)
        return jnp.where(wins, _repeated(dy, size, shape), jnp.zeros((), dy.dtype))
    word = lax.bitcast_convert_type(dy.astype(jnp.float32), jnp.uint32)
    word |= winner.astype(jnp.int32).astype(jnp.uint32)
    word = _repeated(word, size, shape) ^ place
    value = lax.bitcast_convert_type(word, jnp.float32)
    return jnp.where(word & jnp.uint32(0xFFFF) == 0, value, 0.0)


def _repeated(x: jax.Array, size: Pair, shape: Pair) -> jax.Array:
    """Each value of x [B, H', W', C] at all places of its window, [B, *shape, C]; 0 in no window.

    As sums of it and of zeros. A TPU's compiler makes that one pass with what is before and after,
    where it writes a broadcast along six axes to memory (benchmarks/NOTES.md).
    """
    around = [(k - 1, k - 1 + n - m * k) for m, k, n in zip(x.shape[1:3], size, shape, strict=True)]
    window = (1, *size, 1)
    return lax.reduce_window(
        x, jnp.zeros((), x.dtype), lax.add, window, (1, 1, 1, 1), ((0, 0), *around, (0, 0)),
        base_dilation=window,
    )  # fmt: skip


def _spread_overlapping(
    winner: jax.Array, dy: jax.Array, size: Pair, stride: Pair, shape: Pair
) -> jax.Array:
    """Windows that share pixels: add up what each place of the window sends back."""
    dx = jnp.zeros((dy.shape[0], *shape, dy.shape[3]), dy.dtype)
    for place, start in enumerate(itertools.product(range(size[0]), range(size[1]))):
        share = jnp.where(winner == jnp.asarray(place, winner.dtype), dy, jnp.zeros((), dy.dtype))
        dx += dilate_pad(share, 1, start, stride, shape)
    return dx


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def blur_pool2d(x: jax.Array, size: int, stride: int, platform: str | None = None) -> jax.Array:
    """A binomial filter on each channel, then every `stride`-th place (Zhang 2019).

    x [B, H, W, C] -> [B, ceil(H / stride), ceil(W / stride), C]; pixels are mirrored at the edges.
    """
    row = np.array([math.comb(size - 1, i) for i in range(size)], np.float64) / 2.0 ** (size - 1)
    before, after = (size - 1) // 2, size // 2
    wide = jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)), mode="reflect")
    kernel = jnp.asarray(np.outer(row, row)[..., None, None], x.dtype)
    kernel = jnp.broadcast_to(kernel, (size, size, x.shape[-1], 1))
    return depthwise2d(wide, kernel, (stride, stride), "valid", 1, platform)
