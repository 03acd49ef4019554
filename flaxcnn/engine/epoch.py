"""One epoch as one program: a scan of the step over data on the device; evaluation likewise."""

from __future__ import annotations

import jax

from flaxcnn.data.augment import standardize
from flaxcnn.data.batches import Resident, in_order, shuffled, take
from flaxcnn.engine.metrics import MetricSums, batch_sums
from flaxcnn.engine.step import Hypers, Plan, TrainState, eval_step, train_step
from flaxcnn.model.cnn import ALIVE

EVAL_BATCH = 500  # divides the usual test sets; small enough that activations stay in cache


def train_epoch(
    plan: Plan, state: TrainState, hypers: Hypers, data: Resident, rows: jax.Array
) -> tuple[TrainState, MetricSums]:
    """One pass over `rows` [N] int32 in this epoch's order -> (state, per-step sums [S])."""
    epoch = state.step // plan.steps_per_epoch
    batches = shuffled(state.seed, epoch, rows, plan.batch_size, plan.drop_last)

    def body(state: TrainState, now: tuple[jax.Array, jax.Array]) -> tuple[TrainState, MetricSums]:
        return train_step(plan, state, hypers, data, take(data, *now))

    return jax.lax.scan(body, state, batches)


def evaluate(plan: Plan, state: TrainState, data: Resident, rows: jax.Array) -> MetricSums:
    """Sums over `rows` [N] int32, every row exactly once -> [S] per batch."""

    def body(_: None, now: tuple[jax.Array, jax.Array]) -> tuple[None, MetricSums]:
        batch = take(data, *now)
        return None, batch_sums(eval_step(plan, state, data, batch), batch.label, batch.mask)

    return jax.lax.scan(body, None, in_order(rows, min(EVAL_BATCH, len(rows))))[1]


def predict(plan: Plan, state: TrainState, data: Resident, rows: jax.Array) -> jax.Array:
    """Logits of `rows` [N] int32 -> [N, K] float32."""

    def body(_: None, now: tuple[jax.Array, jax.Array]) -> tuple[None, jax.Array]:
        return None, eval_step(plan, state, data, take(data, *now))

    logits = jax.lax.scan(body, None, in_order(rows, min(EVAL_BATCH, len(rows))))[1]
    return logits.reshape(-1, logits.shape[-1])[: len(rows)]


def alive_units(
    plan: Plan, state: TrainState, data: Resident, rows: jax.Array
) -> dict[str, jax.Array]:
    """For each layer with relu: which units [C] bool give a value above 0 for any of `rows`.

    A unit that never does is dead: its gradient is 0 on these rows, so it cannot learn from them.
    """
    batches = in_order(rows, min(EVAL_BATCH, len(rows)))

    def body(_: None, now: tuple[jax.Array, jax.Array]) -> tuple[None, dict[str, jax.Array]]:
        batch = take(data, *now)
        image = standardize(batch.image, data.mean, data.scale)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        _, found = plan.model.apply(variables, image, train=False, mutable=[ALIVE])
        return None, {k.removeprefix(f"{ALIVE}_"): v[0] for k, v in found.get(ALIVE, {}).items()}

    found = jax.lax.scan(body, None, batches)[1]
    return {name: each.any(axis=0) for name, each in found.items()}
