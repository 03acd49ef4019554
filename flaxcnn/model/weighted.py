"""Layers with weights of their own as pure functions: their initial weights, and what they do.

Convolutions, dense layers and batch normalisation are in `flaxcnn.model.cnn`; these need nothing
but their weights and their input.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flaxcnn.model.depthwise import depthwise2d
from flaxcnn.model.kernels import add_bias, conv2d
from flaxcnn.recipe import layers as spec

Initializer = Callable[..., jax.Array]
Weights = dict[str, jax.Array]
Weighted = (
    spec.DepthwiseConv | spec.SeparableConv | spec.GroupNorm | spec.InstanceNorm | spec.LayerNorm
    | spec.RMSNorm | spec.SqueezeExcitation | spec.EfficientChannelAttention | spec.LayerScale
)  # fmt: skip
ZEROS, ONES = jax.nn.initializers.zeros, jax.nn.initializers.ones


def initializer(name: str) -> Initializer:
    """Initial weights by Keras's name of a distribution, or `dirac`."""
    if name == "dirac":
        return dirac
    name = "lecun_normal" if name == "whiten" else name  # until the images are seen
    made: Initializer = getattr(jax.nn.initializers, name)()
    return made


def dirac(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """A kernel [kh, kw, I, O] whose first I output channels are the input channels.

    Those beyond are uniform within 1 / sqrt(fan in), as PyTorch has them by default: the start of
    airbench (Jordan 2024, arXiv:2404.00498).
    """
    rows, columns, inputs, outputs = shape
    edge = 1.0 / math.sqrt(rows * columns * inputs)
    rest = jax.random.uniform(key, shape, dtype, -edge, edge)
    same = jnp.zeros(shape, dtype)
    same = same.at[rows // 2, columns // 2].set(jnp.eye(inputs, outputs, dtype=dtype))
    return jnp.where(jnp.arange(outputs) < inputs, same, rest) if outputs > inputs else same


def weights(layer: Weighted, channels: int) -> dict[str, tuple[Initializer, tuple[int, ...]]]:
    """The initial value and the shape of each weight, by its name."""
    match layer:
        case spec.DepthwiseConv():
            shape = (*spec.pair(layer.kernel, "kernel"), channels, layer.multiplier)
            bias = {"bias": (ZEROS, (channels * layer.multiplier,))} if layer.bias else {}
            return {"kernel": (initializer(layer.init), shape), **bias}
        case spec.SeparableConv():
            make, between = initializer(layer.init), channels * layer.multiplier
            shape = (*spec.pair(layer.kernel, "kernel"), channels, layer.multiplier)
            bias = {"bias": (ZEROS, (layer.filters,))} if layer.bias else {}
            pointwise = (make, (1, 1, between, layer.filters))
            return {"depthwise_kernel": (make, shape), "pointwise_kernel": pointwise, **bias}
        case spec.RMSNorm():
            return {"scale": (ONES, (channels,))}
        case spec.GroupNorm() | spec.InstanceNorm() | spec.LayerNorm():
            return {"scale": (ONES, (channels,)), "bias": (ZEROS, (channels,))}
        case spec.LayerScale(initial=initial):
            return {"scale": (jax.nn.initializers.constant(initial), (channels,))}
        case spec.EfficientChannelAttention():
            size = layer.size(channels)
            return {"kernel": (jax.nn.initializers.glorot_uniform(), (size, 1, 1))}
        case spec.SqueezeExcitation():
            between, make = layer.between(channels), jax.nn.initializers.glorot_uniform()
            return {
                "squeeze_kernel": (make, (channels, between)), "squeeze_bias": (ZEROS, (between,)),
                "excite_kernel": (make, (between, channels)), "excite_bias": (ZEROS, (channels,)),
            }  # fmt: skip


def apply(layer: Weighted, own: Weights, x: jax.Array, platform: str | None) -> jax.Array:
    """x [B, ..., C] through a layer whose weights are `own`, in x's dtype, without activation."""
    match layer:
        case spec.DepthwiseConv():
            stride = spec.pair(layer.stride, "stride")
            y = depthwise2d(x, own["kernel"], stride, layer.padding, layer.dilation, platform)
            return add_bias(y, own["bias"], platform) if layer.bias else y
        case spec.SeparableConv():
            stride, kernel = spec.pair(layer.stride, "stride"), own["depthwise_kernel"]
            y = depthwise2d(x, kernel, stride, layer.padding, layer.dilation, platform)
            y = conv2d(y, own["pointwise_kernel"], (1, 1), "valid", platform)
            return add_bias(y, own["bias"], platform) if layer.bias else y
        case spec.RMSNorm():
            wide = x.astype(jnp.float32)
            square = jnp.square(wide).mean(-1, keepdims=True)
            return (wide * jax.lax.rsqrt(square + layer.epsilon)).astype(x.dtype) * _along(
                own["scale"], x
            )
        case spec.GroupNorm() | spec.InstanceNorm() | spec.LayerNorm():
            normal = _normalized(layer, x)
            return normal * _along(own["scale"], x) + _along(own["bias"], x)
        case spec.LayerScale():
            return x * _along(own["scale"], x)
        case spec.EfficientChannelAttention():
            return x * _gates(_along_channels(own["kernel"].ravel(), x.mean((1, 2))))
        case spec.SqueezeExcitation():
            mean = x.mean((1, 2))
            between = jax.nn.relu(mean @ own["squeeze_kernel"] + own["squeeze_bias"][None])
            return x * _gates(between @ own["excite_kernel"] + own["excite_bias"][None])


def _along(each: jax.Array, x: jax.Array) -> jax.Array:
    """A number for each channel, [C], as it is multiplied with x [B, ..., C]."""
    return each.reshape(*[1] * (x.ndim - 1), -1)


def _gates(logits: jax.Array) -> jax.Array:
    """[B, C] -> factors [B, 1, 1, C]."""
    return jax.nn.sigmoid(logits)[:, None, None]


def _along_channels(kernel: jax.Array, mean: jax.Array) -> jax.Array:
    """A convolution of [B, C] along the channels, zeros beyond them."""
    half, channels = len(kernel) // 2, mean.shape[1]
    wide = jnp.pad(mean, ((0, 0), (half, half)))
    return sum(wide[:, i : i + channels] * kernel[i] for i in range(len(kernel)))  # type: ignore[return-value]


def _normalized(
    layer: spec.GroupNorm | spec.InstanceNorm | spec.LayerNorm, x: jax.Array
) -> jax.Array:
    """(x - mean) / sqrt(var + epsilon), in x's dtype; the statistics are float32."""
    if isinstance(layer, spec.LayerNorm):
        seen, axes = x.astype(jnp.float32), (-1,)
    else:
        groups = layer.groups if isinstance(layer, spec.GroupNorm) else x.shape[-1]
        seen = x.astype(jnp.float32).reshape(*x.shape[:-1], groups, -1)
        axes = (*range(1, x.ndim - 1), -1)
    away = seen - seen.mean(axes, keepdims=True)
    variance = jnp.square(away).mean(axes, keepdims=True)
    return (away * jax.lax.rsqrt(variance + layer.epsilon)).reshape(x.shape).astype(x.dtype)
