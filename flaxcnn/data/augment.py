"""From stored pixels to what the network sees: augmentation and standardisation, inside the step.

Pure and jittable. Every example has its own key, made of its row number, so that an image is
augmented the same way in any batch, on any device and in any process.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from flaxcnn.recipe.augment import Augment, Flip, Shift
from flaxcnn.rng import Words, coin, fold_in, randint, words_of


def augment(image: jax.Array, key: jax.Array, steps: tuple[Augment, ...]) -> jax.Array:
    """Random variants of images [B, H, W, C] uint8; `key` has shape [B], one key per image."""
    words = words_of(key)
    for number, step in enumerate(steps):
        own = fold_in(words, number)
        match step:
            case Flip():
                image = jnp.where(coin(own)[:, None, None, None], image[:, :, ::-1], image)
            case Shift(height=height, width=width):
                reach = (int(height * image.shape[1]), int(width * image.shape[2]))
                image = _shift(image, own, reach)
    return image


def _shift(image: jax.Array, words: Words, reach: tuple[int, int]) -> jax.Array:
    """Whole-pixel moves of at most `reach`, the edge pixels repeated (Keras's fill 'nearest')."""
    for axis, most in enumerate(reach):
        by = randint(fold_in(words, axis), -most, most + 1)  # [B]
        size = image.shape[1 + axis]
        source = jnp.clip(jnp.arange(size)[None] + by[:, None], 0, size - 1)
        take = functools.partial(jnp.take, axis=axis, mode="clip")  # no index is outside
        image = jax.vmap(take)(image, source)
    return image


def standardize(image: jax.Array, mean: jax.Array, scale: jax.Array) -> jax.Array:
    """(pixel - mean) / scale: uint8 [B, H, W, C] -> float32; both broadcast against [H, W, C]."""
    return (image.astype(jnp.float32) - mean[None]) / scale[None]
