"""Metrics as masked sums that add over batches, devices and processes; divided once, at the end."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.model.losses import RowFunction, row_loss

Metrics = tuple[tuple[str, RowFunction], ...]  # those of a recipe by name, in order


@flax.struct.dataclass
class MetricSums:
    """Sums over the true rows of one or more batches; each [] float32, or [S] for S batches."""

    loss: jax.Array
    hits: jax.Array
    count: jax.Array
    own: dict[str, jax.Array] = dataclasses.field(default_factory=dict)  # of a recipe's metrics


def as_vector(sums: MetricSums) -> jax.Array:
    """Sums as one array [..., 3 + M], so that a scan stacks a single array, by one copy a step."""
    return jnp.stack([sums.loss, sums.hits, sums.count, *sums.own.values()], axis=-1)


def from_vector(vector: jax.Array, metrics: Metrics = ()) -> MetricSums:
    """The reverse of `as_vector`, of sums with these metrics."""
    own = {name: vector[..., 3 + place] for place, (name, _) in enumerate(metrics)}
    return MetricSums(vector[..., 0], vector[..., 1], vector[..., 2], own)


def batch_sums(
    logits: jax.Array, label: jax.Array, mask: jax.Array, label_smoothing: jax.Array | None = None,
    weight: jax.Array | None = None, platform: str | None = None,
    target: jax.Array | None = None, loss: RowFunction | None = None, metrics: Metrics = (),
    class_weight: jax.Array | None = None,
) -> MetricSums:  # fmt: skip
    """Loss, hits and metrics: logits [B, K] float32, label [B] int32, mask [B] bool.

    With `weight` [B] float32 a row counts as often as its weight says, in all sums. With
    `class_weight` [K] float32 its loss alone is multiplied by the weight of its class, as in Keras,
    or by the mean weight of the classes in its target: hits and count stay those of the rows.
    `loss` is softmax cross-entropy if None. `platform` is that of the devices, None for jax's
    default. `target` and `label_smoothing` as in `cross_entropy`; hits and metrics are those of the
    label.
    """
    losses = row_loss(loss, logits, label, label_smoothing, weight, platform, target)
    if class_weight is not None:
        own_weight = (
            class_weight[label] if target is None else (target * class_weight[None]).sum(axis=-1)
        )
        losses = losses * own_weight
    hits = (logits.argmax(-1).astype(jnp.int32) == label).astype(jnp.float32)
    own = {name: metric(jax.lax.stop_gradient(logits), label) for name, metric in metrics}
    if weight is not None:
        return MetricSums(
            loss=losses.sum(where=mask),
            hits=(hits * weight).sum(where=mask),
            count=weight.sum(where=mask),
            own={name: (each * weight).sum(where=mask) for name, each in own.items()},
        )
    return MetricSums(
        loss=losses.sum(where=mask),
        hits=hits.sum(where=mask),
        count=mask.sum(dtype=jnp.float32),
        own={name: each.sum(where=mask) for name, each in own.items()},
    )


def joined_sums(parts: Sequence[tuple[MetricSums, int]], devices: int) -> MetricSums:
    """Sums of several calls of a program as those of one.

    Args:
        parts: sums [..., devices * S] as the devices give them, and how many of each device's S
            batches are true ones.
        devices: that have sums of their own.
    """
    if devices == 1 and len(parts) == 1 and parts[0][0].loss.shape[-1] == parts[0][1]:
        return parts[0][0]  # without waiting for it
    host = [(jax.device_get(sums), count) for sums, count in parts]

    def join(*leaves: np.ndarray) -> jax.Array:
        each = [
            leaf.reshape(*leaf.shape[:-1], devices, -1)[..., :count]
            for leaf, (_, count) in zip(leaves, host, strict=True)
        ]
        whole = np.concatenate(each, axis=-1)
        return jnp.asarray(whole.reshape(*whole.shape[:-2], -1))

    whole: MetricSums = jax.tree.map(join, *(sums for sums, _ in host))
    return whole


def finalize(sums: MetricSums) -> dict[str, float]:
    """Exact means: per-batch sums [S] from the device, added without rounding and divided once.

    So their order, which is that of the devices, does not matter.
    """
    total = lambda value: math.fsum(np.ravel(value).tolist())  # noqa: E731
    count = total(sums.count)
    own = {name: total(value) / count for name, value in sums.own.items()}
    return {"loss": total(sums.loss) / count, "accuracy": total(sums.hits) / count, **own}
