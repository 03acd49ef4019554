"""Two training rows made one: pixels and targets mixed."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from flaxcnn.augment.erase import inside
from flaxcnn.augment.rows import Rows, as_float, each, transform
from flaxcnn.recipe.augment import CutMix, Mixup
from flaxcnn.rng import bits32, uniform

LEVELS = 4096  # that a number of a Beta or Gamma distribution may take


def mixed_targets(rows: Rows, partner: Rows, share: jax.Array) -> jax.Array:
    """`share` [B] of each row's target, and the rest of its partner's."""
    assert rows.target is not None
    assert partner.target is not None
    return share[:, None] * rows.target + (1.0 - share)[:, None] * partner.target


def beta(rows: Rows, number: int, alpha: float) -> jax.Array:
    """A number of Beta(alpha, alpha) for each row, [B] float32.

    One of LEVELS equally likely quantiles: the distribution's own sampler rejects draws in a loop,
    for which a GPU would wait step by step.
    """
    return _quantile(rows, number, _beta_levels(alpha))


def dirichlet(rows: Rows, numbers: Sequence[int], alpha: float) -> list[jax.Array]:
    """Numbers of a symmetric Dirichlet distribution for each row, one for each of `numbers`."""
    parts = [_quantile(rows, number, _gamma_levels(alpha)) for number in numbers]
    total = sum(parts[1:], parts[0])
    return [part / total for part in parts]


def _quantile(rows: Rows, number: int, levels: np.ndarray) -> jax.Array:
    level = rows.settled(bits32(rows.draw(number)) % jnp.uint32(LEVELS))
    return jnp.asarray(levels)[level.astype(jnp.int32)]


@functools.cache
def _beta_levels(alpha: float) -> np.ndarray:
    at = (np.arange(LEVELS) + 0.5) / LEVELS
    levels: np.ndarray = special.betaincinv(alpha, alpha, at).astype(np.float32)
    return levels


@functools.cache
def _gamma_levels(alpha: float) -> np.ndarray:
    at = (np.arange(LEVELS) + 0.5) / LEVELS
    levels: np.ndarray = special.gammaincinv(alpha, at).astype(np.float32)
    return levels.clip(np.finfo(np.float32).tiny)


@transform.register
def _(kind: Mixup, rows: Rows, partner: Rows | None) -> Rows:
    assert partner is not None
    share = beta(rows, 0, kind.alpha)
    image = each(share) * as_float(rows.image) + each(1.0 - share) * as_float(partner.image)
    return dataclasses.replace(rows, image=image, target=mixed_targets(rows, partner, share))


@transform.register
def _(kind: CutMix, rows: Rows, partner: Rows | None) -> Rows:
    assert partner is not None
    height, width = rows.image.shape[1:3]
    drawn = beta(rows, 0, kind.alpha), uniform(rows.draw(1)), uniform(rows.draw(2))
    share, *places = rows.settled(drawn)
    half = 0.5 * jnp.sqrt(1.0 - share)
    sides, area = [], jnp.ones(len(rows.image), jnp.float32)
    for size, place in zip((height, width), places, strict=True):
        centre = jnp.floor(place * size)
        reach = jnp.floor(half * size)
        sides.append((jnp.clip(centre - reach, 0, size), jnp.clip(centre + reach, 0, size)))
        area *= sides[-1][1] - sides[-1][0]
    sides, share = rows.settled((sides, 1.0 - area / (height * width)))
    cut = inside(rows, *sides)
    own, other = rows.image, partner.image
    if own.dtype != other.dtype:
        own, other = as_float(own), as_float(other)
    image = jnp.where(cut, other, own)
    return dataclasses.replace(rows, image=image, target=mixed_targets(rows, partner, share))
