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
import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.backend import enough_memory
from flaxcnn.data import splits
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.datasets import require_resident
from flaxcnn.engine.average import chosen
from flaxcnn.engine.devices import pixel_memory
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.job import make_plan
from flaxcnn.engine.loop import (
    EpochSums,
    Progress,
    check_finite,
    epoch_metrics,
    epochs,
    one_epoch,
)
from flaxcnn.engine.make_job import make_resident_job
from flaxcnn.engine.midway import BEGINNING, Midway
from flaxcnn.engine.promises import of_job
from flaxcnn.engine.resident import ResidentJob
from flaxcnn.engine.score import Counts, conclude, count_dead
from flaxcnn.engine.step import Hypers, TrainState
from flaxcnn.errors import DivergedError, OutOfMemoryError
from flaxcnn.recipe.config import Config
from flaxcnn.studies.events import Ledger, Outcome
from flaxcnn.studies.groups import Group, GroupQueue, Queue, Scheduler, rows_of
from flaxcnn.studies.plan import PlannedRun
from flaxcnn.studies.stats import METRICS
from flaxcnn.studies.under_way import RunUnderWay, UnderWay

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
        InterruptedRun: a signal came; the runs under way are saved where they are one by one, and
            lost where they are side by side; the others are recorded.
    """
    scheduler = Scheduler([GroupQueue(group, width) for group, width in groups])

    def work(index: int) -> None:
        try:
            while group := scheduler.take():
                jobs = pool.switch(index, group)
                for queue in group.queues:
                    if group.width > 1:
                        with enough_memory("--how map, one run after the other"):
                            _train_stack(jobs, queue, group.width, ledger, interrupt)
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
    slot, state = _start(job, run, ledger)
    stopped, midway = UnderWay(ledger.folder.path), BEGINNING
    if before := stopped.restore(run.key, job, state):
        state, midway = before.state, before.midway
        slot.progress, slot.history, slot.kept = before.progress, before.history, before.kept

    def save(state: TrainState, midway: Midway) -> None:
        now = RunUnderWay(state, midway, slot.progress, slot.history, slot.kept)
        stopped.save(run.key, job, now)

    for report in epochs(job, state, slot.progress, interrupt, midway, save):
        # The next epoch donates the state.
        keep = functools.partial(jax.tree.map, jnp.copy, report.state)
        for outcome in slot.after(report.metrics, report.progress, keep):
            ledger.add(outcome)
        if slot.diverged:
            break
    stopped.forget(run.key)


def _start(job: ResidentJob, run: PlannedRun, ledger: Ledger) -> tuple[Slot, TrainState]:
    state = job.init()
    dead = None if ledger.folder.scores_only else count_dead(job, state)
    return Slot(run, job, ledger, dead), state


@dataclass
class Slot:
    """A run under way; in a stack, one of its parts."""

    run: PlannedRun
    job: ResidentJob
    ledger: Ledger
    dead: Counts | None  # relu units at initialisation; None: they are not counted
    progress: Progress = field(default_factory=Progress)
    kept: TrainState | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    diverged: bool = False

    def after(
        self, metrics: dict[str, Any], progress: Progress, keep: Callable[[], TrainState]
    ) -> list[Outcome]:
        """Note an epoch -> the runs that end with it: this one, and shorter ones read off it."""
        config, self.progress = self.job.config, progress
        self.history.append(metrics)
        self.ledger.add_epoch(self.run, metrics)
        waiting = [*self.run.shorter, self.run]
        try:
            check_finite(metrics, progress, config)
        except DivergedError as error:
            self.diverged = True
            late = [run for run in waiting if run.config.epochs >= progress.epoch]
            return [self._diverged(run, error) for run in late]
        if progress.kept(config) == progress.epoch:
            self.kept = chosen(config, keep())
        if progress.done(config):  # by patience, for longer ones too
            ended = [run for run in waiting if run.config.epochs >= progress.epoch]
        else:
            ended = [run for run in waiting if run.config.epochs == progress.epoch]
        return [self._complete(run) for run in ended]

    def _complete(self, run: PlannedRun) -> Outcome:
        assert self.kept is not None
        job, history = dataclasses.replace(self.job, config=run.config), list(self.history)
        dead = None if self.dead is None else (self.dead, count_dead(job, self.kept))
        row = conclude(job, self.kept, self.progress, history, self.ledger.name, dead)
        for metric in METRICS:
            if not math.isfinite(row.get(metric, 0.0)):
                reason = DivergedError(f"epoch {row['kept_epoch']}: {metric} is {row[metric]}")
                return self._diverged(run, reason)
        predictions = self._predictions(self.kept) if self.ledger.folder.predictions else None
        return Outcome(run, {**row, **_identity(run), "status": "complete"}, history, predictions)

    def _predictions(self, state: TrainState) -> dict[str, np.ndarray]:
        logits = self.job.predict(state, "test")
        rows = self.job.rows.test
        return {"row": rows, "label": self.job.labels()[rows], "predicted": logits.argmax(axis=1),
                "logits": logits.astype(np.float16)}  # fmt: skip

    def _diverged(self, run: PlannedRun, error: DivergedError) -> Outcome:
        row = {
            **_identity(run), "status": "diverged", "reason": str(error),
            "experiment": self.ledger.name, "protocol": run.config.protocol,
            "epochs_run": self.progress.epoch, "fingerprint": run.config.fingerprint(),
            "data_digest": self.job.dataset.digest, "split_digest": splits.digest(self.job.rows),
        }  # fmt: skip
        return Outcome(run, row, list(self.history))


def _identity(run: PlannedRun) -> dict[str, Any]:
    return {"run": run.key, "setting": dict(run.setting), "vary": run.vary, "seed": run.seed}


def _train_stack(
    jobs: JobCache, queue: Queue, width: int, ledger: Ledger, interrupt: Interrupt
) -> None:
    """Train stacks of `width` runs, all on the same rows, until the queue is empty."""

    def start() -> tuple[Slot, TrainState] | None:
        run = queue.take()
        return _start(jobs.get(run.config), run, ledger) if run else None

    slots: list[Slot | None] = []
    starts: list[tuple[TrainState, Hypers]] = []
    while len(slots) < width and (begun := start()):
        slots.append(begun[0])
        starts.append((begun[1], begun[0].job.hypers))
    if not slots or slots[0] is None:
        return
    first = slots[0].job
    while len(slots) < width:  # fewer runs than slots: the others repeat the first, unused
        slots.append(None)
        starts.append(starts[0])
    states, hypers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    first.stacked(hypers, width).compile(states)  # before the first clock starts
    while running := sum(slot is not None for slot in slots):
        what = f"an epoch of {running} runs side by side"
        states, sums = one_epoch(first.stacked(hypers, width), states, interrupt, what)
        for index, slot in enumerate(slots):
            if slot is None:
                continue
            own, before = _own_sums(sums, index, running), slot.progress
            metrics, progress = epoch_metrics(own, before, slot.job.config)
            keep = functools.partial(_picked, states, jnp.int32(index))
            for outcome in slot.after(metrics, progress, keep):
                ledger.add(outcome)
            if not (slot.diverged or progress.done(slot.job.config)):
                if progress.rate != before.rate:
                    reduced = slot.job.at_rate(progress.rate).hypers
                    hypers = _replaced(hypers, reduced, jnp.int32(index))
                continue
            slots[index] = None
            if begun := start():
                slots[index] = begun[0]
                fresh = (begun[1], begun[0].job.hypers)
                states, hypers = _replaced((states, hypers), fresh, jnp.int32(index))


def _own_sums(stack: EpochSums, index: int, runs: int) -> EpochSums:
    """One run's sums, and its share of the time: the `runs` of a stack take it together."""
    sums = jax.tree.map(lambda x: x[index], stack.sums)
    return EpochSums(sums, stack.train_seconds / runs, stack.seconds / runs)


@jax.jit
def _picked(stack: Tree, index: jax.Array) -> Tree:
    """One run's part of a stack."""
    return jax.tree.map(lambda x: x[index], stack)


@jax.jit
def _replaced(stack: Tree, run: Tree, index: jax.Array) -> Tree:
    """The stack with another run at `index`."""
    return jax.tree.map(lambda x, y: x.at[index].set(y), stack, run)
