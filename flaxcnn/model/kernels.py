"""Convolution and pooling in the form that each backend runs fast, with gradients of their own.

On CPU, XLA canonicalises convolutions in a program's entry computation only. Inside `lax.scan`, the
gradients that JAX writes for a convolution fall to an unoptimised emitter (jax issue 12868), and
the gradient of `reduce_window` max becomes a slow scatter. Here both gradients are written as
ordinary NHWC/HWIO convolutions of transposed arrays, and as slices and selections. On other
backends the convolution keeps JAX's own gradient, which cuDNN and the TPU compiler run natively.

Gradients are reverse-mode only (`jax.custom_vjp`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from flaxcnn.recipe.layers import Padding

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]  # (low, high) of H, (low, high) of W
LAYOUT = ("NHWC", "HWIO", "NHWC")


def pads(shape: Pair, window: Pair, stride: Pair, padding: Padding) -> Pads:
    """Zero rows before and after H and W; SAME puts the odd one after, as Keras and XLA do."""
    if padding == "valid":
        return (0, 0), (0, 0)
    found = []
    for n, k, s in zip(shape, window, stride, strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        found.append((total // 2, total - total // 2))
    return found[0], found[1]


def conv2d(x: jax.Array, w: jax.Array, stride: Pair, padding: Padding) -> jax.Array:
    """Cross-correlation: x [B, H, W, I], w [kh, kw, I, O] of one dtype -> [B, H', W', O]."""
    pad = pads((x.shape[1], x.shape[2]), (w.shape[0], w.shape[1]), stride, padding)
    if jax.default_backend() == "cpu":
        return _canonical_conv(x, w, stride, pad)
    return _conv(x, w, stride, pad)


def _conv(x: jax.Array, w: jax.Array, stride: Pair, pad: Pads) -> jax.Array:
    return lax.conv_general_dilated(x, w, stride, pad, dimension_numbers=LAYOUT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _canonical_conv(x: jax.Array, w: jax.Array, stride: Pair, pad: Pads) -> jax.Array:
    return _conv(x, w, stride, pad)


def _conv_forward(
    x: jax.Array, w: jax.Array, stride: Pair, pad: Pads
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv(x, w, stride, pad), (x, w)


def _conv_backward(
    stride: Pair, pad: Pads, residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """dx and dw as stride-1 convolutions; a strided dy is spread out with zeros first."""
    x, w = residuals
    if stride != (1, 1):
        spread = [(0, 0, 0), *((0, 0, s - 1) for s in stride), (0, 0, 0)]
        dy = lax.pad(dy, jnp.zeros((), dy.dtype), spread)
    around, within = [], []  # padding of dy for dx, and of x for dw
    for axis, (low, high) in enumerate(pad, start=1):
        k = w.shape[axis - 1]
        unused = x.shape[axis] + low + high - (k - 1) - dy.shape[axis]  # rows the stride skipped
        around.append((k - 1 - low, k - 1 - high + unused))
        within.append((low, high - unused))
    dx = _conv(dy, w[::-1, ::-1].transpose(0, 1, 3, 2), (1, 1), (around[0], around[1]))
    crop = [min(high, 0) for _, high in within]
    x = x[:, : x.shape[1] + crop[0], : x.shape[2] + crop[1]]
    positive = tuple((low, max(high, 0)) for low, high in within)
    dw = _conv(  # [I, H, W, B] * [H', W', B, O] -> [I, kh, kw, O]
        x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), (1, 1), (positive[0], positive[1])
    )
    return dx, dw.transpose(1, 2, 0, 3)


_canonical_conv.defvjp(_conv_forward, _conv_backward)


def max_pool2d(x: jax.Array, size: Pair, stride: Pair, padding: Padding) -> jax.Array:
    """Largest value of each window, [B, H, W, C] -> [B, H', W', C].

    The gradient goes to the first largest value of a window in row order, as Keras, TensorFlow
    and XLA's select-and-scatter have it.
    """
    if size == (1, 1) and stride == (1, 1):
        return x
    return _max_pool(x, size, stride, pads((x.shape[1], x.shape[2]), size, stride, padding))


def avg_pool2d(x: jax.Array, size: Pair, stride: Pair, padding: Padding) -> jax.Array:
    """Mean of each window over the true pixels only, [B, H, W, C] -> [B, H', W', C]."""
    pad = pads((x.shape[1], x.shape[2]), size, stride, padding)
    total = sum(_window_values(x, size, stride, pad, 0.0))
    if padding == "valid":
        return total / jnp.asarray(size[0] * size[1], x.dtype)
    count = sum(_window_values(jnp.ones_like(x[:1, :, :, :1]), size, stride, pad, 0.0))
    return total / count


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: jax.Array, size: Pair, stride: Pair, pad: Pads) -> jax.Array:
    return functools.reduce(jnp.maximum, _window_values(x, size, stride, pad, -jnp.inf))


def _max_pool_forward(
    x: jax.Array, size: Pair, stride: Pair, pad: Pads
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    y = _max_pool(x, size, stride, pad)
    return y, (x, y)


def _max_pool_backward(
    size: Pair, stride: Pair, pad: Pads, residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array]:
    x, y = residuals
    shape = [n + sum(p) for n, p in zip(x.shape[1:3], pad, strict=True)]
    zero = jnp.zeros((), dy.dtype)
    taken = jnp.zeros(y.shape, bool)
    dx = jnp.zeros((x.shape[0], *shape, x.shape[3]), dy.dtype)
    places = itertools.product(range(size[0]), range(size[1]))
    for (i, j), value in zip(places, _window_values(x, size, stride, pad, -jnp.inf), strict=True):
        wins = (value == y) & ~taken
        taken |= wins
        share = jnp.where(wins, dy, zero)
        spread = [  # back to the place in the padded image that this value came from
            (start, n - start - (m - 1) * s - 1, s - 1)
            for start, n, m, s in zip((i, j), shape, y.shape[1:3], stride, strict=True)
        ]
        dx += lax.pad(share, zero, [(0, 0, 0), *spread, (0, 0, 0)])
    rows, columns = ((low, low + n) for (low, _), n in zip(pad, x.shape[1:3], strict=True))
    return (dx[:, slice(*rows), slice(*columns)],)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
