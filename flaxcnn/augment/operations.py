"""The operations of RandAugment, TrivialAugment and AugMix, each row with one of its own.

A row's operation is a number, so all of them are computed and one is taken: geometry by one
resampling for all rows, the rest as elementwise operations that the compiler makes one pass.
Strengths and arithmetic are those of torchvision's uint8 transforms, without rounding in between.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.augment.colour import blended, grey, mean_grey
from flaxcnn.augment.resampling import Map, resampled, turned
from flaxcnn.augment.rows import Rows, as_float, each
from flaxcnn.model.layout import on_cpu

GEOMETRY = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")
BLENDS = ("Brightness", "Color", "Contrast", "Sharpness")
REST = ("Posterize", "Solarize", "AutoContrast", "Equalize")
WHITE, LEVELS = 255.0, 256
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # Pillow's filter SMOOTH


class Space(NamedTuple):
    """Operations to choose from."""

    names: tuple[str, ...]
    strengths: np.ndarray  # [operations, magnitudes] float32
    signed: np.ndarray  # [operations] bool: either sign is as likely


@functools.cache
def space(name: Literal["rand", "trivial", "augmix"], bins: int, size: tuple[int, int]) -> Space:
    """The operations of a policy at `bins` magnitudes, on images of `size` (H, W).

    As torchvision's RandAugment, TrivialAugmentWide and AugMix(all_ops=False) have them.
    """
    wide = name == "trivial"
    height, width = size
    shear, turn = (0.99, 135.0) if wide else (0.3, 30.0)
    blend = 0.99 if wide else 0.9
    share = {"rand": 150 / 331, "augmix": 1 / 3}
    down, along = (32.0, 32.0) if wide else (share[name] * height, share[name] * width)
    most_bits, fewer = {"rand": (8, 4), "trivial": (8, 6), "augmix": (4, 4)}[name]
    level = np.linspace(0.0, 1.0, bins)
    every = {
        "Identity": 0 * level, "ShearX": shear * level, "ShearY": shear * level,
        "TranslateX": np.trunc(along * level), "TranslateY": np.trunc(down * level),
        "Rotate": turn * level, **dict.fromkeys(BLENDS, blend * level),
        "Posterize": np.round(most_bits - fewer * level), "Solarize": 1 - level,
        "AutoContrast": 0 * level, "Equalize": 0 * level,
    }  # fmt: skip
    if name == "augmix":
        for left_out in ("Identity", *BLENDS):
            del every[left_out]
    names = tuple(every)
    strengths = np.stack([every[n] for n in names]).astype(np.float32)
    return Space(names, strengths, np.array([n in GEOMETRY + BLENDS for n in names]))


def operate(bank: Space, rows: Rows, which: jax.Array, strength: jax.Array) -> jax.Array:
    """Images [B, H, W, C] float32 after operation number `which` [B] at `strength` [B]."""

    which, strength = rows.settled((which, strength))

    def is_(name: str) -> jax.Array:
        return (
            which == bank.names.index(name) if name in bank.names else jnp.zeros_like(which, bool)
        )

    unit = WHITE / rows.white
    rows = dataclasses.replace(rows, image=as_float(rows.image) * unit, blank=rows.blank * unit)
    # Written down: what looks at neighbours would resample anew for each of them.
    image = rows.settled(_moved(rows, {name: is_(name) for name in GEOMETRY}, strength))
    result = image
    if "Brightness" in bank.names:
        result = _blended(image, {name: is_(name) for name in BLENDS}, strength)
    equalized = functools.partial(_equalized, platform=rows.platform)
    for name, change in (
        ("Posterize", _posterized), ("Solarize", _solarized), ("AutoContrast", _stretched),
        ("Equalize", equalized),
    ):  # fmt: skip
        result = jnp.where(each(is_(name)), change(image, strength), result)
    return rows.settled(result * (1 / unit))


def _moved(rows: Rows, chosen: dict[str, jax.Array], strength: jax.Array) -> jax.Array:
    """Rows whose operation moves pixels resampled, others as they are.

    Torchvision shears about the corner of an image here, and turns it about the centre.
    """
    height, width = rows.image.shape[1:3]
    only = {name: jnp.where(mine, strength, 0.0) for name, mine in chosen.items()}
    turn = turned(only["Rotate"])
    source = Map(
        yy=turn.yy, yx=turn.yx + only["ShearY"], xy=turn.xy + only["ShearX"], xx=turn.xx,
        y0=only["ShearY"] * (width / 2) - only["TranslateY"],
        x0=only["ShearX"] * (height / 2) - only["TranslateX"],
    )  # fmt: skip
    return resampled(rows, source, "constant")


def _blended(image: jax.Array, chosen: dict[str, jax.Array], strength: jax.Array) -> jax.Array:
    """1 + strength of the image and -strength of black, grey, mean grey or the smoothed image."""
    parts = {
        "Brightness": jnp.zeros_like(image), "Color": grey(image), "Contrast": mean_grey(image),
        "Sharpness": _smoothed(image),
    }  # fmt: skip
    degenerate = image
    for name, part in parts.items():
        degenerate = jnp.where(each(chosen[name]), part, degenerate)
    return blended(degenerate, image, 1.0 + strength, WHITE)


def _smoothed(image: jax.Array) -> jax.Array:
    """Each pixel averaged with its neighbours, but for those at the edge."""
    height, width = image.shape[1:3]
    wide = jnp.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    taps = [
        SMOOTH[y, x] * wide[:, y : y + height, x : x + width] for y in range(3) for x in range(3)
    ]
    down, along = (np.arange(n) % (n - 1 or 1) > 0 for n in (height, width))
    inner = jnp.asarray(down[:, None] & along[None])[None, :, :, None]
    return jnp.where(inner, jnp.round(sum(taps[1:], taps[0])), image)


def _posterized(image: jax.Array, bits: jax.Array) -> jax.Array:
    step = each(jnp.exp2(8.0 - bits))
    return jnp.floor(jnp.round(image) / step) * step


def _solarized(image: jax.Array, share: jax.Array) -> jax.Array:
    return jnp.where(image >= each(WHITE * share), WHITE - image, image)


def _stretched(image: jax.Array, _: jax.Array) -> jax.Array:
    """The values of each channel stretched from black to white."""
    low, high = (f(image, axis=(1, 2), keepdims=True) for f in (jnp.min, jnp.max))
    span = high - low
    return jnp.where(span > 0, (image - low) * (WHITE / jnp.where(span > 0, span, 1.0)), image)


def _equalized(image: jax.Array, _: jax.Array, platform: str | None = None) -> jax.Array:
    """The values of each channel spread so that all are about as frequent, as Pillow does it."""
    count, height, width, channels = image.shape
    level = jnp.round(image).astype(jnp.int32).reshape(count, height * width, channels)
    before = _below(level, platform)  # [B, C, 256]
    last = height * width - jnp.where(before < height * width, before, 0).max(axis=2)
    step = (height * width - last) // 255  # [B, C]; `last` are those of the largest value
    table = (before + (step // 2)[..., None]) // jnp.maximum(step, 1)[..., None]
    table = jnp.clip(table, 0, 255).swapaxes(1, 2)
    new = _looked_up(table, level, platform).astype(jnp.float32).reshape(image.shape)
    return jnp.where((step > 0)[:, None, None, :], new, image)


def _below(level: jax.Array, platform: str | None) -> jax.Array:
    """How many of the values [B, N, C] int32 of a channel are below each of 256: [B, C, 256] int32.

    Added up one by one on CPU. At that a GPU is slow that has to be deterministic, and a TPU is
    always: there every value is compared with every level.
    """
    count, _, channels = level.shape
    every = jnp.arange(LEVELS, dtype=jnp.int32)
    if on_cpu(platform):
        of_image = jnp.arange(count, dtype=jnp.int32)[:, None, None] * (channels * LEVELS)
        of_channel = jnp.arange(channels, dtype=jnp.int32)[None, None] * LEVELS
        place = (of_image + of_channel + level).ravel()
        found = jnp.zeros(count * channels * LEVELS, jnp.int32).at[place].add(1)
        histogram = found.reshape(count, channels, LEVELS)
        return jnp.cumsum(histogram, axis=2) - histogram
    below = level.swapaxes(1, 2)[:, :, None] < every[None, None, :, None]
    return below.sum(axis=-1, dtype=jnp.int32)


def _looked_up(table: jax.Array, level: jax.Array, platform: str | None) -> jax.Array:
    """Of a table [B, 256, C] int32 the entries of values [B, N, C] int32 -> [B, N, C]."""
    if platform != "tpu":
        return jnp.take_along_axis(table, level, axis=1)
    # One after the other it would take them there.
    own = level[:, :, None] == jnp.arange(LEVELS, dtype=jnp.int32)[None, None, :, None]
    return jnp.where(own, table[:, None], 0).sum(axis=2)
