"""Rows on their way through a chain of augmentations, and how one kind changes them."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from flaxcnn.model.layout import isolate
from flaxcnn.rng import Words, fold_in

Tree = Any
WHITE = {
    "uint8": 255.0
}  # the largest value of a stored pixel; of floats it is 1, as in torchvision


@dataclass(frozen=True)
class Rows:
    """A batch, with what each of its rows draws from."""

    # [B, H, W, C]: as stored until a kind computes with it, then float32 in the same units.
    image: jax.Array
    target: jax.Array | None  # [B, K] float32; None: nothing in the chain changes it
    words: Words  # of a key for each row in this epoch
    always: Words | None  # the same in every epoch; None: nothing in the chain asks for it
    epoch: jax.Array  # [] int32
    white: float  # of the stored pixels
    blank: jax.Array  # what becomes 0 by standardisation; broadcasts against [H, W, C]
    platform: str | None  # of the devices; None: jax's default

    def draw(self, number: int) -> Words:
        """Words for the draw of that number."""
        return fold_in(self.words, number)

    def at(self, number: int) -> Rows:
        """The same rows with the draws of the kind of that number in a chain."""
        always = None if self.always is None else fold_in(self.always, number)
        return dataclasses.replace(self, words=fold_in(self.words, number), always=always)

    def settled(self, values: Tree) -> Tree:
        """Values written down before anything is computed with them.

        Otherwise the compiler may draw a row's numbers again for every pixel, and plan for long,
        or compute pixels again for every neighbour that reads them.
        """
        return isolate(jax.lax.optimization_barrier, self.platform)(values)

    def readable(self) -> jax.Array:
        """The images, written down if a kind has computed them: to be read at several places."""
        computed = self.image.dtype == jnp.float32
        written: jax.Array = self.settled(self.image) if computed else self.image
        return written

    def with_image(self, image: jax.Array) -> Rows:
        """The same rows with other pixels."""
        return dataclasses.replace(self, image=image)


@functools.singledispatch
def transform(kind: Any, rows: Rows, partner: Rows | None) -> Rows:
    """What a kind of augmentation makes of rows.

    Args:
        kind: its specification; each is registered by the module that knows it.
        rows: each with draws of its own; whatever is random comes from `rows.draw`.
        partner: of each row another one, for kinds that mix.
    """
    raise NotImplementedError(type(kind).__name__)


def as_float(image: jax.Array) -> jax.Array:
    """Pixels to compute with, in the units in which they are stored."""
    return image.astype(jnp.float32)


def each(value: jax.Array) -> jax.Array:
    """One number a row, [B], as [B, 1, 1, 1]."""
    return value[:, None, None, None]


def where(chosen: jax.Array, new: Rows, old: Rows) -> Rows:
    """`new` for the rows that are chosen, bool [B], and `old` for the others."""
    image, target = new.image, new.target
    if image.dtype != old.image.dtype:
        image, other = as_float(image), as_float(old.image)
    else:
        other = old.image
    if target is not None and old.target is not None and target is not old.target:
        target = jnp.where(chosen[:, None], target, old.target)
    return dataclasses.replace(old, image=jnp.where(each(chosen), image, other), target=target)
