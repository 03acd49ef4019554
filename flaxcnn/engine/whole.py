"""A whole run as one program: initial weights, whitening, all epochs and the test.

Nothing happens on the host between its start and its result, as the protocol of the speed records
wants it: no validation, no choice of an epoch, no checkpoint.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import jax
import numpy as np

from flaxcnn.data.batches import Resident
from flaxcnn.engine import epoch, share
from flaxcnn.engine.devices import device_put_global
from flaxcnn.engine.metrics import MetricSums, finalize
from flaxcnn.engine.resident import ResidentJob
from flaxcnn.engine.step import Hypers, Plan, TrainState, init_state
from flaxcnn.engine.whitening import whitened
from flaxcnn.errors import ConfigError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import WHITENED, Conv
from flaxcnn.recipe.schedules import Plateau


@dataclass(frozen=True)
class Outcome:
    """What a run of the program gave, on the host."""

    test: dict[str, float]  # loss, accuracy and the recipe's metrics
    train: dict[str, float]  # those of the last epoch, while it trained


def check_whole(config: Config) -> None:
    """Refuse a recipe that needs the host between its epochs.

    Raises:
        ConfigError: naming the setting.
    """
    if isinstance(config.schedule, Plateau):
        raise ConfigError(
            "schedule=plateau is decided between epochs, and a whole run is one program; use "
            "another schedule"
        )
    if config.patience is not None:
        raise ConfigError(
            f"patience={config.patience} is decided between epochs, and a whole run is one "
            "program; use patience=none"
        )
    if config.init_from is not None:
        raise ConfigError("init_from: a whole run begins with random weights; use init_from=none")


def whole_run(
    plan: Plan, config: Config, shape: tuple[int, ...], seeds: jax.Array, hypers: Hypers,
    data: Resident, rows: jax.Array, test: tuple[jax.Array, jax.Array],
) -> tuple[MetricSums, MetricSums]:  # fmt: skip
    """From seeds to the metrics of the test rows.

    Args:
        plan, config: of the run.
        shape: (H, W, C) of an image.
        seeds: [4] uint32, one for each purpose.
        hypers: its traced numbers.
        data: on the device.
        rows: [N] int32, the training rows.
        test: row numbers and mask [S, B] of the batches of the test.

    Returns:
        sums over the batches of the test, and over the steps of the last epoch.
    """
    state = init_state(plan, shape, seeds, hypers)
    if config.whitens:
        layer = config.layers[0]
        assert isinstance(layer, Conv)  # which `whitens` says
        state = _with_first(state, whitened(layer, data, rows))

    def one(state: TrainState, _: None) -> tuple[TrainState, MetricSums]:
        return epoch.train_epoch(plan, state, hypers, data, rows)

    state, sums = jax.lax.scan(one, state, None, length=config.epochs)
    if config.average and config.average.keep:
        kept = dict(state.average)
        if config.average.batch_stats == "estimate" and jax.tree.leaves(state.batch_stats):
            kept["batch_stats"] = epoch.estimate(plan, state, hypers, data, rows)
        state = dataclasses.replace(state, **kept)
    evaluate = share.evaluate if share.shares(plan) else epoch.evaluate
    tested, _ = evaluate(plan, state, data, *test)
    return tested, jax.tree.map(lambda each: each[-1], sums)


def _with_first(state: TrainState, kernel: jax.Array) -> TrainState:
    """The state with the kernel of its first layer."""
    name, part = WHITENED.split("/")

    def put(params: dict[str, dict[str, jax.Array]]) -> dict[str, dict[str, jax.Array]]:
        return {**params, name: {**params[name], part: kernel}}

    average = state.average
    if average:
        average = {**average, "params": put(average["params"])}
    return dataclasses.replace(state, params=put(state.params), average=average)


@dataclass(frozen=True)
class WholeRun:
    """The compiled program of a job, with its data on the device."""

    job: ResidentJob
    program: jax.stages.Compiled
    rows: jax.Array
    test: tuple[jax.Array, jax.Array]

    def __call__(self, seeds: np.ndarray) -> Outcome:
        """One run of the seeds [4] uint32; returns once its result is on the host."""
        job = self.job
        placed = device_put_global(seeds, job.placement)
        sums = self.program(placed, job.hypers, job.data, self.rows, self.test)
        test, train = jax.device_get(sums)
        return Outcome(finalize(test), finalize(train))


def compile_whole(job: ResidentJob) -> WholeRun:
    """Compile the whole run of a job, whose data stays where it is.

    Raises:
        ConfigError: its recipe needs the host between epochs.
    """
    check_whole(job.config)
    numbers = job.split_rows("test")
    batches = epoch.eval_batches(numbers, epoch.eval_width(job.plan, len(numbers)))
    rows, test = device_put_global((job.rows.train, batches), job.placement)
    seeds = device_put_global(np.asarray(job.config.seeds(), np.uint32), job.placement)
    arguments = (seeds, job.hypers, job.data, rows, test)
    run = functools.partial(whole_run, job.plan, job.config, job.dataset.shape)
    program = job.programs.get("whole", lambda: jax.jit(run).lower(*arguments), job.plan)
    return WholeRun(job, program, rows, test)
