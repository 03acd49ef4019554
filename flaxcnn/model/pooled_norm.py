"""Batch normalisation and the maximum over windows after it, as one operation.

Normalisation is a line in each channel: where it rises, the largest value stays the largest, and
where it falls, the smallest becomes it. So the maximum is taken first, and what is normalised is
the pooled map. The gradients of `scale` and `bias` are sums over the pooled map likewise, and the
whole map is visited once, for the gradient of the input. On a TPU such passes are most of what a
normalisation costs (benchmarks/NOTES.md).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from flaxcnn.model.kernels import Pads, channel_sums, pads
from flaxcnn.model.layout import Pair
from flaxcnn.model.pooling import largest, spread
from flaxcnn.model.regularization import along, at_once, normalize, one_pass
from flaxcnn.recipe.layers import Padding

Statistics = tuple[jax.Array, jax.Array]  # mean and variance, [C] float32 each


@dataclass(frozen=True)
class Windows:
    """Those of a maximum, [B, H, W, C] -> [B, H', W', C]."""

    size: Pair
    stride: Pair
    padding: Padding

    def pads(self, x: jax.Array) -> Pads:
        """(low, high) of the rows and columns around x [B, H, W, C]."""
        return pads((x.shape[1], x.shape[2]), self.size, self.stride, self.padding)


def pooled(
    x: jax.Array, scale: jax.Array, windows: Windows, platform: str | None
) -> tuple[jax.Array, jax.Array]:
    """(value, place in its window) of those pixels of x whose normalised value is the largest.

    Args:
        x: [B, H, W, C], before it is normalised.
        scale: [C] of the normalisation; where it is negative, a window's smallest value is it.
        windows: over which the maximum is taken.
        platform: of the devices; None: jax's default.

    Returns:
        [B, H', W', C] each.
    """
    sign = along(jnp.where(scale < 0, -1, 1).astype(x.dtype), x)
    most, winner = largest(x, windows.size, windows.stride, windows.pads(x), platform, sign)
    return most * sign, winner


def batch_norm_max_pool(
    x: jax.Array, scale: jax.Array, bias: jax.Array, mask: jax.Array | None, epsilon: float,
    axis: str | None, platform: str | None, center: jax.Array, windows: Windows,
) -> tuple[jax.Array, Statistics]:  # fmt: skip
    """The maximum over windows of `regularization.batch_norm`, and its statistics; see there.

    The normalised values and the statistics are the same numbers. Where rounding makes pixels of a
    window equal that were not, the gradient goes to the one that was larger before.
    """
    weight = jnp.ones((x.shape[0],), jnp.float32) if mask is None else mask.astype(jnp.float32)
    weight = weight.reshape(-1, *[1] * (x.ndim - 1))
    return _norm_pool(x, scale, bias, weight, center, epsilon, axis, platform, windows)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7, 8))
def _norm_pool(
    x: jax.Array, scale: jax.Array, bias: jax.Array, weight: jax.Array, center: jax.Array,
    epsilon: float, axis: str | None, platform: str | None, windows: Windows,
) -> tuple[jax.Array, Statistics]:  # fmt: skip
    forward = _forward(x, scale, bias, weight, center, epsilon, axis, platform, windows)
    result: tuple[jax.Array, Statistics] = forward[0]
    return result


def _forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, weight: jax.Array, center: jax.Array,
    epsilon: float, axis: str | None, platform: str | None, windows: Windows,
) -> tuple[Any, Any]:  # fmt: skip
    mean, var, count = one_pass(x, weight, center, axis)
    most, winner = pooled(x, scale, windows, platform)
    y = normalize(most, mean, var, scale, bias, epsilon)
    return (y, (mean, var)), (
        x, most, winner, weight, mean, lax.rsqrt(var + epsilon), scale, count,
    )  # fmt: skip


def _backward(
    epsilon: float, axis: str | None, platform: str | None, windows: Windows, residuals: Any,
    gradient: Any,
) -> tuple[jax.Array, jax.Array, jax.Array, None, None]:  # fmt: skip
    x, most, winner, weight, mean, inverse, scale, count = residuals
    dy = gradient[0].astype(jnp.float32)
    normal = lambda x: (x.astype(jnp.float32) - along(mean, x)) * along(inverse, x)  # noqa: E731
    dbias, dscale = channel_sums(dy, platform), channel_sums(dy * normal(most), platform)
    shift, slope = (each / count for each in at_once(axis, dbias, dscale))
    whole = spread(
        winner, gradient[0], x.shape[1:3], windows.size, windows.stride, windows.pads(x), platform
    )
    inner = whole.astype(jnp.float32) - (along(shift, x) + normal(x) * along(slope, x)) * weight
    dx = along(scale * inverse, x) * inner
    return dx.astype(x.dtype), dscale, dbias, None, None


_norm_pool.defvjp(_forward, _backward)
