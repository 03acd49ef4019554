"""From stored pixels to what the network sees: augmentation and standardisation, inside the step.

Pure and jittable. Every example has a key of its own, made of its row number, so that an image is
augmented alike in whatever batch, device or process it happens to be.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxcnn.recipe.config import Augment, Flip, Shift


def augment(image: jax.Array, key: jax.Array, steps: tuple[Augment, ...]) -> jax.Array:
    """Random variants of images [B, H, W, C] uint8; `key` has shape [B], one key an image."""
    for number, step in enumerate(steps):
        keys = jax.vmap(lambda k, n=number: jax.random.fold_in(k, n))(key)
        match step:
            case Flip():
                image = _flip(image, keys)
            case Shift(height=height, width=width):
                reach = (int(height * image.shape[1]), int(width * image.shape[2]))
                image = _shift(image, keys, reach)
    return image


def _flip(image: jax.Array, keys: jax.Array) -> jax.Array:
    mirrored = jax.vmap(lambda k: jax.random.bernoulli(k))(keys)
    return jnp.where(mirrored[:, None, None, None], image[:, :, ::-1], image)


def _shift(image: jax.Array, keys: jax.Array, reach: tuple[int, int]) -> jax.Array:
    """Whole-pixel moves of at most `reach`, the edge pixels repeated (Keras's fill 'nearest')."""

    def move(image: jax.Array, key: jax.Array) -> jax.Array:  # [H, W, C]
        height, width = image.shape[:2]
        for axis, (size, most) in enumerate(zip((height, width), reach, strict=True)):
            by = jax.random.randint(jax.random.fold_in(key, axis), (), -most, most + 1)
            image = jnp.take(image, jnp.clip(jnp.arange(size) + by, 0, size - 1), axis=axis)
        return image

    return jax.vmap(move)(image, keys)


def standardize(image: jax.Array, mean: jax.Array, scale: jax.Array) -> jax.Array:
    """(pixel - mean) / scale: uint8 [B, H, W, C] -> float32; both broadcast against [H, W, C]."""
    return (image.astype(jnp.float32) - mean[None]) / scale[None]
