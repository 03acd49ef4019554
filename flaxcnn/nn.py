"""Linen modules for networks of one's own that keep every promise of this package.

`flax.linen.Dropout` draws for a batch as a whole and `flax.linen.BatchNorm` counts padding, so a
network with them has other bits on another number of devices. These draw by row number and leave
padding out, and they use this package's kernels, which are faster on CPU. Each is used like its
namesake in linen, without a flag: whether the network trains, they know.

>>> import flax.linen as nn
>>> import flaxcnn.nn as fnn
>>> class Net(nn.Module):
...     width: int = 32
...
...     @nn.compact
...     def __call__(self, x):
...         x = nn.relu(fnn.BatchNorm()(fnn.Conv(self.width, 3)(x)))
...         x = x.mean(axis=(1, 2))
...         return nn.Dense(10)(fnn.Dropout(0.5)(x))
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxcnn.model.foreign import applied
from flaxcnn.model.kernels import add_bias, conv2d
from flaxcnn.model.regularization import batch_norm, dropout, normalize
from flaxcnn.recipe.layers import pair


class Conv(nn.Module):
    """Convolution of [B, H, W, I] with a kernel [h, w, I, features], and a bias.

    `kernel_size` and `strides` are an integer or (height, width). Computes in `dtype`, by default
    that of its input; parameters are float32.
    """

    features: int
    kernel_size: int | tuple[int, int] = 3
    strides: int | tuple[int, int] = 1
    padding: Literal["same", "valid"] = "same"
    use_bias: bool = True
    dtype: Any = None
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, I] -> [B, H', W', features]."""
        dtype, platform = self.dtype or x.dtype, applied().compiled.platform
        shape = (*pair(self.kernel_size, "kernel_size"), x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(dtype)
        y = conv2d(x.astype(dtype), kernel, pair(self.strides, "strides"), self.padding, platform)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = add_bias(y, bias.astype(dtype), platform)
        return y


class BatchNorm(nn.Module):
    """Batch normalisation over the true rows of the whole batch, padding left out.

    Moving averages are `momentum * old + (1 - momentum) * new`, of the biased variance.
    """

    momentum: float = 0.99
    epsilon: float = 1e-3

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, ..., C] -> the same shape."""
        now, shape = applied(), (x.shape[-1],)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        if not now.train:
            return normalize(x, mean.value, var.value, scale, bias, self.epsilon)
        axis, platform = now.compiled.axis, now.compiled.platform
        y, statistics = batch_norm(
            x, scale, bias, now.rows.mask, self.epsilon, axis, platform, center=mean.value
        )
        for average, new in zip((mean, var), statistics, strict=True):
            average.value = self.momentum * average.value + (1.0 - self.momentum) * new
        return y


class Dropout(nn.Module):
    """Set each value to 0 with probability `rate` and divide the others by 1 - rate, in training.

    Draws depend on the seed, the step, the layer and the number of the row, never on the batch.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, ...] -> the same shape."""
        now = applied()
        now.dropouts += 1
        if not now.train or not self.rate:
            return x
        assert now.rows.keys is not None  # since it trains
        rate = jnp.float32(self.rate)
        return dropout(x, now.rows.keys, now.dropouts, rate, now.compiled.platform)
