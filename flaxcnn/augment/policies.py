"""One of several kinds for each row, and the published policies over a bank of operations."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.augment.mixing import beta, dirichlet
from flaxcnn.augment.operations import Space, operate, space
from flaxcnn.augment.rows import Rows, as_float, each, transform, where
from flaxcnn.recipe.augment import AugMix, Policy, RandAugment, TrivialAugment
from flaxcnn.rng import coin, randint, uniform

BINS = 31  # magnitudes of RandAugment and TrivialAugment
AUGMIX_BINS = 10


@transform.register
def _(kind: Policy, rows: Rows, partner: Rows | None) -> Rows:
    done, at = rows.settled((uniform(rows.draw(0)) < kind.prob, uniform(rows.draw(1))))
    weights = np.asarray(kind.weights or [1.0] * len(kind.of))
    ends = [0.0, *itertools.accumulate(weights / weights.sum())]
    ends[-1] = 1.0
    result = rows
    for number, child in enumerate(kind.of):
        chosen = done & (at >= ends[number]) & (at < ends[number + 1])
        result = where(chosen, transform(child, rows.at(2 + number), partner), result)
    return result


@transform.register
def _(kind: RandAugment, rows: Rows, partner: Rows | None) -> Rows:
    bank = space("rand", BINS, rows.image.shape[1:3])
    level = jnp.full(len(rows.image), kind.magnitude, jnp.int32)
    for number in range(kind.num_ops):
        rows = rows.with_image(_one(bank, rows.at(number), level))
    return rows


@transform.register
def _(kind: TrivialAugment, rows: Rows, partner: Rows | None) -> Rows:
    bank = space("trivial", BINS, rows.image.shape[1:3])
    return rows.with_image(_one(bank, rows.at(0), randint(rows.draw(1), 0, BINS)))


@transform.register
def _(kind: AugMix, rows: Rows, partner: Rows | None) -> Rows:
    bank = space("augmix", AUGMIX_BINS, rows.image.shape[1:3])
    count = kind.width * kind.depth
    kept = beta(rows, count, kind.alpha)
    shares = dirichlet(rows, range(count + 1, count + 1 + kind.width), kind.alpha)
    image = as_float(rows.image)
    mixture = jnp.zeros_like(image)
    for chain, share in enumerate(shares):
        depth = randint(rows.draw(count + 1 + kind.width + chain), 1, kind.depth + 1)
        new = rows.with_image(image)
        for place in range(kind.depth):
            own = new.at(chain * kind.depth + place)
            level = randint(own.draw(3), 0, kind.severity)
            changed = dataclasses.replace(new, image=_one(bank, own, level))
            new = where(depth > place, changed, new)
        mixture += each(share) * new.image
    return rows.with_image(each(kept) * image + each(1.0 - kept) * mixture)


def _one(bank: Space, rows: Rows, level: jax.Array) -> jax.Array:
    """Images after one operation each, of random kind, at magnitude number `level` [B]."""
    drawn = (randint(rows.draw(0), 0, len(bank.names)), coin(rows.draw(1)), level)
    which, turned, level = rows.settled(drawn)
    strength = jnp.asarray(bank.strengths)[which, level]
    sign = jnp.where(jnp.asarray(bank.signed)[which] & turned, -1.0, 1.0)
    return operate(bank, rows, which, sign * strength)
