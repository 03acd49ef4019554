"""How a batch is divided over devices, and how its sums are added: the only file that knows them.

A program is written for the rows of one device. `spread` runs it on all of them, each with its part
of every batch, and `summed` adds what they find. On one device both do nothing.

Three ways lead to the same sums. "shard_map": every device runs the program and sums are exchanged
where `summed` says. "pmap": the same under `jax.pmap`. "jit": one program over sharded arrays, in
which XLA's partitioner finds the exchanges itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import (
    NamedSharding,
    PartitionSpec,
    Sharding,
)

from flaxcnn.engine.devices import AXIS, all_devices, everywhere, mesh, platform
from flaxcnn.errors import ConfigError
from flaxcnn.model.layout import enclosed
from flaxcnn.recipe.config import Config

LARGE = 256 * 1024  # bytes of a leaf from which on a copy costs more than an exchange of its own
# A device with fewer rows of a batch costs more to address than it computes: on a GPU a step of a
# small network takes as long as it takes to launch its kernels, and a TPU fills its 128 lanes with
# the rows of a batch.
LEAST_ROWS = {"cpu": 8, "gpu": 256, "tpu": 128}
Mode = Literal["jit", "pmap", "shard_map"]
Tree = Any


@dataclass(frozen=True)
class Spread:
    """How the rows of a batch are divided: static, and compiled in."""

    devices: int = 1
    mode: Mode = "shard_map"
    # Shards that are summed one by one in a fixed order, so that the bits are the same on any
    # number of devices that divides it; 0: as the devices add them.
    virtual: int = 0
    accumulate: int = 1  # parts of a device's rows (or of a virtual shard's), one after the other
    shard_optimizer: bool = False  # each device holds a part of the optimizer's state
    platform: str = "cpu"  # of the devices: cpu, gpu or tpu

    @property
    def parts(self) -> int:
        """What the rows of a batch are padded to a multiple of."""
        return (self.virtual or self.devices) * self.accumulate

    @property
    def axis(self) -> str | None:
        """The mesh axis that a program may add over; None where it sees all rows of a batch."""
        return AXIS if self.devices > 1 and self.mode != "jit" else None


ALONE = Spread()


def choose(config: Config, devices: int | None = None, every: bool = False) -> Spread:
    """How a run divides its batches over all processes' devices, or `devices`; `every`: over each.

    Raises:
        ConfigError: what the recipe asks for does not go together, or not with these devices.
    """
    chips, on = len(all_devices()), platform()
    there, exact = chips if devices is None else devices, config.determinism == "exact"
    # A TPU's compiler takes only groups of chips that divide the slice.
    possible = [n for n in range(1, there + 1) if on != "tpu" or chips % n == 0]
    if exact:
        # A divisor: the virtual shards are dealt out evenly.
        several = max(n for n in possible if config.virtual_shards % n == 0)
    else:
        least = 1 if every else LEAST_ROWS[on]
        several = max(n for n in possible if n == 1 or n * least <= config.batch_size)
    if devices is None and jax.process_count() > 1:
        several = _of_all_processes(config, there, several)
    mode: Mode = "shard_map" if config.parallel == "auto" else config.parallel
    if config.shard_optimizer and config.parallel == "auto":
        mode = "jit"  # where the partitioner moves gradients and weights to and from the parts
    return Spread(
        several, mode, config.virtual_shards if exact and config.virtual_shards > 1 else 0,
        config.accumulate, config.shard_optimizer and several > 1, on,
    )  # fmt: skip


def _of_all_processes(config: Config, there: int, several: int) -> int:
    """All devices: a process without rows would have nothing to do in the others' exchanges."""
    if config.determinism == "exact" and several != there:
        raise ConfigError(
            f"virtual_shards: got {config.virtual_shards} on {there} devices of "
            f"{jax.process_count()} processes; allowed is a multiple of {there}"
        )
    if config.batch_size < there:
        raise ConfigError(
            f"batch_size: got {config.batch_size} on {there} devices of {jax.process_count()} "
            f"processes; allowed is {there} or more, so that each has a row"
        )
    return there


def uneven(config: Config, how: Spread) -> str:
    """A warning for batches that the devices cannot share evenly; or nothing."""
    if not (missing := -config.batch_size % how.parts):
        return ""
    return (
        f"batch_size {config.batch_size} does not divide into {how.parts} parts: each batch gets "
        f"{missing} rows of padding, which are computed and do not count"
    )


# -- programs ------------------------------------------------------------------------------------


def by_columns(how: Spread) -> Sharding:
    """Placement of batches [S, B, ...] of which each device holds the columns it works on."""
    if how.devices == 1:
        return everywhere(1)
    return NamedSharding(mesh(how.devices), _along(1))


def spread(
    how: Spread, program: Callable[..., Tree], whole: tuple[Tree, ...], batches: Tree, out: Any
) -> Tree:
    """`program(*whole, batches)` on every device, with its columns of `batches` [S, B, ...].

    `out` says, for each output, along which axis the devices' results are joined, or None where
    all devices have found the same.
    """
    if how.devices == 1:
        return program(*whole, batches)
    if how.mode == "jit":
        return program(*whole, _constrained(how, batches, _along(1)))
    if how.mode == "pmap":
        return _pmapped(how, program, whole, batches, out)
    return jax.shard_map(
        program, mesh=mesh(how.devices), check_vma=False,
        in_specs=(*(PartitionSpec() for _ in whole), _along(1)),
        out_specs=jax.tree.map(_along, out, is_leaf=_is_none),
    )(*whole, batches)  # fmt: skip


def _pmapped(
    how: Spread, program: Callable[..., Tree], whole: tuple[Tree, ...], batches: Tree, out: Any
) -> Tree:
    """The same under `jax.pmap`, which wants an axis as long as there are devices."""
    dealt = jax.tree.map(lambda x: x.reshape(x.shape[0], how.devices, -1, *x.shape[2:]), batches)
    found = jax.pmap(
        program, AXIS, in_axes=(*[None] * len(whole), 1), out_axes=out,
        devices=all_devices()[: how.devices],
    )(*whole, dealt)  # fmt: skip

    def joined(axis: int | None, tree: Tree) -> Tree:
        if axis is None:
            return tree
        shape = lambda x: (*x.shape[:axis], -1, *x.shape[axis + 2 :])  # noqa: E731
        return jax.tree.map(lambda x: x.reshape(shape(x)), tree)

    return jax.tree.map(joined, out, found, is_leaf=_is_none)


def summed(how: Spread, of: Callable[..., Tree], whole: tuple[Tree, ...], batch: Tree) -> Tree:
    """The sum of `of(*whole, rows)` over all rows of a batch; called inside `spread`.

    `batch` is a tree of [B, ...] arrays, B a multiple of the parts that this device computes.
    """
    if not how.virtual:
        return _total(how, _one_after_the_other(how, functools.partial(of, *whole), batch))

    def one(*args: Tree) -> Tree:
        *own, rows = args
        return _one_after_the_other(how, functools.partial(of, *own), rows)

    shards = _divided(how, batch, how.virtual // how.devices)
    each = jax.lax.map(lambda rows: alone(how, one)(*whole, rows), shards)
    if how.devices > 1:
        each = jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), each)
    return jax.lax.optimization_barrier(jax.tree.map(_in_pairs, jax.lax.optimization_barrier(each)))


def alone(how: Spread, function: Callable[..., Tree]) -> Callable[..., Tree]:
    """In exact mode, the function kept apart: the same computation whatever is beside it."""
    if not how.virtual:
        return function

    def kept_apart(*args: Tree) -> Tree:
        found = enclosed(function, how.platform)(*jax.lax.optimization_barrier(args))
        return jax.lax.optimization_barrier(found)

    return kept_apart


def _in_pairs(x: jax.Array) -> jax.Array:
    """Sum of x over its first axis, neighbours first: the order is that of the rows alone."""
    while x.shape[0] > 1:
        odd = x[x.shape[0] // 2 * 2 :]
        x = jnp.concatenate([x[: len(x) - len(odd) : 2] + x[1::2], odd])
    return x[0]


def _one_after_the_other(how: Spread, of: Callable[[Tree], Tree], batch: Tree) -> Tree:
    """Sum over `accumulate` parts of the rows, of which only one is computed at a time."""
    if how.accumulate == 1:
        return of(batch)
    parts = _divided(how, batch, how.accumulate)
    like = jax.eval_shape(of, jax.tree.map(lambda x: x[0], parts))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    step = lambda sums, rows: (jax.tree.map(jnp.add, sums, of(rows)), None)  # noqa: E731
    return jax.lax.scan(step, nothing, parts)[0]


def _divided(how: Spread, batch: Tree, parts: int) -> Tree:
    """[B, ...] -> [parts, B / parts, ...]; under "jit" each part has rows of every device."""
    if how.mode != "jit" or how.devices == 1:
        return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)

    def dealt(x: jax.Array) -> jax.Array:
        rows = x.reshape(how.devices, parts, -1, *x.shape[1:]).swapaxes(0, 1)
        return rows.reshape(parts, -1, *x.shape[1:])

    return _constrained(how, jax.tree.map(dealt, batch), _along(1))


def _total(how: Spread, tree: Tree) -> Tree:
    """Sum of `tree` over the devices; small leaves share an exchange, large ones are not copied."""
    if how.axis is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    large = [leaf.size * leaf.dtype.itemsize >= LARGE for leaf in leaves]
    flat, unravel = ravel_pytree([x for x, own in zip(leaves, large, strict=True) if not own])
    alone = [x for x, own in zip(leaves, large, strict=True) if own]
    flat, alone = jax.lax.psum((flat, alone), AXIS)
    small, wide = iter(unravel(flat)), iter(alone)
    return jax.tree.unflatten(structure, [next(wide if own else small) for own in large])


# -- placement -----------------------------------------------------------------------------------


def optimizer_placement(how: Spread, state: Tree) -> Tree:
    """Where each array of a sharded optimizer's state lies: a part on each device.

    A part is cut along the first axis that the devices divide (Rajbhandari et al. 2020, ZeRO stage
    1); an array with no such axis lies whole everywhere.
    """

    def place(leaf: Any) -> Sharding:
        fits = (axis for axis, n in enumerate(leaf.shape) if n and n % how.devices == 0)
        return NamedSharding(mesh(how.devices), _along(next(fits, None)))

    return jax.tree.map(place, state)


def whole(tree: Tree) -> Tree:
    """The arrays of `tree`, each whole on every device, so that any process can read them."""

    def gathered(x: jax.Array) -> jax.Array:
        if x.is_fully_replicated:
            return x
        return jax.jit(lambda x: x, out_shardings=everywhere(len(x.sharding.device_set)))(x)

    return jax.tree.map(gathered, tree)


def in_parts(how: Spread, state: Tree) -> Tree:
    """An optimizer's state, kept where `optimizer_placement` says."""
    if not how.shard_optimizer:
        return state
    return jax.lax.with_sharding_constraint(state, optimizer_placement(how, state))


def _constrained(how: Spread, tree: Tree, spec: PartitionSpec) -> Tree:
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh(how.devices), spec))


def _along(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS)


def _is_none(axis: Any) -> bool:
    return axis is None
