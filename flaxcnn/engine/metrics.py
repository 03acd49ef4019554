"""Metrics as masked sums that add over batches, devices and processes; divided once, at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from flaxcnn.model.layout import on_cpu


@flax.struct.dataclass
class MetricSums:
    """Sums over the true rows of one or more batches; each [] float32, or [S] for S batches."""

    loss: jax.Array
    hits: jax.Array
    count: jax.Array


def as_vector(sums: MetricSums) -> jax.Array:
    """Sums as one array [..., 3], so that a scan stacks a single array, by one copy a step."""
    return jnp.stack([sums.loss, sums.hits, sums.count], axis=-1)


def from_vector(vector: jax.Array) -> MetricSums:
    """The reverse of `as_vector`."""
    return MetricSums(vector[..., 0], vector[..., 1], vector[..., 2])


def batch_sums(
    logits: jax.Array, label: jax.Array, mask: jax.Array, label_smoothing: jax.Array | None = None,
    weight: jax.Array | None = None, platform: str | None = None,
    target: jax.Array | None = None, class_weight: jax.Array | None = None,
) -> MetricSums:  # fmt: skip
    """Softmax cross-entropy and hits: logits [B, K] float32, label [B] int32, mask [B] bool.

    With `weight` [B] float32 a row counts as often as its weight says, in all three sums. With
    `class_weight` [K] float32 its loss alone is multiplied by the weight of its class, as in Keras,
    or by the mean weight of the classes in its target: hits and count stay those of the rows.
    `platform` is that of the devices, None for jax's default. The rest as `cross_entropy`.
    """
    loss = cross_entropy(logits, label, label_smoothing, platform, target)
    if class_weight is not None:
        own = class_weight[label] if target is None else (target * class_weight[None]).sum(axis=-1)
        loss = loss * own
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


def cross_entropy(
    logits: jax.Array, label: jax.Array, label_smoothing: jax.Array | None = None,
    platform: str | None = None, target: jax.Array | None = None,
) -> jax.Array:  # fmt: skip
    """Softmax cross-entropy of each row, [B] float32: -sum_k target_k * log softmax(logits)_k.

    `target` [B, K] float32 is a distribution over the classes; without one it is 1 for `label` [B]
    int32 and 0 elsewhere. With label smoothing s it becomes (1 - s) * target + s / K (Szegedy et
    al. 2016). `platform` is that of the devices, None for jax's default.
    """
    if target is not None:
        loss = optax.softmax_cross_entropy(logits, target)
    elif on_cpu(platform):
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    else:
        # To pick the label's logit out would make its gradient a scatter, which a GPU runs row by
        # row where results must be deterministic.
        hot = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
        loss = optax.softmax_cross_entropy(logits, hot)
    if label_smoothing is not None:
        uniform = -jax.nn.log_softmax(logits).mean(axis=-1)
        loss = (1.0 - label_smoothing) * loss + label_smoothing * uniform
    return loss


def joined_sums(parts: Sequence[tuple[MetricSums, int]], devices: int) -> MetricSums:
    """Sums of several calls of a program as those of one.

    Args:
        parts: sums [..., devices * S] as the devices give them, and how many of each device's S
            batches are true ones.
        devices: that have sums of their own.
    """
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
    loss, hits, count = (
        math.fsum(np.ravel(value).tolist()) for value in (sums.loss, sums.hits, sums.count)
    )
    return {"loss": loss / count, "accuracy": hits / count}
