"""Linen modules of the layers that have parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxcnn.model import own_layers
from flaxcnn.model.grouped import grouped2d
from flaxcnn.model.kernels import add_bias, conv2d
from flaxcnn.model.pooled_norm import Windows, batch_norm_max_pool, pooled
from flaxcnn.model.protocol import RowContext
from flaxcnn.model.regularization import batch_norm, normalize
from flaxcnn.model.weighted import Weighted, initializer, weights
from flaxcnn.model.weighted import apply as apply_weighted
from flaxcnn.recipe import layers as spec


class Conv2D(nn.Module):
    """Convolution with bias through `kernels.conv2d`; float32 parameters `kernel`, `bias`."""

    layer: spec.Conv
    dtype: Any
    platform: str | None

    @nn.compact
    def __call__(
        self, x: jax.Array, pool: Callable[[jax.Array], jax.Array] | None = None
    ) -> jax.Array:
        """[B, H, W, I] -> [B, H', W', O], pooled before the bias is added where `pool` is given."""
        layer, stride = self.layer, spec.pair(self.layer.stride, "stride")
        inputs = x.shape[-1] // layer.groups
        shape = (*spec.pair(layer.kernel, "kernel"), inputs, layer.filters)
        kernel = self.param("kernel", initializer(layer.init), shape, jnp.float32)
        kernel = kernel.astype(self.dtype)
        if layer.groups == layer.dilation == 1:
            y = conv2d(x, kernel, stride, layer.padding, self.platform)
        else:
            y = grouped2d(
                x, kernel, stride, layer.padding, layer.dilation, layer.groups, self.platform
            )
        y = pool(y) if pool else y
        if layer.bias:
            bias = self.param("bias", nn.initializers.zeros, (layer.filters,), jnp.float32)
            y = add_bias(y, bias.astype(self.dtype), self.platform)
        return y


class BatchNorm(nn.Module):
    """Batch normalisation through `regularization.batch_norm`; parameters and averages are float32.

    Parameters `scale` and `bias`, moving averages `mean` and `var` (biased, as in Keras).
    """

    layer: spec.BatchNorm
    dtype: Any
    axis: str | None
    platform: str | None

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, mask: jax.Array | None, windows: Windows | None = None
    ) -> jax.Array:
        """[B, ..., C] -> the same shape; `mask` [B] bool leaves rows out of the statistics.

        With `windows` their maximum comes after it, [B, H, W, C] -> [B, H', W', C].
        """
        layer, shape = self.layer, (x.shape[-1],)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale, bias = jnp.ones(shape, jnp.float32), jnp.zeros(shape, jnp.float32)
        if layer.scale:
            scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        if layer.bias:
            bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        if not train:
            x = x if windows is None else pooled(x, scale, windows, self.platform)[0]
            return normalize(x, mean.value, var.value, scale, bias, layer.epsilon)
        given = (x, scale, bias, mask, layer.epsilon, self.axis, self.platform, mean.value)
        y, (batch_mean, batch_var) = (
            batch_norm(*given) if windows is None else batch_norm_max_pool(*given, windows)
        )
        for average, now in ((mean, batch_mean), (var, batch_var)):
            average.value = layer.momentum * average.value + (1.0 - layer.momentum) * now
        return y


class WeightedLayer(nn.Module):
    """A layer of `flaxcnn.model.weighted`; parameters are float32."""

    layer: Weighted
    dtype: Any
    platform: str | None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B, ..., C] through the layer, without its activation."""
        own = {
            name: self.param(name, init, shape, jnp.float32).astype(self.dtype)
            for name, (init, shape) in weights(self.layer, x.shape[-1]).items()
        }
        return apply_weighted(self.layer, own, x, self.platform)


class OwnLayer(nn.Module):
    """A layer of one's own; parameters are float32."""

    layer: spec.Own

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, rows: RowContext) -> jax.Array:
        """x [B, ...] through the layer."""
        shape = x.shape[1:]
        first = self.make_rng("params") if self.is_initializing() else None
        make = lambda key: own_layers.first_weights(self.layer, key, shape)  # noqa: E731
        names = jax.eval_shape(make, jax.random.key(0))
        own = {
            # One key for all, so that `init` is what its author wrote.
            name: self.param(
                name, lambda key, name=name: make(key if first is None else first)[name]
            )
            for name in names
        }
        return own_layers.apply(self.layer, own, x, train, rows)
