"""Runs trained in groups that share compiled programs, one thread per device.

Each device compiles the programs of a group itself, so devices take different groups while there
are enough, and share the last ones.

One by one ("map") a run is the loop of `flaxcnn train` on one device, so it has the same bits in
any study, at any position in it, and alone if determinism is exact. Side by side ("vmap") runs are
stacked along an axis of the same program, which pays if a single run leaves a device idle. When a
run stops early, the next one takes its slot; slots idle only at the very end.
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import jax
import jax.numpy as jnp

from flaxcnn.backend import enough_memory
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.datasets import require_resident
from flaxcnn.engine.devices import pixel_memory
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.job import make_plan
from flaxcnn.engine.loop import (
    epochs,
)
from flaxcnn.engine.make_job import make_resident_job
from flaxcnn.engine.midway import BEGINNING, Midway
from flaxcnn.engine.promises import of_job
from flaxcnn.engine.resident import ResidentJob
from flaxcnn.engine.step import TrainState
from flaxcnn.errors import OutOfMemoryError
from flaxcnn.recipe.config import Config
from flaxcnn.studies.events import Ledger
from flaxcnn.studies.groups import Group, GroupQueue, Queue, Scheduler, rows_of
from flaxcnn.studies.plan import PlannedRun
from flaxcnn.studies.slot import begin
from flaxcnn.studies.stack import train_stack
from flaxcnn.studies.under_way import UnderWay

Tree = Any
POLL_SECONDS = 0.1  # between looks for a signal


class JobPool:
    """The jobs that train groups of runs: one per device, or one over all devices.

    They are kept from group to group, for their pixels and, where they still apply, their programs.

    Args:
        dataset: of all runs.
    """

    def __init__(self, dataset: Dataset):
        self.dataset = dataset
        self.jobs: list[ResidentJob] = []

    def prepare(self, group: Group, runs: int | None = None) -> None:
        """Make the jobs for a group: one per device, or one over all devices for a single run.

        Args:
            group: all of it, also if some runs have ended: a resumed study has the same bits.
            runs: of all groups that share the devices; by default of this one.

        Raises:
            ConfigError: the data does not fit on the device.
        """
        config, devices = group.runs[0].config, jax.local_devices()[: runs or len(group.runs)]
        several = len(devices) > 1
        plan = group.plan if several else make_plan(config, group.plan.train_rows)
        require_resident(config, self.dataset, "a study", pixel_memory())
        jobs = self.jobs
        if len(jobs) == len(devices) and jobs[0].plan.sharding == plan.sharding:
            self.jobs = [job.with_plan(plan, config) for job in jobs]
            return
        self.jobs = []  # gives their memory back before the new ones take theirs
        if not several:
            self.jobs = [make_resident_job(config, self.dataset)]
            of_job(self.jobs[0])
            return
        first = make_resident_job(config, self.dataset, devices[0])
        of_job(first)
        self.jobs = [first, *(first.on(device) for device in devices[1:])]

    def switch(self, index: int, group: GroupQueue) -> JobCache:
        """Turn one job to the runs of another group."""
        job = self.jobs[index]
        if job.plan.sharding.devices == 1:  # over several there is a single run
            job = self.jobs[index] = job.with_plan(group.plan, group.config)
        return JobCache(job)


class JobCache:
    """A job for each run of a group: they share programs and pixels and, if they can, rows."""

    def __init__(self, job: ResidentJob):
        self._by_rows = {rows_of(job.config): job}
        self._any = job

    def get(self, config: Config) -> ResidentJob:
        """The job of one run."""
        rows = rows_of(config)
        if rows not in self._by_rows:
            self._by_rows[rows] = self._any.with_rows(config)
        return self._by_rows[rows].with_config(config)


def run_groups(
    groups: Sequence[tuple[Group, int]], pool: JobPool, ledger: Ledger, interrupt: Interrupt
) -> None:
    """Train every run of the groups.

    Args:
        groups: of `grouped`, each with its number of runs side by side in a job; 1: one by one.
        pool: the jobs that train them.
        ledger: where each run is reported as it ends.
        interrupt: checked between epochs.

    Raises:
        InterruptedRun: a signal came; the runs under way are saved, the others are recorded.
    """
    scheduler = Scheduler([GroupQueue(group, width) for group, width in groups])

    def work(index: int) -> None:
        try:
            while group := scheduler.take():
                jobs = pool.switch(index, group)
                for queue in group.queues:
                    if group.width > 1:
                        with enough_memory("--how map, one run after the other"):
                            begun = lambda run, jobs=jobs: begin(jobs.get(run.config), run, ledger)  # noqa: E731
                            train_stack(begun, queue, group.width, ledger, interrupt)
                    else:
                        _train_in_turn(jobs, queue, ledger, interrupt)
                scheduler.release(group)
        except BaseException:
            scheduler.stop()
            raise

    with ThreadPoolExecutor(len(pool.jobs)) as threads:
        # Each thread sees what was set for the one that calls, such as where copies of code are.
        futures = [
            threads.submit(contextvars.copy_context().run, work, index)
            for index in range(len(pool.jobs))
        ]
        # Python handles a signal in its main thread only, and only when that wakes up.
        while wait(futures, POLL_SECONDS).not_done:
            pass
        for future in futures:
            future.result()


def _train_in_turn(jobs: JobCache, queue: Queue, ledger: Ledger, interrupt: Interrupt) -> None:
    """Train one run after the other until the queue is empty."""
    while run := queue.take():
        try:
            with enough_memory():
                _train_one(jobs.get(run.config), run, ledger, interrupt)
        except OutOfMemoryError as error:  # others may be smaller
            # As text: the error itself would keep the arrays that are too large.
            ledger.add_too_large(run, str(error))


def _train_one(job: ResidentJob, run: PlannedRun, ledger: Ledger, interrupt: Interrupt) -> None:
    """A run from its first epoch, or from where a signal had stopped it, to its row."""
    slot, state = begin(job, run, ledger)
    stopped, midway = UnderWay(ledger.folder.path), BEGINNING
    if found := stopped.restore(run.key, job, state):
        before, state, midway = found
        slot.go_on(before)

    def save(state: TrainState, midway: Midway) -> None:
        stopped.save(run.key, job, slot.under_way, state, midway)

    for report in epochs(job, state, slot.progress, interrupt, midway, save):
        # The next epoch donates the state.
        keep = functools.partial(jax.tree.map, jnp.copy, report.state)
        for outcome in slot.after(report.metrics, report.progress, keep):
            ledger.add(outcome)
        if slot.diverged:
            break
    stopped.forget(run.key)
