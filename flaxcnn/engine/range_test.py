"""A learning-rate range test: updates of one program, each at a larger rate than the one before."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import jax
import numpy as np

from flaxcnn.backend import enough_memory
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.splits import steps_per_epoch
from flaxcnn.engine.job import choose_rows
from flaxcnn.engine.make_job import make_job
from flaxcnn.errors import ConfigError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.schedules import OptaxSchedule
from flaxcnn.records.rate_range import FEWEST, RateRange


@enough_memory()
def range_test(config: Config, dataset: Dataset, low: float, high: float, steps: int) -> RateRange:
    """Train `steps` updates, the rate growing from `low` to `high` by the same factor each time.

    Raises:
        ConfigError: the rates are not 0 < low < high, there are too few updates, or the recipe does
            not fit the data.
    """
    if not 0 < low < high < float("inf"):
        raise ConfigError(f"low and high must be rates, 0 < low < high (got {low:g} and {high:g})")
    if steps < FEWEST:
        raise ConfigError(f"steps must be at least {FEWEST} (got {steps})")
    growth = OptaxSchedule(
        "optax.exponential_decay", init_value=low, transition_steps=steps - 1, decay_rate=high / low
    )
    rows, _ = choose_rows(config, dataset)
    epoch = steps_per_epoch(len(rows.train), config.batch_size, config.drop_last)
    epochs = -(-steps // epoch)
    config = replace(config, learning_rate=1.0, schedule=growth, average=None, epochs=epochs)
    losses: list[np.ndarray] = []
    with contextlib.closing(make_job(config, dataset)) as job:
        state = job.init()
        for _ in range(epochs):
            state, sums = job.train_epoch(state)
            host = jax.device_get(sums)
            with np.errstate(invalid="ignore", over="ignore"):
                losses.append(np.asarray(host.loss, np.float64) / host.count)
            if not np.isfinite(losses[-1]).all():  # every later one is not finite either
                break
    found = np.full(steps, np.nan)
    every = np.concatenate(losses)[:steps]
    found[: len(every)] = every
    rates = low * (high / low) ** (np.arange(steps) / (steps - 1))
    return RateRange(rates.tolist(), found.tolist())
