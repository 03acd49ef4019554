"""Runs in groups that share compiled programs: a thread a device, runs one by one or side by side.

One by one ("map") a run is the loop of `flaxcnn train` on one device, so it has the same bits in
any study, at any place in it, and alone where determinism is exact. Side by side ("vmap") runs are
stacked along an axis of the same program, which pays where a single run leaves a device idle. A run
that ends early gives its place to the next one, so nothing waits and nothing is computed in vain
but at the very end.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from flaxcnn.data import splits
from flaxcnn.data.arrays import Dataset
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.job import Job, make_hypers, make_job, make_plan
from flaxcnn.engine.loop import (
    EpochSums,
    Progress,
    check_finite,
    epoch_metrics,
    epochs,
    one_epoch,
)
from flaxcnn.engine.step import Plan, TrainState
from flaxcnn.engine.train import conclude, count_dead
from flaxcnn.errors import DivergedError
from flaxcnn.recipe.config import Config
from flaxcnn.studies.plan import PlannedRun
from flaxcnn.studies.stats import METRICS

Tree = Any
POLL_SECONDS = 0.1  # between looks for a signal

# Told of each epoch of each run; what it raises ends all of them.
Watch = Callable[["PlannedRun", dict[str, Any]], None]


@dataclass(frozen=True)
class Outcome:
    """A run that has ended: its line for runs.jsonl, and one for each of its epochs."""

    run: PlannedRun
    row: dict[str, Any]
    history: list[dict[str, Any]]


@dataclass(frozen=True)
class Group:
    """Runs that share a compiled program; on different rows, as many of them."""

    plan: Plan
    runs: tuple[PlannedRun, ...]

    def without(self, ended: set[str]) -> Group:
        """The runs that have something left to tell, by the keys that are in `ended`."""
        return dataclasses.replace(
            self, runs=tuple(run for run in self.runs if not run.keys <= ended)
        )

    def by_rows(self) -> list[list[PlannedRun]]:
        """The runs that have the same rows, which can be stacked."""
        found: dict[Any, list[PlannedRun]] = {}
        for run in self.runs:
            found.setdefault(_rows_of(run.config), []).append(run)
        return list(found.values())


def _rows_of(config: Config) -> tuple[Any, ...]:
    """What decides which rows a run uses."""
    return config.split, config.validation, config.split_seed


def grouped(runs: Sequence[PlannedRun], dataset: Dataset) -> list[Group]:
    """The runs by what is compiled in and by how pixels are scaled, in their order.

    Raises:
        ConfigError, DataError: a recipe does not fit the data.
    """
    found: dict[Any, list[PlannedRun]] = {}
    rows: dict[Any, int] = {}
    for run in runs:
        config = run.config
        config.table(dataset.shape, dataset.num_classes)
        if (own := _rows_of(config)) not in rows:
            rows[own] = len(splits.choose(dataset, config).train)
        plan = make_plan(config, rows[own], devices=1)
        key = (plan, config.normalize, config.evaluate_train, config.determinism)
        found.setdefault(key, []).append(run)
    return [Group(key[0], tuple(members)) for key, members in found.items()]


@dataclass
class Queue:
    """Runs that are still to be started; shared by the threads."""

    runs: deque[PlannedRun]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> PlannedRun | None:
        """The next run, or None."""
        with self.lock:
            return self.runs.popleft() if self.runs else None

    def stop(self) -> None:
        """No further run is started."""
        with self.lock:
            self.runs.clear()


def make_jobs(group: Group, dataset: Dataset, earlier: Sequence[Job] = ()) -> list[Job]:
    """What runs the group: a job a device, or one that spreads the batches of a single run.

    `group` is the whole of it, also where some runs have ended: a resumed study has the same bits.
    `earlier` jobs of the same plan, for other rows, give their data and programs.
    """
    config, devices = group.runs[0].config, jax.local_devices()[: len(group.runs)]
    several = len(devices) > 1
    plan = group.plan if several else make_plan(config, group.plan.train_rows)
    if len(earlier) == len(devices) and earlier[0].serves(plan, config):
        return [job.on_rows_of(config) for job in earlier]
    if not several:
        return [make_job(config, dataset)]
    first = make_job(config, dataset, devices[0])
    return [first, *(first.on(device) for device in devices[1:])]


def run_group(
    group: Group,
    jobs: list[Job],
    name: str,
    width: int,
    interrupt: Interrupt,
    done: Callable[[Outcome], None],
    watch: Watch = lambda run, metrics: None,
) -> None:
    """Train every run of the group, `width` of them side by side in each job.

    Args:
        group: of `grouped`.
        jobs: of `make_jobs`.
        name: of the experiment, for the rows.
        width: 1 for one by one.
        interrupt: heard between epochs.
        done: called with each outcome, in the order in which runs end, never twice at a time.
        watch: called with a run and the metrics of an epoch, never twice at a time.

    Raises:
        InterruptedRun: a signal came; the runs under way are lost, the others are done.
    """
    parts = [list(group.runs)] if width == 1 else group.by_rows()
    queues, lock = [Queue(deque(part)) for part in parts], threading.Lock()

    def tell(outcome: Outcome) -> None:
        with lock:
            done(outcome)

    def look(run: PlannedRun, metrics: dict[str, Any]) -> None:
        with lock:
            watch(run, metrics)

    def work(job: Job) -> None:
        own = OnRows(job)
        try:
            for queue in queues:
                if width > 1:
                    _side_by_side(own, queue, width, name, interrupt, tell, look)
                    continue
                while run := queue.take():
                    _one(own.of(run.config), run, name, interrupt, tell, look)
        except BaseException:
            for queue in queues:
                queue.stop()
            raise

    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        # Python hears a signal in its main thread only, and only when that wakes up.
        while wait(futures, POLL_SECONDS).not_done:
            pass
        for future in futures:
            future.result()


class OnRows:
    """A job for the runs of a group: programs and pixels are shared, by equal splits rows too."""

    def __init__(self, job: Job):
        self._known = {_rows_of(job.config): job}
        self._any = job

    def of(self, config: Config) -> Job:
        """The job of one run."""
        rows = _rows_of(config)
        if rows not in self._known:
            self._known[rows] = self._any.on_rows_of(config)
        job = self._known[rows]
        hypers = jax.device_put(make_hypers(config), job.place)
        return dataclasses.replace(job, config=config, hypers=hypers, compile_seconds=0.0)


def _one(
    job: Job, run: PlannedRun, name: str, interrupt: Interrupt, tell: Callable[[Outcome], None],
    watch: Watch,
) -> None:  # fmt: skip
    """A run from its first epoch to its row."""
    state = job.init()
    slot = Slot(run, job, name, watch, count_dead(job, state))
    for report in epochs(job, state, Progress(), interrupt):
        # The next epoch uses the state up.
        keep = functools.partial(jax.tree.map, jnp.copy, report.state)
        for outcome in slot.after(report.metrics, report.progress, keep):
            tell(outcome)
        if slot.diverged:
            return


@dataclass
class Slot:
    """A run under way; in a stack, in its place."""

    run: PlannedRun
    job: Job
    name: str  # of the experiment
    watch: Watch
    before: dict[str, tuple[int, int]]
    progress: Progress = field(default_factory=Progress)
    kept: TrainState | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    diverged: bool = False

    def after(
        self, metrics: dict[str, Any], progress: Progress, keep: Callable[[], TrainState]
    ) -> list[Outcome]:
        """Note an epoch -> what ends with it: the run, and shorter ones that it is the rest of."""
        config, self.progress = self.job.config, progress
        self.history.append(metrics)
        self.watch(self.run, metrics)
        waiting = [*self.run.shorter, self.run]
        try:
            check_finite(metrics, progress, config)
        except DivergedError as error:
            self.diverged = True
            late = [run for run in waiting if run.config.epochs >= progress.epoch]
            return [self._diverged(run, error) for run in late]
        if progress.kept(config) == progress.epoch:
            self.kept = keep()
        if progress.done(config):  # by patience, for longer ones too
            ended = [run for run in waiting if run.config.epochs >= progress.epoch]
        else:
            ended = [run for run in waiting if run.config.epochs == progress.epoch]
        return [self._complete(run) for run in ended]

    def _complete(self, run: PlannedRun) -> Outcome:
        assert self.kept is not None
        job, history = dataclasses.replace(self.job, config=run.config), list(self.history)
        dead = count_dead(job, self.kept)
        row = conclude(job, self.kept, self.progress, history, self.name, self.before, dead)
        for metric in METRICS:
            if not math.isfinite(row[metric]):
                reason = DivergedError(f"epoch {row['kept_epoch']}: {metric} is {row[metric]}")
                return self._diverged(run, reason)
        return Outcome(run, {**row, **_identity(run), "status": "complete"}, history)

    def _diverged(self, run: PlannedRun, error: DivergedError) -> Outcome:
        row = {
            **_identity(run), "status": "diverged", "reason": str(error), "experiment": self.name,
            "protocol": run.config.protocol, "epochs_run": self.progress.epoch,
            "fingerprint": run.config.fingerprint(), "data_digest": self.job.dataset.digest,
            "split_digest": splits.digest(self.job.rows),
        }  # fmt: skip
        return Outcome(run, row, list(self.history))


def _identity(run: PlannedRun) -> dict[str, Any]:
    return {"run": run.key, "setting": dict(run.setting), "vary": run.vary, "seed": run.seed}


def _side_by_side(
    on_rows: OnRows, queue: Queue, width: int, name: str, interrupt: Interrupt,
    tell: Callable[[Outcome], None], watch: Watch,
) -> None:  # fmt: skip
    """Train stacks of `width` runs, all on the same rows, until the queue is empty."""
    slots: list[Slot | None] = []
    starts: list[tuple[TrainState, Any]] = []

    def start() -> tuple[Slot, TrainState] | None:
        run = queue.take()
        if run is None:
            return None
        own = on_rows.of(run.config)
        state = own.init()
        return Slot(run, own, name, watch, count_dead(own, state)), state

    while len(slots) < width and (begun := start()):
        slots.append(begun[0])
        starts.append((begun[1], begun[0].job.hypers))
    if not slots or slots[0] is None:
        return
    one = slots[0].job
    while len(slots) < width:  # fewer runs than places: the others repeat the first, for nothing
        slots.append(None)
        starts.append(starts[0])
    states, hypers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *starts)
    stack = dataclasses.replace(one, hypers=hypers, width=width)
    stack.compile("train_epoch", states, "train")  # before the first clock starts
    stack.compile("evaluate", states, "validation")
    while running := sum(slot is not None for slot in slots):
        stack = dataclasses.replace(stack, hypers=hypers)
        states, found = one_epoch(stack, states, interrupt)
        for place, slot in enumerate(slots):
            if slot is None:
                continue
            part = _part(found, place, running)
            metrics, progress = epoch_metrics(part, slot.progress, slot.job.config)
            keep = functools.partial(_picked, states, jnp.int32(place))
            for outcome in slot.after(metrics, progress, keep):
                tell(outcome)
            if not (slot.diverged or progress.done(slot.job.config)):
                continue
            begun = start()
            slots[place] = begun[0] if begun else None
            if begun:
                states, hypers = _replaced(
                    (states, hypers), (begun[1], begun[0].job.hypers), jnp.int32(place)
                )


def _part(found: EpochSums, place: int, runs: int) -> EpochSums:
    """One run's own sums, and its share of the time: the `runs` of a stack are paid together."""
    sums = jax.tree.map(lambda x: x[place], found.sums)
    return EpochSums(sums, found.train_seconds / runs, found.seconds / runs)


@jax.jit
def _picked(stack: Tree, place: jax.Array) -> Tree:
    """One run's part of a stack."""
    return jax.tree.map(lambda x: x[place], stack)


@jax.jit
def _replaced(stack: Tree, one: Tree, place: jax.Array) -> Tree:
    """The stack with another run at `place`."""
    return jax.tree.map(lambda x, y: x.at[place].set(y), stack, one)
