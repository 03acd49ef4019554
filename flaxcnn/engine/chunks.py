"""The same steps over a chunk: a few batches with their pixels, in one program."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.data.batches import Batch, Scaling
from flaxcnn.engine import sharding
from flaxcnn.engine.epoch import alive_in, eval_sums
from flaxcnn.engine.metrics import MetricSums, joined_sums
from flaxcnn.engine.step import Hypers, Plan, TrainState, train_step
from flaxcnn.model.layout import on_cpu

Tree = Any
# What a program finds in a batch, and the axes along which the devices' results are joined.
ON_BATCH: dict[str, tuple[Callable[..., Tree], Tree]] = {
    "evaluate": (eval_sums, (0, 1)), "alive_units": (alive_in, 0),
}  # fmt: skip


def train_chunk(
    plan: Plan, state: TrainState, hypers: Hypers, scaling: Scaling, count: jax.Array, chunk: Batch
) -> tuple[TrainState, MetricSums]:
    """Steps over the first `count` [] int32 batches of `chunk` [K, B, ...] -> (state, sums [K])."""

    def steps(
        state: TrainState, hypers: Hypers, scaling: Scaling, count: jax.Array, chunk: Batch
    ) -> tuple[TrainState, MetricSums]:
        length = chunk.mask.shape[0]
        none = jnp.zeros(length, jnp.float32)

        def body(i: jax.Array, carry: tuple[TrainState, MetricSums]) -> Tree:
            state, sums = carry
            state, found = train_step(plan, state, hypers, scaling, _at(chunk, i))
            return state, _put(sums, i, found)

        begun = (state, MetricSums(none, none, none))
        return _first(plan, count, length, body, begun)

    return sharding.shard_batches(
        plan.sharding, steps, (state, hypers, scaling, count), chunk, out=(None, None)
    )


def eval_chunk(
    plan: Plan, program: str, state: TrainState, scaling: Scaling, count: jax.Array, chunk: Batch
) -> Tree:
    """What `program` finds in the first `count` batches of `chunk`, stacked; zeros for others."""
    on_batch, axes = ON_BATCH[program]

    def batches(state: TrainState, scaling: Scaling, count: jax.Array, chunk: Batch) -> Tree:
        function = functools.partial(on_batch, plan, state, scaling)
        like = jax.eval_shape(function, _at(chunk, 0))
        length = chunk.mask.shape[0]
        none = jax.tree.map(lambda one: jnp.zeros((length, *one.shape), one.dtype), like)
        body = lambda i, found: _put(found, i, function(_at(chunk, i)))  # noqa: E731
        return _first(plan, count, length, body, none)

    return sharding.shard_batches(plan.sharding, batches, (state, scaling, count), chunk, out=axes)


def _first(
    plan: Plan, count: jax.Array, length: int, body: Callable[[jax.Array, Tree], Tree], carry: Tree
) -> Tree:
    """`body(i, carry)` for the first `count` [] int32 of `length` batches."""
    if on_cpu(plan.sharding.platform):
        # A number of steps that the compiler does not know: one program, and it unrolls none.
        return jax.lax.fori_loop(0, count, body, carry)

    # Such a loop would have a GPU ask the host after every step whether to go on.
    def all_of_them(carry: Tree, i: jax.Array) -> tuple[Tree, None]:
        kept = lambda new, old: jnp.where(i < count, new, old)  # noqa: E731
        return jax.tree.map(kept, body(i, carry), carry), None

    return jax.lax.scan(all_of_them, carry, jnp.arange(length, dtype=jnp.int32))[0]


def _at(chunk: Batch, i: jax.Array | int) -> Batch:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), chunk)


def _put(stacked: Tree, i: jax.Array, found: Tree) -> Tree:
    return jax.tree.map(lambda into, one: into.at[i].set(one), stacked, found)


def joined(plan: Plan, program: str, results: list[tuple[Tree, int]]) -> Tree:
    """Results of all calls, with their numbers of true batches, as if of one; on the host.

    Args:
        plan: of the run.
        program: `train_epoch` (its sums), `evaluate` (sums), `predict` (logits [N, K], those of
            padding too) or `alive_units`.
        results: of `evaluate` for `predict` as well, which gives both.
    """
    if program == "train_epoch":
        return joined_sums(results, 1)  # all devices have found the same
    if program == "evaluate":
        each = plan.sharding.devices if plan.sharding.axis else 1  # that have sums of their own
        return joined_sums([(sums, count) for (sums, _), count in results], each)
    if program == "predict":
        logits = [(jax.device_get(found[1]), count) for found, count in results]
        return jnp.asarray(np.concatenate(
            [found[:count].reshape(-1, found.shape[-1]) for found, count in logits]
        ))  # fmt: skip
    host = [jax.device_get(found) for found, _ in results]  # [C], or [K, C] of a chunk
    return {
        name: np.concatenate([np.atleast_2d(each[name]) for each in host]).any(axis=0)
        for name in host[0]
    }
