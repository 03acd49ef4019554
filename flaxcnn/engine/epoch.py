"""One epoch as one program: a scan of the step over data on the device; evaluation likewise."""

from __future__ import annotations

import functools

import jax

from flaxcnn.data.augment import standardize
from flaxcnn.data.batches import Batch, Resident, Scaling, in_order, shuffled, take
from flaxcnn.engine.metrics import MetricSums, batch_sums
from flaxcnn.engine.parallel import Spread, alone, spread
from flaxcnn.engine.step import Hypers, Plan, TrainState, eval_step, train_step
from flaxcnn.model.cnn import ALIVE

# Rows that a device evaluates at once: on CPU few, so that activations stay in its cache.
EVAL_ROWS = {"cpu": 32}
EVAL_ROWS_ELSEWHERE = 1000
Batches = tuple[jax.Array, jax.Array]  # rows [S, B] int32, mask [S, B] bool


def train_epoch(
    plan: Plan, state: TrainState, hypers: Hypers, data: Resident, rows: jax.Array
) -> tuple[TrainState, MetricSums]:
    """One pass over `rows` [N] int32 in this epoch's order -> (state, per-step sums [S])."""
    epoch = state.step // plan.steps_per_epoch
    batches = shuffled(state.seeds, epoch, rows, plan.batch_size, plan.drop_last, plan.spread.parts)

    def scan(
        state: TrainState, hypers: Hypers, data: Resident, batches: Batches
    ) -> tuple[TrainState, MetricSums]:
        def body(state: TrainState, now: Batches) -> tuple[TrainState, MetricSums]:
            return train_step(plan, state, hypers, data.scaling, take(data, *now))

        return jax.lax.scan(body, state, batches)

    return spread(plan.spread, scan, (state, hypers, data), batches, out=(None, None))


def evaluate(plan: Plan, state: TrainState, data: Resident, rows: jax.Array) -> MetricSums:
    """Sums over `rows` [N] int32, every row exactly once -> [S] per batch and device."""

    def scan(state: TrainState, data: Resident, batches: Batches) -> MetricSums:
        def body(_: None, now: Batches) -> tuple[None, MetricSums]:
            return None, eval_sums(plan, state, data.scaling, take(data, *now))

        return jax.lax.scan(body, None, batches)[1]

    return spread(plan.spread, scan, (state, data), eval_batches(plan, rows), out=0)


def predict(plan: Plan, state: TrainState, data: Resident, rows: jax.Array) -> jax.Array:
    """Logits of `rows` [N] int32 -> [N, K] float32."""

    def scan(state: TrainState, data: Resident, batches: Batches) -> jax.Array:
        def body(_: None, now: Batches) -> tuple[None, jax.Array]:
            return None, eval_logits(plan, state, data.scaling, take(data, *now))

        return jax.lax.scan(body, None, batches)[1]

    logits = spread(plan.spread, scan, (state, data), eval_batches(plan, rows), out=1)
    return logits.reshape(-1, logits.shape[-1])[: len(rows)]


def alive_units(
    plan: Plan, state: TrainState, data: Resident, rows: jax.Array
) -> dict[str, jax.Array]:
    """For each layer with relu: which units [C] bool give a value above 0 for any of `rows`.

    A unit that never does is dead: its gradient is 0 on these rows, so it cannot learn from them.
    """

    def scan(state: TrainState, data: Resident, batches: Batches) -> dict[str, jax.Array]:
        def body(_: None, now: Batches) -> tuple[None, dict[str, jax.Array]]:
            return None, alive_in(plan, state, data.scaling, take(data, *now))

        return jax.lax.scan(body, None, batches)[1]

    found = spread(plan.spread, scan, (state, data), eval_batches(plan, rows), out=0)
    return {name: each.any(axis=0) for name, each in found.items()}


def eval_logits(plan: Plan, state: TrainState, scaling: Scaling, batch: Batch) -> jax.Array:
    """Logits [B, K] float32 of one batch."""
    return alone(plan.spread, functools.partial(eval_step, plan))(state, scaling, batch)


def eval_sums(plan: Plan, state: TrainState, scaling: Scaling, batch: Batch) -> MetricSums:
    """Loss and hits of one batch."""

    def sums(state: TrainState, scaling: Scaling, batch: Batch) -> MetricSums:
        logits = eval_step(plan, state, scaling, batch)
        return batch_sums(logits, batch.label, batch.mask, weight=batch.weight)

    return alone(plan.spread, sums)(state, scaling, batch)


def alive_in(plan: Plan, state: TrainState, scaling: Scaling, batch: Batch) -> dict[str, jax.Array]:
    """For each layer with relu: which units [C] bool give a value above 0 for a row of `batch`."""
    image = standardize(batch.image, scaling.mean, scaling.scale)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    _, found = plan.model.apply(variables, image, train=False, mutable=[ALIVE])
    return {k.removeprefix(f"{ALIVE}_"): v[0] for k, v in found.get(ALIVE, {}).items()}


def eval_batch(devices: int) -> int:
    """Rows of one evaluation batch over `devices` devices."""
    return devices * EVAL_ROWS.get(jax.default_backend(), EVAL_ROWS_ELSEWHERE)


def eval_batches(plan: Plan, rows: jax.Array) -> Batches:
    """Rows in order for evaluation; the batch of a small set is the whole set.

    Not in exact mode, where a device gets as many rows at once however many devices there are.
    """
    how: Spread = plan.spread
    size = eval_batch(how.devices)
    return in_order(rows, size if how.virtual else min(size, len(rows)), how.devices)
