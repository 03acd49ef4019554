"""Row numbers of every batch, and the batches themselves from data on the device.

Order is arithmetic on (seed, epoch): nothing to store, nothing to restore.
"""

from __future__ import annotations

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.data.sampling import balanced
from flaxcnn.data.splits import steps_per_epoch
from flaxcnn.rng import Purpose, fold_in, randint, row_keys, stream_key, words_of

LANES = 128  # of a TPU's vector unit
PARTNER = 2**31 - 1  # the draw of a row's partner; those of a chain are numbered from 0


@flax.struct.dataclass
class Scaling:
    """What all batches of a run share: the standardisation x -> (x - mean) / scale, and more."""

    mean: jax.Array  # float32, broadcasts against [H, W, C]
    scale: jax.Array
    class_weight: jax.Array | None = None  # [K] float32, factor of a training row's loss
    # Of a distilled network: its "variables", and "mean" and "scale" of its own
    teacher: dict[str, Any] | None = None


@flax.struct.dataclass
class Resident:
    """A whole data set on the device: the train archive's rows, then the test archive's."""

    # [N, H, W, C] uint8, or float32 where given as arrays; with `shape`, [N, D] in rows of
    # H * W * C values, filled up to a multiple of LANES
    image: jax.Array
    label: jax.Array  # [N] int32
    scaling: Scaling
    weight: jax.Array | None = None  # [N] float32 above 0; None: every row counts 1
    shape: tuple[int, ...] | None = flax.struct.field(pytree_node=False, default=None)  # (H, W, C)


@flax.struct.dataclass
class Batch:
    """Rows of one step; a row whose mask is False is padding and has no effect."""

    image: jax.Array  # [B, H, W, C], as in Resident
    label: jax.Array  # [B] int32
    row: jax.Array  # [B] int32, the row's number in the data set, or that of a copy of it
    mask: jax.Array  # [B] bool
    weight: jax.Array | None = None  # [B] float32; without it the program is the unweighted one
    partner: Batch | None = None  # of each row another one, where augmentation mixes them


def shuffled(
    seeds: jax.Array, epoch: jax.Array, rows: jax.Array, batch_size: int,
    drop_last: bool = False, parts: int = 1, label: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """One epoch's row numbers in random order -> rows [S, B] int32, mask [S, B] bool.

    With `label` [R] int32, of all rows of the data set, as many rows are drawn from every class, as
    `flaxcnn.data.sampling.balanced` says.
    """
    key = stream_key(seeds, Purpose.ORDER, epoch)
    if label is not None:
        key, own = jax.random.split(key)
        rows = balanced(own, rows, label)
    order = jax.random.permutation(key, rows)
    if drop_last:
        order = order[: steps_per_epoch(len(rows), batch_size, drop_last) * batch_size]
    return in_order(order, batch_size, parts)


def in_order(rows: jax.Array, batch_size: int, parts: int = 1) -> tuple[jax.Array, jax.Array]:
    """Row numbers in order -> rows [S, B] int32, mask [S, B] bool; padding repeats row 0.

    >>> rows, mask = in_order(jnp.arange(5), 3)
    >>> rows.tolist(), mask.tolist()
    ([[0, 1, 2], [3, 4, 0]], [[True, True, True], [True, True, False]])

    B is `batch_size`, padded to a multiple of `parts`, so that each part has as many rows.
    """
    missing = -len(rows) % batch_size
    padded = jnp.concatenate([rows, jnp.broadcast_to(rows[:1], (missing,))])
    mask = jnp.arange(len(rows) + missing) < len(rows)
    uneven = ((0, 0), (0, -batch_size % parts))
    return (
        jnp.pad(padded.reshape(-1, batch_size), uneven, constant_values=rows[0]),
        jnp.pad(mask.reshape(-1, batch_size), uneven, constant_values=False),
    )


def take(data: Resident, row: jax.Array, mask: jax.Array, copies: bool = False) -> Batch:
    """The batch of these rows; with `copies` some may be copies of rows."""
    number = row
    if copies:
        row = row % len(data.label)
    weight = None if data.weight is None else data.weight[row]
    image = data.image[row]
    if data.shape is not None:
        image = image[:, : math.prod(data.shape)].reshape(-1, *data.shape)
    return Batch(image, data.label[row], number, mask, weight)


def partners(seeds: jax.Array, epoch: jax.Array, row: jax.Array, rows: jax.Array) -> jax.Array:
    """For each row number of `row`, of any shape, one of the training rows `rows` [N] int32.

    Uniform, and drawn by seed, epoch and row number alone.
    """
    words = words_of(row_keys(stream_key(seeds, Purpose.AUGMENT, epoch), row))
    return rows[randint(fold_in(words, PARTNER), 0, len(rows))]


def resident(
    image: list[np.ndarray], label: list[np.ndarray], scaling: Scaling, flat: bool = False
) -> Resident:
    """Archives ([N, H, W, C] uint8 and [N] int32 each) joined, still on the host.

    `flat` is for a TPU, which would copy images of three channels to a padded layout, five times
    as large, in every call of a program.
    """
    joined, shape = np.concatenate(image), image[0].shape[1:]
    if flat:
        rows = joined.reshape(len(joined), -1)
        joined = np.pad(rows, ((0, 0), (0, -rows.shape[1] % LANES)))
    return Resident(joined, np.concatenate(label), scaling, shape=shape if flat else None)  # type: ignore[arg-type]
