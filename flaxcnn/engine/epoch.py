"""Programs over many batches: an epoch of training steps, an evaluation, a count of alive units.

Each exists for data on the device (`train_epoch`, `evaluate`, `alive_units`), whose batches are row
numbers, and for a chunk of a stream (`..._chunk`), whose batches come with their pixels. All of
them are one scan, `over_batches`. `train_part` is `train_epoch` in several calls, so that a run can
stop within an epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.augment.chain import mixes
from flaxcnn.data.batches import Batch, Resident, Scaling, partners, shuffled, take
from flaxcnn.data.standardize import standardize
from flaxcnn.engine.devices import platform as default_platform
from flaxcnn.engine.metrics import MetricSums, as_vector, batch_sums, from_vector
from flaxcnn.engine.sharding import isolated, reduce_over_shards, shard_batches
from flaxcnn.engine.step import Hypers, Plan, TrainState, eval_step, gradients, train_step
from flaxcnn.model.layout import on_cpu

# Rows that a device evaluates at once: on CPU few, so that activations stay in its cache; elsewhere
# a multiple of the 128 lanes of a TPU.
EVAL_ROWS = {"cpu": 32, "gpu": 1024, "tpu": 1024}
OLD = 2.0**20  # moving statistics that those of a batch are small beside
Tree = Any
Alive = dict[str, jax.Array]  # layer name -> which of its units, bool [C]


def over_batches(
    plan: Plan, step: Callable[..., tuple[Tree, Tree]], carry: Tree, constants: tuple[Tree, ...],
    batches: Tree, axes: Tree, count: jax.Array | None = None,
) -> tuple[Tree, Tree]:  # fmt: skip
    """Scan `step(carry, *constants, batch) -> (carry, result)` over batches, on every device.

    Args:
        plan: says which devices there are.
        step: what is done with a batch.
        carry: before the first batch; whole on every device.
        constants: arguments that are the same for all batches; whole on every device.
        batches: a tree of [S, B, ...] arrays, of which each device gets its own columns.
        axes: of each result, along which those of the devices are joined; None: all have the same.
        count: [] int32; scan the first `count` batches only. None: all of them.

    Returns:
        the last carry, and the results stacked [S, ...], 0 for batches that were left out.
    """

    def whole(carry: Tree, constants: tuple[Tree, ...], batches: Tree) -> tuple[Tree, Tree]:
        on_batch = lambda carry, batch: step(carry, *constants, batch)  # noqa: E731
        return jax.lax.scan(on_batch, carry, batches)

    def part(
        carry: Tree, constants: tuple[Tree, ...], count: jax.Array, batches: Tree
    ) -> tuple[Tree, Tree]:
        on_batch = lambda carry, batch: step(carry, *constants, batch)  # noqa: E731
        return _first(count, on_batch, carry, batches, on_cpu(plan.sharding.platform))

    if count is None:
        return shard_batches(plan.sharding, whole, (carry, constants), batches, (None, axes))
    return shard_batches(plan.sharding, part, (carry, constants, count), batches, (None, axes))


def _first(
    count: jax.Array, on_batch: Callable[[Tree, Tree], tuple[Tree, Tree]], carry: Tree,
    batches: Tree, loop: bool,
) -> tuple[Tree, Tree]:  # fmt: skip
    """The scan over the first `count` [] int32 batches; with `loop` others are not computed."""
    at = lambda i: jax.tree.map(  # noqa: E731
        lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), batches
    )
    length = len(jax.tree.leaves(batches)[0])
    like = jax.eval_shape(on_batch, carry, at(0))[1]
    results = jax.tree.map(lambda one: jnp.zeros((length, *one.shape), one.dtype), like)

    def body(i: jax.Array, carried: tuple[Tree, Tree]) -> tuple[Tree, Tree]:
        carry, results = carried
        carry, result = on_batch(carry, at(i))
        return carry, jax.tree.map(lambda into, new: into.at[i].set(new), results, result)

    if loop:
        # A number of steps that the compiler does not know: one program, and it unrolls none.
        return jax.lax.fori_loop(0, count, body, (carry, results))

    # Such a loop would have a GPU ask the host after every step whether to go on.
    def masked(carried: tuple[Tree, Tree], i: jax.Array) -> tuple[Tree, None]:
        kept = lambda new, old: jnp.where(i < count, new, old)  # noqa: E731
        return jax.tree.map(kept, body(i, carried), carried), None

    carried, _ = jax.lax.scan(masked, (carry, results), jnp.arange(length, dtype=jnp.int32))
    return carried


# -- training ------------------------------------------------------------------------------------


def train_epoch(
    plan: Plan, state: TrainState, hypers: Hypers, data: Resident, rows: jax.Array
) -> tuple[TrainState, MetricSums]:
    """One pass over `rows` [N] int32 in this epoch's order -> (state, sums [S] of its steps)."""
    batches = _batches(plan, state.seeds, state.step // plan.steps_per_epoch, data, rows)
    return _train(plan, state, hypers, data, rows, batches)


class Span(NamedTuple):
    """Which steps of an epoch a call of `train_part` does."""

    order: tuple[jax.Array, jax.Array]  # row numbers and mask [S, B] of the epoch's batches
    # [3] int32: the first step, how many, and whether `order` is yet to be drawn. To draw it takes
    # as long as several steps, so that only the first call of an epoch does.
    which: jax.Array


def train_part(
    plan: Plan, state: TrainState, hypers: Hypers, data: Resident, rows: jax.Array, span: Span
) -> tuple[TrainState, MetricSums, tuple[jax.Array, jax.Array]]:
    """Some steps of a pass over `rows` [N] int32, at most `plan.part_steps`.

    Returns:
        the state, sums [plan.part_steps] with those of the steps first and then 0, and the order.
    """
    first, count, fresh = span.which
    epoch = state.step // plan.steps_per_epoch
    draw = lambda: _batches(plan, state.seeds, epoch, data, rows)  # noqa: E731
    order = jax.lax.cond(fresh > 0, draw, lambda: span.order)

    def part(batches: jax.Array) -> jax.Array:
        beyond = jnp.pad(batches, ((0, plan.part_steps), (0, 0)))
        return jax.lax.dynamic_slice_in_dim(beyond, first, plan.part_steps)

    batches = (part(order[0]), part(order[1]))
    return *_train(plan, state, hypers, data, rows, batches, count), order


def _train(
    plan: Plan, state: TrainState, hypers: Hypers, data: Resident, rows: jax.Array,
    batches: tuple[jax.Array, jax.Array], count: jax.Array | None = None,
) -> tuple[TrainState, MetricSums]:  # fmt: skip
    """Steps over batches [S, B] of `rows`, or the first `count` [] int32 -> (state, sums [S])."""

    def step(
        state: TrainState, hypers: Hypers, data: Resident, others: jax.Array | None,
        batch: tuple[jax.Array, jax.Array],
    ) -> tuple[TrainState, jax.Array]:  # fmt: skip
        rows = _rows(plan, state, data, others, batch)
        state, sums = train_step(plan, state, hypers, data.scaling, rows)
        return state, as_vector(sums)

    others = rows if mixes(plan.augment) else None
    state, sums = over_batches(plan, step, state, (hypers, data, others), batches, None, count)
    return state, from_vector(sums, plan.metrics)


def _rows(
    plan: Plan, state: TrainState, data: Resident, others: jax.Array | None,
    batch: tuple[jax.Array, jax.Array],
) -> Batch:  # fmt: skip
    """The rows of a training batch, each with a partner of `others` where augmentation mixes."""
    rows = take(data, *batch, copies=plan.balanced)
    if others is None:
        return rows
    drawn = partners(state.seeds, state.step // plan.steps_per_epoch, rows.row, others)
    return dataclasses.replace(rows, partner=take(data, drawn, rows.mask))


def _batches(
    plan: Plan, seeds: jax.Array, epoch: jax.Array, data: Resident, rows: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Row numbers and mask [S, B] of the batches of an epoch over `rows` [N] int32."""
    return shuffled(
        seeds, epoch, rows, plan.batch_size, plan.drop_last, plan.sharding.parts,
        data.label if plan.balanced else None,
    )  # fmt: skip


def train_chunk(
    plan: Plan, state: TrainState, hypers: Hypers, scaling: Scaling, count: jax.Array, chunk: Batch
) -> tuple[TrainState, MetricSums]:
    """Steps over the first `count` [] int32 batches of `chunk` [S, B, ...] -> (state, sums [S])."""

    def step(
        state: TrainState, hypers: Hypers, scaling: Scaling, batch: Batch
    ) -> tuple[TrainState, jax.Array]:
        state, sums = train_step(plan, state, hypers, scaling, batch)
        return state, as_vector(sums)

    state, sums = over_batches(plan, step, state, (hypers, scaling), chunk, None, count)
    return state, from_vector(sums, plan.metrics)


def estimate(
    plan: Plan, state: TrainState, hypers: Hypers, data: Resident, rows: jax.Array
) -> Tree:
    """Batch statistics of the averaged weights: their means over the batches of the last epoch.

    As torch's `update_bn`, on images augmented as in that epoch. Moving statistics are
    m * old + (1 - m) * those of the batch; from 0 and from OLD, one batch tells m.
    """
    begin = (state.step // plan.steps_per_epoch - 1) * plan.steps_per_epoch
    number, mask = _batches(plan, state.seeds, begin // plan.steps_per_epoch, data, rows)
    state = dataclasses.replace(state, params=state.average["params"], average={})
    others = rows if mixes(plan.augment) else None

    def of_rows(*args: Tree) -> tuple[Tree, jax.Array]:
        sums = gradients(plan, *args)  # the gradients themselves are not computed: nobody uses them
        return sums.batch_stats, sums.metrics.count

    def step(
        now: jax.Array, state: TrainState, hypers: Hypers, data: Resident,
        others: jax.Array | None, batch: tuple[jax.Array, jax.Array],
    ) -> tuple[jax.Array, Tree]:  # fmt: skip
        whole = (dataclasses.replace(state, step=now), hypers, data.scaling)
        rows = _rows(plan, whole[0], data, others, batch)
        return now + 1, reduce_over_shards(plan.sharding, of_rows, whole, rows)

    def sums_from(old: float, batches: tuple[jax.Array, jax.Array]) -> Tree:
        stats = jax.tree.map(lambda s: jnp.full_like(s, old), state.batch_stats)
        from_old = dataclasses.replace(state, batch_stats=stats)
        constants = (from_old, hypers, data, others)
        return over_batches(plan, step, begin, constants, batches, None)[1]

    def means(sums: jax.Array, probe: jax.Array, count: jax.Array) -> jax.Array:
        kept = (probe[0] - sums[0]) / count[0] / OLD
        return sums.sum(axis=0) / count.sum() / (1.0 - kept.mean())

    sums, count = sums_from(0.0, (number, mask))
    probe, _ = sums_from(OLD, (number[:1], mask[:1]))
    of_all = lambda *trees: jax.tree.map(lambda s, p: means(s, p, trees[2]), *trees[:2])  # noqa: E731
    return isolated(plan.sharding, of_all)(sums, probe, count)


# -- evaluation ----------------------------------------------------------------------------------


def evaluate(
    plan: Plan, state: TrainState, data: Resident, rows: jax.Array, mask: jax.Array
) -> tuple[MetricSums, jax.Array]:
    """Metrics and logits of batches of `rows` [S, B] int32, of which `mask` [S, B] bool count.

    Returns:
        sums for each batch and device, and logits [S, B, K] float32.
    """

    def step(
        _: None, state: TrainState, data: Resident, batch: tuple[jax.Array, jax.Array]
    ) -> tuple[None, tuple[jax.Array, jax.Array]]:
        return None, _sums_and_logits(plan, state, data.scaling, take(data, *batch))

    _, (sums, logits) = over_batches(plan, step, None, (state, data), (rows, mask), (0, 1))
    return from_vector(sums, plan.metrics), logits


def evaluate_chunk(
    plan: Plan, state: TrainState, scaling: Scaling, count: jax.Array, chunk: Batch
) -> tuple[MetricSums, jax.Array]:
    """The same for the first `count` [] int32 batches of `chunk` [S, B, ...]; 0 for the others."""

    def step(
        _: None, state: TrainState, scaling: Scaling, batch: Batch
    ) -> tuple[None, tuple[jax.Array, jax.Array]]:
        return None, _sums_and_logits(plan, state, scaling, batch)

    _, (sums, logits) = over_batches(plan, step, None, (state, scaling), chunk, (0, 1), count)
    return from_vector(sums, plan.metrics), logits


def alive_units(
    plan: Plan, state: TrainState, data: Resident, rows: jax.Array, mask: jax.Array
) -> Alive:
    """For each layer with relu: which units [C] bool give a value above 0 for any of `rows`.

    `rows` and `mask` as in `evaluate`; rows that are masked are copies of others. A unit that never
    gives anything is dead: its gradient is 0 on these rows, so it cannot learn from them.
    """

    def step(
        _: None, state: TrainState, data: Resident, batch: tuple[jax.Array, jax.Array]
    ) -> tuple[None, Alive]:
        return None, _alive_units(plan, state, data.scaling, take(data, *batch))

    _, alive = over_batches(plan, step, None, (state, data), (rows, mask), 0)
    return {layer: units.any(axis=0) for layer, units in alive.items()}


def alive_units_chunk(
    plan: Plan, state: TrainState, scaling: Scaling, count: jax.Array, chunk: Batch
) -> Alive:
    """The same for the first `count` [] int32 batches of `chunk` [S, B, ...]."""

    def step(_: None, state: TrainState, scaling: Scaling, batch: Batch) -> tuple[None, Alive]:
        return None, _alive_units(plan, state, scaling, batch)

    _, alive = over_batches(plan, step, None, (state, scaling), chunk, 0, count)
    return {layer: units.any(axis=0) for layer, units in alive.items()}


def _sums_and_logits(
    plan: Plan, state: TrainState, scaling: Scaling, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    """The sums of one batch as a vector, and its logits [B, K] float32."""

    def of_batch(state: TrainState, scaling: Scaling, batch: Batch) -> tuple[MetricSums, jax.Array]:
        logits = eval_step(plan, state, scaling, batch)
        sums = batch_sums(
            logits, batch.label, batch.mask, None, batch.weight, plan.sharding.platform,
            loss=plan.loss, metrics=plan.metrics,
        )  # fmt: skip
        return sums, logits

    sums, logits = isolated(plan.sharding, of_batch)(state, scaling, batch)
    return as_vector(sums), logits


def _alive_units(plan: Plan, state: TrainState, scaling: Scaling, batch: Batch) -> Alive:
    """For each layer with relu: which units [C] bool give a value above 0 for a row of `batch`."""
    image = standardize(batch.image, scaling.mean, scaling.scale)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    return plan.model.alive(variables, image)


# -- batches of an evaluation --------------------------------------------------------------------


def eval_batch(devices: int, platform: str | None = None) -> int:
    """Rows of one evaluation batch over `devices` devices; None: of jax's default platform."""
    return devices * EVAL_ROWS[platform or default_platform()]


def eval_width(plan: Plan, rows: int) -> int:
    """Rows of an evaluation batch of a split of `rows` rows; of a small split, the whole of it.

    Not in exact mode, where a device gets as many rows at once however many devices there are.
    """
    sharding = plan.sharding
    size = eval_batch(sharding.devices, sharding.platform)
    return size if sharding.virtual else min(size, rows + -rows % sharding.devices)


def eval_batches(rows: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers [N] in batches -> rows [S, B] int32, mask [S, B] bool; padding repeats row 0."""
    missing = -len(rows) % width
    number = np.concatenate([rows, np.broadcast_to(rows[:1], (missing,))])
    mask = np.arange(len(number)) < len(rows)
    return number.reshape(-1, width), mask.reshape(-1, width)


def eval_parts(
    rows: np.ndarray, width: int, steps: int
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Batches of `rows` [N] in parts of `steps`, so that one program evaluates splits of any size.

    Yields:
        (row numbers [S, B] int32, mask [S, B] bool, true batches) for each part; the last one is
        padded with batches in which no row counts.
    """
    number, mask = eval_batches(rows, width)
    for start in range(0, len(number), steps):
        part = number[start : start + steps], mask[start : start + steps]
        count = len(part[0])
        missing = ((0, steps - count), (0, 0))
        yield np.pad(part[0], missing, constant_values=rows[0]), np.pad(part[1], missing), count
