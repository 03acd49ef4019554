"""Channels moved, taken and added."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxcnn.recipe import layers as spec


def channels(
    layer: spec.ChannelShuffle | spec.TakeChannels | spec.PadChannels, x: jax.Array
) -> jax.Array:
    """x [B, ..., C] with other channels."""
    match layer:
        case spec.ChannelShuffle(groups=groups):
            apart = x.reshape(*x.shape[:-1], groups, -1)
            return apart.swapaxes(-1, -2).reshape(x.shape)
        case spec.TakeChannels(first=first, count=count):
            return x[..., first : first + count]
        case spec.PadChannels():
            return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, layer.channels - x.shape[-1])])
