"""How a batch is divided over devices, and how its sums are added: the only file that knows them.

A program is written for the rows of one device. `shard_batches` runs it on all of them, each with
its shard of every batch, and `reduce_over_shards` adds their results. On one device neither does
anything.

Three modes give the same sums. "shard_map": every device runs the program and sums are exchanged
in `reduce_over_shards`. "pmap": the same under `jax.pmap`. "jit": one program over sharded arrays,
where XLA's partitioner inserts the exchanges.
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

from flaxcnn.engine.devices import AXIS, all_devices, mesh, platform, replicated
from flaxcnn.errors import ConfigError
from flaxcnn.model.layout import isolate
from flaxcnn.recipe.config import Config

LARGE = 256 * 1024  # bytes of a leaf from which on a copy costs more than an exchange of its own
# A device with fewer rows of a batch costs more to address than it computes: on a GPU a step of a
# small network takes as long as it takes to launch its kernels, and a TPU fills its 128 lanes with
# the rows of a batch.
LEAST_ROWS = {"cpu": 8, "gpu": 256, "tpu": 128}
Mode = Literal["jit", "pmap", "shard_map"]
Tree = Any


@dataclass(frozen=True)
class BatchSharding:
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
    def adds(self) -> bool:
        """Whether what is found of rows is added to that of others: a program may see only a part.

        On CPU always: it costs nothing there, and its rounding is in the records of older runs.
        """
        return self.parts > 1 or self.platform == "cpu"

    @property
    def axis(self) -> str | None:
        """The mesh axis that a program may add over; None where it sees all rows of a batch."""
        return AXIS if self.devices > 1 and self.mode != "jit" else None


ONE_DEVICE = BatchSharding()


def choose_sharding(
    config: Config, devices: int | None = None, every: bool = False
) -> BatchSharding:
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
    return BatchSharding(
        several, mode, config.virtual_shards if exact and config.virtual_shards > 1 else 0,
        config.accumulate, config.shard_optimizer and several > 1, on,
    )  # fmt: skip


def _of_all_processes(config: Config, there: int, several: int) -> int:
    """All devices: a process without rows would have nothing to do in the others' exchanges."""
    if config.determinism == "exact" and several != there:
        raise ConfigError(
            f"virtual_shards must be a multiple of {there}, the devices of {jax.process_count()} "
            f"processes (got {config.virtual_shards})"
        )
    if config.batch_size < there:
        raise ConfigError(
            f"batch_size must be at least {there}, so that each of the {there} devices of "
            f"{jax.process_count()} processes has a row (got {config.batch_size})"
        )
    return there


def padding_warning(config: Config, sharding: BatchSharding) -> str:
    """A warning for batches that the devices cannot share evenly; or nothing."""
    if not (missing := -config.batch_size % sharding.parts):
        return ""
    return (
        f"batch_size {config.batch_size} does not divide into {sharding.parts} parts: "
        f"each batch gets {missing} rows of padding, which are computed and do not count"
    )


# -- programs ------------------------------------------------------------------------------------


def batch_sharding(sharding: BatchSharding) -> Sharding:
    """Placement of batches [S, B, ...] of which each device holds the columns it works on."""
    if sharding.devices == 1:
        return replicated(1)
    return NamedSharding(mesh(sharding.devices), _spec(1))


def shard_batches(
    sharding: BatchSharding,
    program: Callable[..., Tree],
    whole: tuple[Tree, ...],
    batches: Tree,
    out: Any,
) -> Tree:
    """`program(*whole, batches)` on every device, with its columns of `batches` [S, B, ...].

    `out` says, for each output, along which axis the devices' results are joined, or None where
    all devices have the same.
    """
    if sharding.devices == 1:
        return program(*whole, batches)
    if sharding.mode == "jit":
        return program(*whole, _constrain(sharding, batches, _spec(1)))
    if sharding.mode == "pmap":
        return _pmap(sharding, program, whole, batches, out)
    return jax.shard_map(
        program, mesh=mesh(sharding.devices), check_vma=False,
        in_specs=(*(PartitionSpec() for _ in whole), _spec(1)),
        out_specs=jax.tree.map(_spec, out, is_leaf=_is_none),
    )(*whole, batches)  # fmt: skip


def _pmap(
    sharding: BatchSharding,
    program: Callable[..., Tree],
    whole: tuple[Tree, ...],
    batches: Tree,
    out: Any,
) -> Tree:
    """The same under `jax.pmap`, which wants an axis as long as there are devices."""
    dealt = jax.tree.map(
        lambda x: x.reshape(x.shape[0], sharding.devices, -1, *x.shape[2:]), batches
    )
    results = jax.pmap(
        program, AXIS, in_axes=(*[None] * len(whole), 1), out_axes=out,
        devices=all_devices()[: sharding.devices],
    )(*whole, dealt)  # fmt: skip

    def joined(axis: int | None, tree: Tree) -> Tree:
        if axis is None:
            return tree
        shape = lambda x: (*x.shape[:axis], -1, *x.shape[axis + 2 :])  # noqa: E731
        return jax.tree.map(lambda x: x.reshape(shape(x)), tree)

    return jax.tree.map(joined, out, results, is_leaf=_is_none)


def reduce_over_shards(
    sharding: BatchSharding, of: Callable[..., Tree], whole: tuple[Tree, ...], batch: Tree
) -> Tree:
    """The sum of `of(*whole, rows)` over all rows of a batch; called inside `shard_batches`.

    `batch` is a tree of [B, ...] arrays, this device's; B is a multiple of its number of parts.
    """
    if not sharding.virtual:
        return _sum_over_devices(
            sharding, _accumulate(sharding, functools.partial(of, *whole), batch)
        )

    def one(*args: Tree) -> Tree:
        *own, rows = args
        return _accumulate(sharding, functools.partial(of, *own), rows)

    shards = _split(sharding, batch, sharding.virtual // sharding.devices)
    each = jax.lax.map(lambda rows: isolated(sharding, one)(*whole, rows), shards)
    if sharding.devices > 1:
        each = jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), each)
    return jax.lax.optimization_barrier(
        jax.tree.map(_pairwise_sum, jax.lax.optimization_barrier(each))
    )


def isolated(sharding: BatchSharding, function: Callable[..., Tree]) -> Callable[..., Tree]:
    """In exact mode, the function kept apart: the same computation whatever is beside it."""
    if not sharding.virtual:
        return function

    def isolated_function(*args: Tree) -> Tree:
        result = isolate(function, sharding.platform)(*jax.lax.optimization_barrier(args))
        return jax.lax.optimization_barrier(result)

    return isolated_function


def _pairwise_sum(x: jax.Array) -> jax.Array:
    """Sum of x over its first axis, neighbours first: the order is that of the rows alone."""
    while x.shape[0] > 1:
        odd = x[x.shape[0] // 2 * 2 :]
        x = jnp.concatenate([x[: len(x) - len(odd) : 2] + x[1::2], odd])
    return x[0]


def _accumulate(sharding: BatchSharding, of: Callable[[Tree], Tree], batch: Tree) -> Tree:
    """Sum over `accumulate` parts of the rows, of which only one is computed at a time."""
    if sharding.accumulate == 1:
        return of(batch)
    parts = _split(sharding, batch, sharding.accumulate)
    like = jax.eval_shape(of, jax.tree.map(lambda x: x[0], parts))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    step = lambda sums, rows: (jax.tree.map(jnp.add, sums, of(rows)), None)  # noqa: E731
    return jax.lax.scan(step, nothing, parts)[0]


def _split(sharding: BatchSharding, batch: Tree, parts: int) -> Tree:
    """[B, ...] -> [parts, B / parts, ...]; under "jit" each part has rows of every device."""
    if sharding.mode != "jit" or sharding.devices == 1:
        return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)

    def dealt(x: jax.Array) -> jax.Array:
        rows = x.reshape(sharding.devices, parts, -1, *x.shape[1:]).swapaxes(0, 1)
        return rows.reshape(parts, -1, *x.shape[1:])

    return _constrain(sharding, jax.tree.map(dealt, batch), _spec(1))


def _sum_over_devices(sharding: BatchSharding, tree: Tree) -> Tree:
    """Sum of `tree` over the devices; small leaves share an exchange, large ones are not copied."""
    if sharding.axis is None:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    large = [leaf.size * leaf.dtype.itemsize >= LARGE for leaf in leaves]
    flat, unravel = ravel_pytree([x for x, own in zip(leaves, large, strict=True) if not own])
    alone = [x for x, own in zip(leaves, large, strict=True) if own]
    flat, alone = jax.lax.psum((flat, alone), AXIS)
    small, wide = iter(unravel(flat)), iter(alone)
    return jax.tree.unflatten(structure, [next(wide if own else small) for own in large])


# -- placement -----------------------------------------------------------------------------------


def opt_state_sharding(sharding: BatchSharding, state: Tree) -> Tree:
    """Where each array of a sharded optimizer's state is: a part on each device.

    A part is cut along the first axis that the devices divide (Rajbhandari et al. 2020, ZeRO stage
    1); an array with no such axis is replicated.
    """

    def place(leaf: Any) -> Sharding:
        fits = (axis for axis, n in enumerate(leaf.shape) if n and n % sharding.devices == 0)
        return NamedSharding(mesh(sharding.devices), _spec(next(fits, None)))

    return jax.tree.map(place, state)


def gather(tree: Tree) -> Tree:
    """The arrays of `tree`, each whole on every device, so that any process can read them."""

    def gathered(x: jax.Array) -> jax.Array:
        if x.is_fully_replicated:
            return x
        return jax.jit(lambda x: x, out_shardings=replicated(len(x.sharding.device_set)))(x)

    return jax.tree.map(gathered, tree)


def shard_opt_state(sharding: BatchSharding, state: Tree) -> Tree:
    """An optimizer's state, kept where `opt_state_sharding` says."""
    if not sharding.shard_optimizer:
        return state
    return jax.lax.with_sharding_constraint(state, opt_state_sharding(sharding, state))


def _constrain(sharding: BatchSharding, tree: Tree, spec: PartitionSpec) -> Tree:
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh(sharding.devices), spec))


def _spec(axis: int | None) -> PartitionSpec:
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS)


def _is_none(axis: Any) -> bool:
    return axis is None
