"""Averages of weights, one update after the other."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxcnn.errors import ConfigError
from flaxcnn.recipe import averages as spec

Tree = Any  # a pytree of float32 arrays
Scalar = jax.Array  # [] float32


def initial(average: spec.Average | None, params: Tree, batch_stats: Tree, opt_state: Tree) -> Tree:
    """{"params", "batch_stats"} before the first update; {} without an average.

    Raises:
        ConfigError: the optimizer has not what the average is made of.
    """
    if average is None:
        return {}
    if isinstance(average, spec.ScheduleFree) and _schedule_free(opt_state) is None:
        raise ConfigError(
            "average=schedulefree needs an optimizer such as optax.contrib.schedule_free_sgd"
        )
    copies: Tree = jax.tree.map(jnp.copy, {"params": params, "batch_stats": batch_stats})
    return copies


def after(
    average: spec.Average, decay: Scalar | None, old: Tree, new: Tree, opt_state: Tree,
    done: jax.Array, steps_per_epoch: int,
) -> Tree:  # fmt: skip
    """The average after an update.

    Args:
        average: which one.
        decay: [] float32 of EMA.
        old: {"params", "batch_stats"} before.
        new: the same of the weights after the update.
        opt_state: after the update.
        done: [] int32, updates done with this one.
        steps_per_epoch: updates of an epoch.
    """
    match average:
        case spec.EMA():
            assert decay is not None
            share = _ema_share(average, decay, done, steps_per_epoch)
        case spec.SWA():
            share = _swa_share(average, done, steps_per_epoch)
        case spec.ScheduleFree():
            weights = _schedule_free(opt_state)
            params = optax.contrib.schedule_free_eval_params(weights, new["params"])
            return {"params": params, "batch_stats": new["batch_stats"]}

    def mixed(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(share >= 1.0, new, old + share * (new - old))

    mixture: Tree = jax.tree.map(mixed, old, new)
    return mixture


def _ema_share(average: spec.EMA, decay: Scalar, done: jax.Array, steps_per_epoch: int) -> Scalar:
    """What the new weights count for."""
    begun = round(average.start * steps_per_epoch)
    if average.warmup:
        time = (done - begun).astype(jnp.float32)
        decay = jnp.minimum(decay, (1.0 + time) / (10.0 + time))
    return jnp.where(done <= begun, 1.0, 1.0 - decay)


def _swa_share(average: spec.SWA, done: jax.Array, steps_per_epoch: int) -> Scalar:
    later = done - average.start * steps_per_epoch
    period = average.every * steps_per_epoch
    count = later // period + 1  # weights in the mean, with these
    share = jnp.where(later % period == 0, 1.0 / count.astype(jnp.float32), 0.0)
    return jnp.where(later <= 0, 1.0, share)


def _schedule_free(opt_state: Tree) -> optax.contrib.ScheduleFreeState | None:
    """The state that has z, wherever it is within the optimizer's."""
    found = jax.tree.leaves(
        opt_state, is_leaf=lambda node: isinstance(node, optax.contrib.ScheduleFreeState)
    )
    return next((node for node in found if isinstance(node, optax.contrib.ScheduleFreeState)), None)
