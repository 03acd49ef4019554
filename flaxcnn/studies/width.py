"""How many runs to train side by side: measured on a few steps, within the free memory."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import re
import time
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp

from flaxcnn.activity import doing
from flaxcnn.backend import enough_memory
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.splits import steps_per_epoch
from flaxcnn.engine.programs import ProgramCache
from flaxcnn.engine.resident import ResidentJob
from flaxcnn.engine.step import TrainState
from flaxcnn.errors import ConfigError, OutOfMemoryError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.fields import Role
from flaxcnn.studies.groups import Group
from flaxcnn.studies.plan import How

STEPS = 8  # of a trial
TRIALS = 3
# Another width must be this much faster to be worth compiling.
GAIN = 0.95
# A trial takes seconds, mostly to compile, so a study that is over sooner gains nothing by it.
LEAST_SECONDS = 30.0
HOPELESS = 1.5  # times slower than the best in the first round: no second round
MEMORY_PART = 0.5  # of what is free, for the arrays of runs


def free_memory() -> int:
    """Bytes that the arrays of a study may take by default."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats:
        free = stats["bytes_limit"] - stats["bytes_in_use"]
        return int(free * MEMORY_PART) * len(jax.local_devices())
    try:  # the file cache counts as free; only Linux reports it
        match = re.search(r"^MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    except OSError:
        match = None
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int((int(match[1]) * 1024 if match else pages) * MEMORY_PART)


def choose_width(group: Group, jobs: list[ResidentJob], how: How, max_memory: int | None) -> int:
    """Runs side by side in each of the group's jobs.

    "map": one. "vmap": all of them, or as many as fit. "auto": 1, 2, 4, ... as long as the time per
    run falls, measured on a few steps on all devices at once; one in a short study.

    Raises:
        ConfigError: not even one run fits `max_memory` (bytes).
    """
    memory = free_memory() if max_memory is None else max_memory
    if how == "map" and max_memory is None:
        return 1  # no more than `flaxcnn train` takes, which does not check either
    most = -(-max(map(len, group.by_rows())) // len(jobs))
    devices = len(jobs) * jobs[0].plan.sharding.devices
    if max_memory is not None and (needed := _bytes(jobs[0], 1) * devices) > max_memory:
        if math.isinf(needed):
            return 1  # the runs will report it, one by one
        raise ConfigError(
            f"--max-memory must be at least {needed} bytes, one run on each device (got "
            f"{max_memory}); give more, or use a smaller batch_size"
        )
    if how == "map" or most == 1 or _alone(group.runs[0].config):
        return 1
    with doing("measuring how many runs fit side by side"):
        return _measured_width(group, jobs, how, memory, most)


def _alone(config: Config) -> bool:
    """Whether a run may have no other beside it: bits, or the epochs to go back to, are its own."""
    return config.determinism == "exact" or config.on_nonfinite == "rollback"


def _measured_width(group: Group, jobs: list[ResidentJob], how: How, memory: int, most: int) -> int:
    """Of several runs that may be side by side."""
    devices = len(jobs) * jobs[0].plan.sharding.devices
    short = [_short(job) for job in jobs]
    best, seconds = 1, math.inf
    if how == "auto":
        seconds = _seconds_of_a_run(short, 1)
        rows = len(short[0].rows.train)
        epochs = len(group.runs) / len(jobs) * jobs[0].config.epochs
        epochs *= jobs[0].plan.train_rows / rows
        if seconds * epochs < LEAST_SECONDS or math.isinf(seconds):
            return 1
    for width in _widths(most):
        if _bytes(short[0], width) * devices > memory:
            break
        if how == "auto":
            now = _seconds_of_a_run(short, width, seconds * GAIN)
            if now > seconds * GAIN:
                break
            seconds = now
        best = width
    return best


def width_key(group: Group, dataset: Dataset) -> Hashable:
    """Equal for groups that share a width, so that it is measured, and compiled for, once.

    They have as many runs of networks of the same shapes; another activation or optimizer makes
    little difference to what a run leaves idle.
    """
    config = group.runs[0].config
    table = config.table(dataset.shape, dataset.num_classes)
    shapes = [(type(row.layer), row.output) for row in table]
    runs = (len(group.runs), max(map(len, group.by_rows())))
    return (*runs, config.values(Role.COST), tuple(shapes))


def _widths(most: int) -> Iterator[int]:
    """2, 4, 8, ... and finally `most` itself."""
    powers = itertools.takewhile(lambda width: width < most, (2**n for n in itertools.count(1)))
    return itertools.chain(powers, [most])


def _short(job: ResidentJob) -> ResidentJob:
    """The job with training rows for a few batches."""
    rows = job.rows.train[: STEPS * job.plan.batch_size]
    steps = steps_per_epoch(len(rows), job.plan.batch_size, job.plan.drop_last)
    plan = dataclasses.replace(job.plan, train_rows=len(rows), steps_per_epoch=steps)
    # With its own programs: those of a job are keyed by the number of rows alone.
    return dataclasses.replace(
        job, plan=plan, rows=dataclasses.replace(job.rows, train=rows), programs=ProgramCache()
    )


def _stack(job: ResidentJob, width: int) -> tuple[ResidentJob, TrainState]:
    state, hypers = job.init(), job.hypers
    if width == 1:
        return job, state
    copies = lambda tree: jax.tree.map(lambda x: jnp.stack([x] * width), tree)  # noqa: E731
    return job.stacked(copies(hypers), width), copies(state)


def _bytes(job: ResidentJob, width: int) -> float:
    """Bytes of `width` runs on one device beyond the data: states, gradients, activations.

    Infinite if the states alone do not fit.
    """
    try:
        with enough_memory():
            stack, state = _stack(job, width)
            memory = stack.train_program(state).memory_analysis()
    except OutOfMemoryError:
        return math.inf
    own = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    working = memory.temp_size_in_bytes if memory else 0  # some backends do not report it
    return working + 2 * own  # the kept weights beside the current ones


def _seconds_of_a_run(jobs: list[ResidentJob], width: int, to_beat: float = math.inf) -> float:
    """Seconds per run of the fastest of a few trials on all devices at once.

    Infinite if it does not fit in memory; after a hopeless first trial there is no second.
    """

    def trial(job: ResidentJob) -> float:
        stack, state = _stack(job, width)
        stack.train_program(state)
        best = math.inf
        for _ in range(1 + TRIALS):  # the first warms up
            began = time.perf_counter()
            state, sums = stack.train_epoch(state)
            jax.block_until_ready((state, sums))
            best = min(best, time.perf_counter() - began)
            if best > HOPELESS * to_beat * width:
                break
        return best

    try:
        with enough_memory(), ThreadPoolExecutor(len(jobs)) as pool:
            return max(pool.map(trial, jobs)) / width
    except OutOfMemoryError:
        return math.inf
