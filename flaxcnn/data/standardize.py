"""From stored pixels, augmented or not, to what the network sees; inside the step."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def standardize(image: jax.Array, mean: jax.Array, scale: jax.Array) -> jax.Array:
    """(pixel - mean) / scale: uint8 [B, H, W, C] -> float32; both broadcast against [H, W, C]."""
    return (image.astype(jnp.float32) - mean[None]) / scale[None]
