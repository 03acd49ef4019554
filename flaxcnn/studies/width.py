"""How many runs side by side: measured on a few steps, within the memory there is."""

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

from flaxcnn.backend import enough_memory
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.batches import steps_per_epoch
from flaxcnn.engine.programs import ProgramCache
from flaxcnn.engine.resident import ResidentJob
from flaxcnn.engine.step import TrainState
from flaxcnn.errors import ConfigError, OutOfMemoryError
from flaxcnn.recipe.fields import Role
from flaxcnn.studies.groups import Group
from flaxcnn.studies.plan import How

STEPS = 8  # of a trial
TRIALS = 3
# Another width has to be this much faster for the time it takes to compile it.
GAIN = 0.95
# A trial takes seconds, most of them to compile: a study that is over sooner has nothing to win.
LEAST_SECONDS = 30.0
HOPELESS = 1.5  # times slower than what is to be beaten, in the first round: no second one
MEMORY_PART = 0.5  # of what is free, for the arrays of runs


def free_memory() -> int:
    """Bytes that the arrays of a study may take by default."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats:
        free = stats["bytes_limit"] - stats["bytes_in_use"]
        return int(free * MEMORY_PART) * len(jax.local_devices())
    try:  # what the cache of files gives back counts as free; only Linux tells
        found = re.search(r"^MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    except OSError:
        found = None
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int((int(found[1]) * 1024 if found else pages) * MEMORY_PART)


def choose_width(group: Group, jobs: list[ResidentJob], how: How, max_memory: int | None) -> int:
    """Runs side by side in each of the group's jobs.

    "map": one. "vmap": as many as there are and fit. "auto": 1, 2, 4, ... as long as a run gets
    cheaper, by the time of a few steps on all devices at once; one in a study that is short.

    Raises:
        ConfigError: not even one run fits `max_memory` (bytes).
    """
    memory = free_memory() if max_memory is None else max_memory
    if how == "map" and max_memory is None:
        return 1  # as much as `flaxcnn train` takes, and that asks no one
    most = -(-max(map(len, group.by_rows())) // len(jobs))
    devices = len(jobs) * jobs[0].plan.sharding.devices
    if max_memory is not None and (needed := _bytes(jobs[0], 1) * devices) > max_memory:
        if math.isinf(needed):
            return 1  # the runs will say so, one by one
        raise ConfigError(
            f"max-memory: got {max_memory} bytes, but one run on each device takes {needed}; "
            "allowed is more, or a smaller batch_size"
        )
    if how == "map" or most == 1 or group.runs[0].config.determinism == "exact":
        return 1
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


def alike(group: Group, dataset: Dataset) -> Hashable:
    """Equal for groups that do well with the same width: to measure it takes a compilation.

    They have as many runs of networks of the same shapes; another activation or optimizer makes
    little difference to what a run leaves idle.
    """
    config = group.runs[0].config
    table = config.table(dataset.shape, dataset.num_classes)
    shapes = [(type(row.layer), row.output) for row in table]
    runs = (len(group.runs), max(map(len, group.by_rows())))
    return (*runs, config.values(Role.COST), tuple(shapes))


def _widths(most: int) -> Iterator[int]:
    """2, 4, 8, ... and at last `most` itself."""
    powers = itertools.takewhile(lambda width: width < most, (2**n for n in itertools.count(1)))
    return itertools.chain(powers, [most])


def _short(job: ResidentJob) -> ResidentJob:
    """The job with a few batches for training rows."""
    rows = job.rows.train[: STEPS * job.plan.batch_size]
    steps = steps_per_epoch(len(rows), job.plan.batch_size, job.plan.drop_last)
    plan = dataclasses.replace(job.plan, train_rows=len(rows), steps_per_epoch=steps)
    # Programs of its own: of a job, they are told apart by the number of rows alone.
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
    """What `width` runs of one device take beyond the data: states, gradients, activations.

    Infinite where their states alone are too large.
    """
    try:
        with enough_memory():
            stack, state = _stack(job, width)
            found = stack.train_program(state).memory_analysis()
    except OutOfMemoryError:
        return math.inf
    own = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    working = found.temp_size_in_bytes if found else 0  # some backends do not say
    return working + 2 * own  # the kept weights beside the present ones


def _seconds_of_a_run(jobs: list[ResidentJob], width: int, to_beat: float = math.inf) -> float:
    """Of the fastest of a few trials on all devices at once, by run; the first may end it.

    Infinite where the memory is too small.
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
