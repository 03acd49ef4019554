"""One epoch as one program: a scan of the step over data on the device; evaluation likewise."""

from __future__ import annotations

import jax
import numpy as np

from flaxcnn.data.augment import standardize
from flaxcnn.data.batches import Batch, Resident, Scaling, shuffled, take
from flaxcnn.engine.devices import platform as default_platform
from flaxcnn.engine.metrics import MetricSums, as_vector, batch_sums, from_vector
from flaxcnn.engine.sharding import isolated, shard_batches
from flaxcnn.engine.step import Hypers, Plan, TrainState, eval_step, train_step
from flaxcnn.model.cnn import ALIVE

# Rows that a device evaluates at once: on CPU few, so that activations stay in its cache; elsewhere
# a multiple of the 128 lanes of a TPU.
EVAL_ROWS = {"cpu": 32, "gpu": 1024, "tpu": 1024}
Batches = tuple[jax.Array, jax.Array]  # rows [S, B] int32, mask [S, B] bool


def train_epoch(
    plan: Plan, state: TrainState, hypers: Hypers, data: Resident, rows: jax.Array
) -> tuple[TrainState, MetricSums]:
    """One pass over `rows` [N] int32 in this epoch's order -> (state, per-step sums [S])."""
    epoch = state.step // plan.steps_per_epoch
    batches = shuffled(
        state.seeds, epoch, rows, plan.batch_size, plan.drop_last, plan.sharding.parts
    )

    def scan(
        state: TrainState, hypers: Hypers, data: Resident, batches: Batches
    ) -> tuple[TrainState, MetricSums]:
        def body(state: TrainState, now: Batches) -> tuple[TrainState, jax.Array]:
            state, sums = train_step(plan, state, hypers, data.scaling, take(data, *now))
            return state, as_vector(sums)

        state, sums = jax.lax.scan(body, state, batches)
        return state, from_vector(sums)

    return shard_batches(plan.sharding, scan, (state, hypers, data), batches, out=(None, None))


def evaluate(
    plan: Plan, state: TrainState, data: Resident, rows: jax.Array, mask: jax.Array
) -> tuple[MetricSums, jax.Array]:
    """Sums and logits over batches of `rows` [S, B] int32, of which `mask` [S, B] bool count.

    Returns:
        sums for each batch and device, and logits [S, B, K] float32.
    """

    def scan(state: TrainState, data: Resident, batches: Batches) -> tuple[MetricSums, jax.Array]:
        def body(_: None, now: Batches) -> tuple[None, tuple[jax.Array, jax.Array]]:
            sums, logits = eval_sums(plan, state, data.scaling, take(data, *now))
            return None, (as_vector(sums), logits)

        sums, logits = jax.lax.scan(body, None, batches)[1]
        return from_vector(sums), logits

    return shard_batches(plan.sharding, scan, (state, data), (rows, mask), out=(0, 1))


def alive_units(
    plan: Plan, state: TrainState, data: Resident, rows: jax.Array, mask: jax.Array
) -> dict[str, jax.Array]:
    """For each layer with relu: which units [C] bool give a value above 0 for any of `rows`.

    `rows` and `mask` as in `evaluate`; rows that are masked are copies of others. A unit that never
    gives anything is dead: its gradient is 0 on these rows, so it cannot learn from them.
    """

    def scan(state: TrainState, data: Resident, batches: Batches) -> dict[str, jax.Array]:
        def body(_: None, now: Batches) -> tuple[None, dict[str, jax.Array]]:
            return None, alive_in(plan, state, data.scaling, take(data, *now))

        return jax.lax.scan(body, None, batches)[1]

    found = shard_batches(plan.sharding, scan, (state, data), (rows, mask), out=0)
    return {name: each.any(axis=0) for name, each in found.items()}


def eval_sums(
    plan: Plan, state: TrainState, scaling: Scaling, batch: Batch
) -> tuple[MetricSums, jax.Array]:
    """Loss and hits of one batch, and its logits [B, K] float32."""

    def sums(state: TrainState, scaling: Scaling, batch: Batch) -> tuple[MetricSums, jax.Array]:
        logits = eval_step(plan, state, scaling, batch)
        on = plan.sharding.platform
        return batch_sums(logits, batch.label, batch.mask, None, batch.weight, on), logits

    return isolated(plan.sharding, sums)(state, scaling, batch)


def alive_in(plan: Plan, state: TrainState, scaling: Scaling, batch: Batch) -> dict[str, jax.Array]:
    """For each layer with relu: which units [C] bool give a value above 0 for a row of `batch`."""
    image = standardize(batch.image, scaling.mean, scaling.scale)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    _, found = plan.model.apply(variables, image, train=False, mutable=[ALIVE])
    return {k.removeprefix(f"{ALIVE}_"): v[0] for k, v in found.get(ALIVE, {}).items()}


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
) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Batches of `rows` [N] in parts of `steps`, so that one program evaluates splits of any size.

    Returns:
        (row numbers [S, B] int32, mask [S, B] bool, true batches) for each part; the last one is
        made up with batches in which no row counts.
    """
    number, mask = eval_batches(rows, width)
    found = []
    for start in range(0, len(number), steps):
        part = number[start : start + steps], mask[start : start + steps]
        missing = ((0, steps - len(part[0])), (0, 0))
        found.append(
            (
                np.pad(part[0], missing, constant_values=rows[0]),
                np.pad(part[1], missing),
                len(part[0]),
            )
        )
    return found
