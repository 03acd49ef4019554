"""The same steps over a chunk: a few batches with their pixels, in one program."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.data.batches import Batch, Scaling
from flaxcnn.engine import parallel
from flaxcnn.engine.epoch import alive_in, eval_logits, eval_sums
from flaxcnn.engine.metrics import MetricSums
from flaxcnn.engine.step import Hypers, Plan, TrainState, train_step

Tree = Any
# The form in which a program's results over chunks are joined: the axis of a device's batches.
JOINED = {"evaluate": 0, "predict": 1, "alive_units": 0}
ON_BATCH: dict[str, Callable[..., Tree]] = {
    "evaluate": eval_sums, "predict": eval_logits, "alive_units": alive_in,
}  # fmt: skip


def train_chunk(
    plan: Plan, state: TrainState, hypers: Hypers, scaling: Scaling, count: jax.Array, chunk: Batch
) -> tuple[TrainState, MetricSums]:
    """Steps over the first `count` [] int32 batches of `chunk` [K, B, ...] -> (state, sums [K])."""

    def steps(
        state: TrainState, hypers: Hypers, scaling: Scaling, count: jax.Array, chunk: Batch
    ) -> tuple[TrainState, MetricSums]:
        none = jnp.zeros(chunk.mask.shape[0], jnp.float32)

        def body(i: jax.Array, carry: tuple[TrainState, MetricSums]) -> Tree:
            state, sums = carry
            state, found = train_step(plan, state, hypers, scaling, _at(chunk, i))
            return state, _put(sums, i, found)

        # A number of steps that the compiler does not know: one program, and it unrolls none.
        return jax.lax.fori_loop(0, count, body, (state, MetricSums(none, none, none)))

    return parallel.spread(
        plan.spread, steps, (state, hypers, scaling, count), chunk, out=(None, None)
    )


def eval_chunk(
    plan: Plan, program: str, state: TrainState, scaling: Scaling, count: jax.Array, chunk: Batch
) -> Tree:
    """What `program` finds in the first `count` batches of `chunk`, stacked; zeros for others."""

    def batches(state: TrainState, scaling: Scaling, count: jax.Array, chunk: Batch) -> Tree:
        function = functools.partial(ON_BATCH[program], plan, state, scaling)
        like = jax.eval_shape(function, _at(chunk, 0))
        length = chunk.mask.shape[0]
        none = jax.tree.map(lambda one: jnp.zeros((length, *one.shape), one.dtype), like)
        return jax.lax.fori_loop(
            0, count, lambda i, found: _put(found, i, function(_at(chunk, i))), none
        )

    return parallel.spread(
        plan.spread, batches, (state, scaling, count), chunk, out=JOINED[program]
    )


def _at(chunk: Batch, i: jax.Array | int) -> Batch:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), chunk)


def _put(stacked: Tree, i: jax.Array, found: Tree) -> Tree:
    return jax.tree.map(lambda into, one: into.at[i].set(one), stacked, found)


def joined(plan: Plan, program: str, results: list[tuple[Tree, int]]) -> Tree:
    """Results of all chunks, with their numbers of batches, in the order of the resident loop."""
    axis, devices = JOINED.get(program), plan.spread.devices
    host = [(jax.device_get(found), count) for found, count in results]
    if program == "predict":  # [K, B, classes] each
        return jnp.asarray(np.concatenate(
            [found[:count].reshape(-1, found.shape[-1]) for found, count in host]
        ))  # fmt: skip

    def join(*leaves: np.ndarray) -> jax.Array:
        # Every device's batches follow each other where devices found results of their own
        apart = devices if axis == 0 else 1
        parts = [leaf.reshape(apart, -1, *leaf.shape[1:])[:, :count]
                 for leaf, (_, count) in zip(leaves, host, strict=True)]  # fmt: skip
        whole = np.concatenate(parts, axis=1)
        return jnp.asarray(whole.reshape(-1, *whole.shape[2:]))

    found = jax.tree.map(join, *(found for found, _ in host))
    if program == "alive_units":
        return {name: each.any(axis=0) for name, each in found.items()}
    return found
