"""Colours changed: brightness, contrast, saturation, hue, grey, blur and noise."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.augment.rows import Rows, as_float, each, transform
from flaxcnn.recipe.transforms import (
    Blur,
    Brightness,
    Colour,
    Contrast,
    Grayscale,
    Hue,
    Noise,
    Saturation,
)
from flaxcnn.rng import Words, bits16, key_of, uniform

LUMA = (0.2989, 0.587, 0.114)  # of red, green and blue in grey, as in torchvision (ITU-R 601)


@transform.register
def _(kind: Colour, rows: Rows, partner: Rows | None) -> Rows:
    looks_around = isinstance(kind, Blur | Contrast)
    image = as_float(rows.readable() if looks_around else rows.image)
    white = rows.white
    match kind:
        case Brightness(amount=most):
            new = blended(jnp.zeros_like(image), image, _factor(rows, most), white)
        case Contrast(amount=most):
            new = blended(mean_grey(image), image, _factor(rows, most), white)
        case Saturation(amount=most):
            new = blended(grey(image), image, _factor(rows, most), white)
        case Hue(amount=most):
            new = turned_hue(image, rows.settled(uniform(rows.draw(0), -most, most)))
        case Grayscale(prob=prob):
            new = jnp.where(each(rows.settled(uniform(rows.draw(0)) < prob)), grey(image), image)
        case Blur(size=size, sigma=sigma):
            new = blurred(image, rows.settled(uniform(rows.draw(0), *sigma)), size)
        case Noise(std=std):
            new = jnp.clip(image + std * white * _normal(rows.words, image.shape), 0.0, white)
    return rows.with_image(new)


def _factor(rows: Rows, most: float) -> jax.Array:
    return rows.settled(uniform(rows.draw(0), max(0.0, 1.0 - most), 1.0 + most))


def blended(degenerate: jax.Array, image: jax.Array, factor: jax.Array, white: float) -> jax.Array:
    """`factor` [B] of the image and 1 - factor of `degenerate`, within black and white.

    Between 0 and 1 it interpolates, above 1 it goes beyond the image (Haeberli and Voorhies 1994).
    """
    mixed = each(factor) * image + each(1.0 - factor) * degenerate
    return jnp.clip(mixed, 0.0, white)


def grey(image: jax.Array) -> jax.Array:
    """Images [B, H, W, C] with the luma in each of three channels; of one channel as they are."""
    if image.shape[-1] != 3:
        return image
    luma = sum(part * image[..., c] for c, part in enumerate(LUMA))
    return jnp.broadcast_to(jnp.asarray(luma)[..., None], image.shape)


def mean_grey(image: jax.Array) -> jax.Array:
    """The mean of the grey image, [B, 1, 1, 1]."""
    return grey(image).mean(axis=(1, 2, 3), keepdims=True)


def turned_hue(image: jax.Array, turn: jax.Array) -> jax.Array:
    """RGB images [B, H, W, 3] with hues turned by `turn` [B] of the circle, through HSV."""
    value, least = image.max(axis=-1), image.min(axis=-1)
    span = value - least
    safe = jnp.where(span > 0, span, 1.0)
    red, green, blue = (image[..., c] for c in range(3))
    hue = jnp.where(
        value == red, (green - blue) / safe,
        jnp.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )  # fmt: skip
    hue = hue + 6.0 * turn[:, None, None]
    channels = []
    for offset in (5.0, 3.0, 1.0):
        place = offset + hue
        place = place - 6.0 * jnp.floor(place / 6.0)  # % calls a slow function on CPU
        channels.append(value - span * jnp.clip(jnp.minimum(place, 4.0 - place), 0.0, 1.0))
    return jnp.stack(channels, axis=-1)


def blurred(image: jax.Array, sigma: jax.Array, size: int) -> jax.Array:
    """Images blurred by a Gaussian of `size` taps and `sigma` [B]; mirrored beyond the edges."""
    reach = size // 2
    at = jnp.arange(-reach, reach + 1, dtype=jnp.float32)[None]
    weight = jnp.exp(-0.5 * (at / sigma[:, None]) ** 2)
    weight = weight / weight.sum(axis=1, keepdims=True)
    for axis in (1, 2):
        length = image.shape[axis]
        beside = [(0, 0)] * 4
        beside[axis] = (reach, reach)
        wide = jnp.pad(image, beside, mode="reflect")
        taps = [
            each(weight[:, k]) * jax.lax.slice_in_dim(wide, k, k + length, axis=axis)
            for k in range(size)
        ]
        image = sum(taps[1:], taps[0])
    return image


def _normal(words: Words, shape: tuple[int, ...]) -> jax.Array:
    """A standard normal number for each value, of 2 ** 16 equally likely ones."""
    bits = bits16(key_of(words), 0, int(np.prod(shape[1:])))
    share = (bits.astype(jnp.float32) + 0.5) * (1.0 / 2**16)
    return (jnp.sqrt(2.0) * jax.lax.erf_inv(2.0 * share - 1.0)).reshape(shape)
