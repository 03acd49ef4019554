"""A chain of augmentations applied to a batch, with a partner for each row where kinds mix."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from flaxcnn.augment import colour, erase, mixing, own, policies
from flaxcnn.augment.geometry import joined, moved
from flaxcnn.augment.rows import WHITE, Rows, transform
from flaxcnn.data.batches import Batch
from flaxcnn.recipe.augment import Augment, Augmentation, CutMix, Mixup, each_kind
from flaxcnn.recipe.transforms import AlternatingFlip, Flip, Shift
from flaxcnn.rng import Purpose, Words, row_keys, stream_key, words_of

__all__ = ["augment", "mixes", "softens"]
# Each registers what it knows with `transform`.
REGISTERED = (colour, erase, mixing, own, policies)


def mixes(chain: Iterable[Augment]) -> bool:
    """Whether rows need a partner."""
    return any(
        isinstance(kind, Mixup | CutMix)
        or (isinstance(kind, Augmentation) and own.takes_partner(kind))
        for kind in each_kind(chain)
    )


def softens(chain: Iterable[Augment]) -> bool:
    """Whether targets are distributions over the classes, in place of labels."""
    return any(isinstance(kind, Mixup | CutMix | Augmentation) for kind in each_kind(chain))


def augment(
    chain: tuple[Augment, ...], seeds: jax.Array, epoch: jax.Array, batch: Batch,
    blank: jax.Array, classes: int = 0, platform: str | None = None,
) -> tuple[jax.Array, jax.Array | None]:  # fmt: skip
    """Random variants of the images of a batch, and their targets.

    All draws of a row depend on its number, the seed and the epoch alone. The partner of a row has
    been through the same chain with draws of its own, but for what mixes.

    Args:
        chain: the kinds, in the order in which they are applied.
        seeds: [4] uint32, one for each purpose.
        epoch: [] int32.
        batch: with `partner` where the chain mixes.
        blank: the pixel value that standardisation makes 0; broadcasts against [H, W, C].
        classes: K; 0: the chain leaves targets alone.
        platform: of the devices; None: jax's default.

    Returns:
        images [B, H, W, C], uint8 or float32 in the units of the stored pixels, and the targets
        [B, K] float32, or None.
    """
    always = any(isinstance(kind, AlternatingFlip) for kind in each_kind(chain))
    make = functools.partial(_rows, seeds, epoch, blank, classes, always, platform)
    rows, partner = make(batch), make(batch.partner) if batch.partner else None
    if not all(isinstance(kind, Shift | Flip) for kind in chain):  # they need a few draws only
        rows, partner = _settled(rows), _settled(partner) if partner else None
    for group in joined(chain):
        alone = not mixes(kind for _, kind in group)
        rows = _step(group, rows, partner)
        if partner is not None and alone:
            partner = _step(group, partner, None)
    return rows.image, rows.target


def _rows(
    seeds: jax.Array,
    epoch: jax.Array,
    blank: jax.Array,
    classes: int,
    always: bool,
    platform: str | None,
    batch: Batch,
) -> Rows:
    """The rows of a batch before the first kind, and what they draw from."""

    def words(epoch: jax.Array | int) -> Words:
        return words_of(row_keys(stream_key(seeds, Purpose.AUGMENT, epoch), batch.row))

    target = jax.nn.one_hot(batch.label, classes, dtype=jnp.float32) if classes else None
    white = WHITE.get(str(batch.image.dtype), 1.0)
    kept = words(0) if always else None
    return Rows(batch.image, target, words(epoch), kept, epoch, white, blank, platform)


def _settled(rows: Rows) -> Rows:
    """The same rows, whose keys are not made anew for every draw."""
    words, always = rows.settled((rows.words, rows.always))
    return dataclasses.replace(rows, words=words, always=always)


def _step(group: tuple[tuple[int, Augment], ...], rows: Rows, partner: Rows | None) -> Rows:
    """Rows after a group of kinds: one of any sort, or several that move pixels."""
    if len(group) > 1:
        return rows.with_image(moved([(kind, rows.at(n)) for n, kind in group], rows))  # type: ignore[misc]
    ((number, kind),) = group
    new = transform(kind, rows.at(number), partner)
    return dataclasses.replace(rows, image=new.image, target=new.target)
