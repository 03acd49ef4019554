"""Metrics as masked sums that add over batches, devices and processes; divided once, at the end."""

from __future__ import annotations

import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax


@flax.struct.dataclass
class MetricSums:
    """Sums over the true rows of one or more batches; each [] float32, or [S] for S batches."""

    loss: jax.Array
    hits: jax.Array
    count: jax.Array


def batch_sums(
    logits: jax.Array, label: jax.Array, mask: jax.Array, label_smoothing: jax.Array | None = None,
    weight: jax.Array | None = None,
) -> MetricSums:  # fmt: skip
    """Softmax cross-entropy and hits: logits [B, K] float32, label [B] int32, mask [B] bool.

    With label smoothing s the target is (1 - s) * one_hot + s / K (Szegedy et al. 2016). With
    `weight` [B] float32 a row counts as often as its weight says, in all three sums.
    """
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    if label_smoothing is not None:
        uniform = -jax.nn.log_softmax(logits).mean(axis=-1)
        loss = (1.0 - label_smoothing) * loss + label_smoothing * uniform
    hits = (logits.argmax(-1).astype(jnp.int32) == label).astype(jnp.float32)
    if weight is not None:
        return MetricSums(
            loss=(loss * weight).sum(where=mask),
            hits=(hits * weight).sum(where=mask),
            count=weight.sum(where=mask),
        )
    return MetricSums(
        loss=loss.sum(where=mask),
        hits=hits.sum(where=mask),
        count=mask.sum(dtype=jnp.float32),
    )


def finalize(sums: Any) -> dict[str, float]:
    """Exact means: per-batch sums [S] from the device, added without rounding and divided once.

    So their order, which is that of the devices, does not matter.
    """
    loss, hits, count = (
        math.fsum(np.ravel(value).tolist()) for value in (sums.loss, sums.hits, sums.count)
    )
    return {"loss": loss / count, "accuracy": hits / count}
