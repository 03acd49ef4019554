"""An evaluation in which the least sure rows of a split are looked at again, in several views."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from flaxcnn.data.batches import Resident, take
from flaxcnn.engine import epoch
from flaxcnn.engine.metrics import MetricSums, as_vector, batch_sums, from_vector
from flaxcnn.engine.sharding import isolated
from flaxcnn.engine.step import Plan, TrainState, eval_step
from flaxcnn.model.views import surety

Tree = Any
SURE = 2.0  # of padding: above any probability


def shares(plan: Plan) -> bool:
    """Whether only a share of the rows of a split have several views."""
    return plan.tta is not None and plan.tta.share < 1.0


def evaluate(
    plan: Plan, state: TrainState, data: Resident, rows: jax.Array, mask: jax.Array
) -> tuple[MetricSums, jax.Array]:
    """As `flaxcnn.engine.epoch.evaluate`, of all rows of a split at once.

    One view of every row, then all views of the least sure ones, gathered into batches.
    """
    assert plan.tta is not None  # which `shares` says
    once = dataclasses.replace(plan, tta=None)
    every = dataclasses.replace(plan, tta=plan.tta.of_all)
    logits = _logits(once, state, data, rows, mask)
    flat = logits.reshape(-1, logits.shape[-1])
    sure = jnp.where(mask.reshape(-1), surety(flat), SURE)
    width = rows.shape[1]
    parts = math.ceil(plan.tta.share * rows.size / width)
    chosen = jnp.argsort(sure, stable=True)[: parts * width]
    asked = jnp.floor(plan.tta.share * mask.sum(dtype=jnp.float32) + 0.5).astype(jnp.int32)
    counts = jnp.arange(parts * width, dtype=jnp.int32) < jnp.maximum(asked, 1)
    again = rows.reshape(-1)[chosen].reshape(parts, width)
    seen = _logits(every, state, data, again, counts.reshape(parts, width))
    seen = jnp.where(counts[:, None], seen.reshape(-1, seen.shape[-1]), flat[chosen])
    logits = flat.at[chosen].set(seen).reshape(logits.shape)
    return _sums(plan, data, rows, mask, logits), logits


def _logits(
    plan: Plan, state: TrainState, data: Resident, rows: jax.Array, mask: jax.Array
) -> jax.Array:
    """Logits [S, B, K] float32 of batches of rows, by the views of the plan."""

    def step(
        _: None, state: TrainState, data: Resident, batch: tuple[jax.Array, jax.Array]
    ) -> tuple[None, jax.Array]:
        of_batch = isolated(plan.sharding, functools.partial(eval_step, plan))
        return None, of_batch(state, data.scaling, take(data, *batch))

    logits: jax.Array = epoch.over_batches(plan, step, None, (state, data), (rows, mask), 1)[1]
    return logits


def _sums(
    plan: Plan, data: Resident, rows: jax.Array, mask: jax.Array, logits: jax.Array
) -> MetricSums:
    """Metrics of logits [S, B, K], summed as in any evaluation."""

    def step(
        _: None, data: Resident, batch: tuple[jax.Array, jax.Array, jax.Array]
    ) -> tuple[None, jax.Array]:
        rows, mask, logits = batch
        weight = None if data.weight is None else data.weight[rows]
        return None, as_vector(batch_sums(
            logits, data.label[rows], mask, None, weight, plan.sharding.platform,
            loss=plan.loss, metrics=plan.metrics,
        ))  # fmt: skip

    sums = epoch.over_batches(plan, step, None, (data,), (rows, mask, logits), 0)[1]
    return from_vector(sums, plan.metrics)
