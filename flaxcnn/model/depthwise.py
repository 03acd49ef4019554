"""Depthwise convolution in the form that each backend runs fast: on CPU, shifts and sums.

XLA's CPU compiler runs a convolution of many groups one output at a time. Written as a sum over the
places of the kernel, each a slice of the image times a number for each channel, it is one loop over
the image that the compiler vectorises; so are both gradients (benchmarks/NOTES.md).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from flaxcnn.model.kernels import LAYOUT, Pads, channel_sums, pads
from flaxcnn.model.layout import Pair, dilate_pad, on_cpu, padded
from flaxcnn.recipe.shapes import Padding


def depthwise2d(
    x: jax.Array, w: jax.Array, stride: Pair, padding: Padding, dilation: int = 1,
    platform: str | None = None,
) -> jax.Array:  # fmt: skip
    """x [B, H, W, C], w [kh, kw, C, M] of one dtype -> [B, H', W', C * M], as Keras orders them.

    Output channel c * M + m is input channel c with kernel w[..., c, m].
    """
    rows, columns, channels, each = w.shape
    reach = (rows - 1) * dilation + 1, (columns - 1) * dilation + 1
    pad = pads((x.shape[1], x.shape[2]), reach, stride, padding)
    if on_cpu(platform):
        wide = jnp.repeat(x, each, axis=-1) if each > 1 else x
        return _shifted(wide, w.reshape(rows, columns, -1), stride, pad, dilation)
    return lax.conv_general_dilated(
        x, w.reshape(rows, columns, 1, -1), stride, pad, rhs_dilation=(dilation, dilation),
        dimension_numbers=LAYOUT, feature_group_count=channels,
    )  # fmt: skip


def _places(window: Pair, dilation: int) -> Iterator[tuple[Pair, Pair]]:
    """(place in the kernel, its shift) of each number of a kernel."""
    for row, column in itertools.product(*map(range, window)):
        yield (row, column), (row * dilation, column * dilation)


def _slice(x: jax.Array, shift: Pair, stride: Pair, shape: Pair) -> jax.Array:
    """Every `stride`-th value of x [B, H, W, C] from `shift` on, `shape` of them."""
    stops = [s + (n - 1) * t + 1 for s, t, n in zip(shift, stride, shape, strict=True)]
    return lax.slice(
        x, (0, *shift, 0), (x.shape[0], *stops, x.shape[3]), (1, *stride, 1)
    )  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _shifted(x: jax.Array, w: jax.Array, stride: Pair, pad: Pads, dilation: int) -> jax.Array:
    """x [B, H, W, C] with w [kh, kw, C], as a sum over the places of the kernel."""
    wide = padded(x, *pad)
    window = w.shape[0], w.shape[1]
    reach = [(k - 1) * dilation + 1 for k in window]
    rows, columns = (
        (n - k) // s + 1 for n, k, s in zip(wide.shape[1:3], reach, stride, strict=True)
    )
    terms = [
        _slice(wide, shift, stride, (rows, columns)) * w[place].reshape(1, 1, 1, -1)
        for place, shift in _places(window, dilation)
    ]
    return functools.reduce(jnp.add, terms)


def _forward(
    x: jax.Array, w: jax.Array, stride: Pair, pad: Pads, dilation: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _shifted(x, w, stride, pad, dilation), (x, w)


def _backward(
    stride: Pair, pad: Pads, dilation: int, saved: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """dx is dy among zeros with the kernel turned round; dw a sum over places for each number."""
    x, w = saved
    window = w.shape[0], w.shape[1]
    reach = [(k - 1) * dilation + 1 for k in window]
    # Output i looks at input i * stride + shift - low: dy goes to i * stride + reach - 1 - low.
    start = [k - 1 - low for k, (low, _) in zip(reach, pad, strict=True)]
    shape = [n + k - 1 for n, k in zip(x.shape[1:3], reach, strict=True)]
    spread = dilate_pad(dy, 1, start, stride, shape)
    dx = _shifted(spread, w[::-1, ::-1], (1, 1), ((0, 0), (0, 0)), dilation)
    wide, places = padded(x, *pad), (dy.shape[1], dy.shape[2])
    sums = [
        channel_sums(_slice(wide, shift, stride, places) * dy, "cpu")
        for _, shift in _places(window, dilation)
    ]
    return dx, jnp.stack(sums).reshape(w.shape).astype(w.dtype)


_shifted.defvjp(_forward, _backward)
