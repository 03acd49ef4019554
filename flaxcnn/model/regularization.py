"""Batch normalisation with a gradient of its own, and dropout."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from flaxcnn.model.kernels import channel_sums
from flaxcnn.model.layout import on_cpu
from flaxcnn.rng import bits16


def along(vector: jax.Array, x: jax.Array) -> jax.Array:
    """A vector [C] in a shape that broadcasts against x [..., C]."""
    return vector.reshape(*[1] * (x.ndim - 1), -1)


def _over(axis: str | None, sums: Any) -> Any:
    """Sums of all devices, where the batch is spread over any."""
    return sums if axis is None else lax.psum(sums, axis)


def at_once(axis: str | None, *sums: jax.Array) -> tuple[jax.Array, ...]:
    """The same of several sums, [C] or [] each, in one exchange."""
    if axis is None:
        return sums
    flat, parts = ravel_pytree(sums)
    total: tuple[jax.Array, ...] = parts(lax.psum(flat, axis))
    return total


def normalize(
    x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float
) -> jax.Array:
    """(x - mean) / sqrt(var + epsilon) * scale + bias in float32; x [B, ..., C], the others [C]."""
    factor = scale * lax.rsqrt(var + epsilon)
    y = x.astype(jnp.float32) * along(factor, x) + along(bias - mean * factor, x)
    return y.astype(x.dtype)


def batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, mask: jax.Array | None,
    epsilon: float, axis: str | None, platform: str | None = None, center: jax.Array | None = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:  # fmt: skip
    """Normalise x [B, ..., C] by its own statistics -> (y, (mean [C], var [C]) float32).

    Ioffe and Szegedy 2015, algorithm 1, with its gradient written out. `mask` [B] bool leaves rows
    out of the statistics; `axis` names a mesh axis over which the batch is spread. Gradients of
    `scale` and `bias` are those of this device's rows, like every other parameter's; the statistics
    themselves carry none.

    On CPU the statistics take two passes. Elsewhere they take one pass and one exchange between
    devices: sums of x - center and of its square, where `center` [C] should be near the mean (the
    moving average is), so that little cancels (Chan, Golub and LeVeque 1983).
    """
    weight = jnp.ones((x.shape[0],), jnp.float32) if mask is None else mask.astype(jnp.float32)
    weight = weight.reshape(-1, *[1] * (x.ndim - 1))
    center = jnp.zeros((x.shape[-1],), jnp.float32) if center is None else center
    return _batch_norm(x, scale, bias, weight, center, epsilon, axis, platform)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def _batch_norm(
    x: jax.Array, scale: jax.Array, bias: jax.Array, weight: jax.Array, center: jax.Array,
    epsilon: float, axis: str | None, platform: str | None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:  # fmt: skip
    forward = _batch_norm_forward(x, scale, bias, weight, center, epsilon, axis, platform)
    result: tuple[jax.Array, tuple[jax.Array, jax.Array]] = forward[0]
    return result


def _batch_norm_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, weight: jax.Array, center: jax.Array,
    epsilon: float, axis: str | None, platform: str | None,
) -> tuple[Any, Any]:  # fmt: skip
    if on_cpu(platform):
        mean, var, count = _two_passes(x, weight, axis)
    else:
        mean, var, count = one_pass(x, weight, center, axis)
    y = normalize(x, mean, var, scale, bias, epsilon)
    return (y, (mean, var)), (x, weight, mean, lax.rsqrt(var + epsilon), scale, count)


def _two_passes(x: jax.Array, weight: jax.Array, axis: str | None) -> tuple[jax.Array, ...]:
    """(mean [C], var [C], count []) of x, the variance by squares of x - mean."""
    wide = x.astype(jnp.float32)
    places = math.prod(x.shape[1:-1])
    count, sum_ = _over(axis, (weight.sum() * places, channel_sums(wide * weight, "cpu")))
    count = jnp.maximum(count, 1.0)  # a device may have nothing but padding
    mean = sum_ / count
    squares = channel_sums(jnp.square(wide - along(mean, x)) * weight, "cpu")
    return mean, _over(axis, squares) / count, count


def one_pass(
    x: jax.Array, weight: jax.Array, center: jax.Array, axis: str | None
) -> tuple[jax.Array, ...]:
    """(mean [C], var [C], count []) of x, from sums that all devices exchange at once."""
    away = (x.astype(jnp.float32) - along(center, x)) * weight  # weights are 0 and 1
    over = tuple(range(x.ndim - 1))
    count = weight.sum() * math.prod(x.shape[1:-1])
    count, sum_, squares = at_once(axis, count, away.sum(over), jnp.square(away).sum(over))
    count = jnp.maximum(count, 1.0)  # a device may have nothing but padding
    offset = sum_ / count
    var = jnp.maximum(squares / count - jnp.square(offset), 0.0)  # but for rounding
    return center + offset, var, count


def _batch_norm_backward(
    epsilon: float, axis: str | None, platform: str | None, residuals: Any, gradient: Any
) -> tuple[jax.Array, jax.Array, jax.Array, None, None]:
    x, weight, mean, inverse, scale, count = residuals
    dy = gradient[0].astype(jnp.float32)
    normal = (x.astype(jnp.float32) - along(mean, x)) * along(inverse, x)
    dbias, dscale = channel_sums(dy, platform), channel_sums(dy * normal, platform)
    if on_cpu(platform):
        # Stacked, so that XLA's fusions end here: the bits do not depend on what is around.
        shift, slope = _over(axis, jnp.stack([dbias, dscale])) / count
    else:
        shift, slope = (each / count for each in at_once(axis, dbias, dscale))
    inner = dy - (along(shift, x) + normal * along(slope, x)) * weight
    dx = along(scale * inverse, x) * inner
    return dx.astype(x.dtype), dscale, dbias, None, None


_batch_norm.defvjp(_batch_norm_forward, _batch_norm_backward)


def dropout(
    x: jax.Array, key: jax.Array, stream: int, rate: jax.Array, platform: str | None = None
) -> jax.Array:
    """Set each value of x [B, ...] to 0 with probability `rate` and divide the others by 1 - rate.

    Srivastava et al. 2014, in the inverted form of Keras. `key` [B] has one typed key an image, so
    that a mask does not depend on how a batch is spread; `stream` tells layers apart. Probabilities
    are multiples of 2**-16. `rate` is [] float32.
    """
    once = on_cpu(platform)
    bits = bits16(key, stream, math.prod(x.shape[1:]), once).reshape(x.shape)
    limit = jnp.minimum(jnp.round((1.0 - rate) * 2**16), 2**16 - 1).astype(jnp.uint16)
    scale = (1.0 / (1.0 - rate)).astype(x.dtype)
    return jnp.where(bits < limit, x * scale, jnp.zeros((), x.dtype))
