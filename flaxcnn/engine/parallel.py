"""Which devices share a batch, and how their sums are added: the only file that knows devices.

A program is written for the rows of one device. `spread` runs it on all of them, each with its part
of every batch, and `total` adds what they found. On one device both do nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.flatten_util import ravel_pytree
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

AXIS = "batch"
LARGE = 256 * 1024  # bytes of a leaf from which on a copy costs more than an exchange of its own
LEAST_ROWS = 8  # a device with fewer rows of a batch costs more to address than it computes
Tree = Any


def shards_of(batch_size: int) -> int:
    """How many devices share a batch: as many as there are, each with LEAST_ROWS or more."""
    return max(min(jax.local_device_count(), batch_size // LEAST_ROWS), 1)


def mesh(shards: int) -> Mesh:
    """The first `shards` devices as one axis."""
    devices = jax.local_devices()[:shards]
    return jax.make_mesh((shards,), (AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def everywhere(shards: int) -> Sharding:
    """Placement of arrays that every device holds whole."""
    if shards == 1:
        return SingleDeviceSharding(jax.local_devices()[0])
    return NamedSharding(mesh(shards), PartitionSpec())


def by_columns(shards: int) -> Sharding:
    """Placement of batches [S, B, ...] of which each device holds the columns it works on."""
    if shards == 1:
        return everywhere(shards)
    return NamedSharding(mesh(shards), PartitionSpec(None, AXIS))


def share(shards: int) -> tuple[int, int]:
    """(index, count) of this process among those whose devices share a batch."""
    processes = sorted({device.process_index for device in mesh(shards).devices.flat})
    return processes.index(jax.process_index()), len(processes)


def room() -> int | None:
    """Bytes of pixels that a device takes, half its memory; None where it is the host's."""
    found = jax.local_devices()[0].memory_stats() or {}
    return found["bytes_limit"] // 2 if "bytes_limit" in found else None


def spread(
    shards: int, program: Callable[..., Tree], whole: tuple[Tree, ...], batches: Tree, out: Any
) -> Tree:
    """`program(*whole, batches)` on every device, with its columns of `batches` [S, B, ...].

    `out` says, for each output, along which axis the devices' results are joined, or None where
    all devices have found the same.
    """
    if shards == 1:
        return program(*whole, batches)
    specs = jax.tree.map(_along, out, is_leaf=lambda axis: axis is None)
    return jax.shard_map(
        program, mesh=mesh(shards), out_specs=specs, check_vma=False,
        in_specs=(*(PartitionSpec() for _ in whole), PartitionSpec(None, AXIS)),
    )(*whole, batches)  # fmt: skip


def _along(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS)


def total(shards: int, tree: Tree) -> Tree:
    """Sum of `tree` over the devices; small leaves share an exchange, large ones are not copied."""
    if shards == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    large = [leaf.size * leaf.dtype.itemsize >= LARGE for leaf in leaves]
    flat, unravel = ravel_pytree([x for x, own in zip(leaves, large, strict=True) if not own])
    alone = [x for x, own in zip(leaves, large, strict=True) if own]
    flat, alone = jax.lax.psum((flat, alone), AXIS)
    small, wide = iter(unravel(flat)), iter(alone)
    return jax.tree.unflatten(structure, [next(wide if own else small) for own in large])
