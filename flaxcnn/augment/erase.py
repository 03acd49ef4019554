"""Parts of an image erased."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxcnn.augment.geometry import part_of_area
from flaxcnn.augment.rows import Rows, as_float, transform
from flaxcnn.recipe.transforms import Cutout, RandomErasing
from flaxcnn.rng import randint, uniform

Side = tuple[jax.Array, jax.Array]  # [B] each: the first pixel, and the one after the last


@transform.register
def _(kind: Cutout, rows: Rows, partner: Rows | None) -> Rows:
    sides = []
    for axis, size in enumerate(rows.image.shape[1:3]):
        first = randint(rows.draw(axis), 0, size) - kind.size // 2
        sides.append((first, first + kind.size))
    return rows.with_image(_erased(rows, inside(rows, sides[0], sides[1])))


@transform.register
def _(kind: RandomErasing, rows: Rows, partner: Rows | None) -> Rows:
    found, tall, wide, y, x = part_of_area(rows, kind.scale, kind.ratio, strictly=True)
    part = inside(rows, (y, y + tall), (x, x + wide))
    chosen = rows.settled(found & (uniform(rows.draw(4)) < kind.prob))
    return rows.with_image(_erased(rows, part & chosen[:, None, None, None]))


def inside(rows: Rows, down: Side, along: Side) -> jax.Array:
    """Which pixels [B, H, W, 1] lie between two rows and two columns of pixels."""
    down, along = rows.settled((down, along))
    masks = []
    for axis, (first, end) in enumerate((down, along)):
        at = jnp.arange(rows.image.shape[1 + axis], dtype=first.dtype)[None]
        masks.append((at >= first[:, None]) & (at < end[:, None]))
    return masks[0][:, :, None, None] & masks[1][:, None, :, None]


def _erased(rows: Rows, part: jax.Array) -> jax.Array:
    return jnp.where(part, rows.blank[None], as_float(rows.image))
