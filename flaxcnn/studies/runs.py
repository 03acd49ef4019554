"""Runs in groups that share compiled programs: a thread a device, runs one by one or side by side.

Each device compiles the programs of a group anew, so the devices go to different groups while there
are enough, and help one another at the end.

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
from flaxcnn.engine.resident import ResidentJob
from flaxcnn.engine.score import Counts, conclude, count_dead
from flaxcnn.engine.step import TrainState
from flaxcnn.errors import DivergedError, OutOfMemoryError
from flaxcnn.recipe.config import Config
from flaxcnn.studies.groups import Group, Queue, Share, Shares, rows_of
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
    predictions: dict[str, np.ndarray] | None = None  # row, label, predicted: each [N], test rows


def make_jobs(
    group: Group, dataset: Dataset, earlier: Sequence[ResidentJob] = (), runs: int | None = None
) -> list[ResidentJob]:
    """What runs the group: a job a device, or one that spreads the batches of a single run.

    Args:
        group: the whole of it, also where some runs have ended: a resumed study has the same bits.
        dataset: of its runs.
        earlier: jobs whose pixels are used again, and whose programs where they do.
        runs: of all groups that share the devices; by default of this one.

    Raises:
        ConfigError: the data does not fit the device.
    """
    config, devices = group.runs[0].config, jax.local_devices()[: runs or len(group.runs)]
    several = len(devices) > 1
    plan = group.plan if several else make_plan(config, group.plan.train_rows)
    require_resident(config, dataset, "a study", pixel_memory())
    if len(earlier) == len(devices) and earlier[0].plan.sharding == plan.sharding:
        return [job.with_plan(plan, config) for job in earlier]
    if not several:
        return [make_resident_job(config, dataset)]
    one = make_resident_job(config, dataset, devices[0])
    return [one, *(one.on(device) for device in devices[1:])]


def ends_all(run: PlannedRun, reason: str) -> None:
    """A run that is too large for the memory ends the others too."""
    raise OutOfMemoryError(reason)


@dataclass(frozen=True)
class Recorder:
    """Who is told of runs, and how much.

    `name` is the experiment's, for the rows; `done` is called with each outcome, in the order in
    which runs end, `too_large` with a run that the memory is too small for and a sentence, and
    `watch` with a run and the metrics of an epoch; `scores_only` leaves training accuracy and dead
    units out of the rows, since each takes a pass; `predictions` keeps the classes predicted for
    the test rows.
    """

    name: str
    done: Callable[[Outcome], None]
    too_large: Callable[[PlannedRun, str], None] = ends_all
    watch: Watch = lambda run, metrics: None
    scores_only: bool = False
    predictions: bool = False

    def one_at_a_time(self) -> Recorder:
        """The same for several threads."""
        lock = threading.Lock()

        def locked(function: Callable[..., None]) -> Callable[..., None]:
            @functools.wraps(function)
            def called(*args: Any) -> None:
                with lock:
                    function(*args)

            return called

        return dataclasses.replace(
            self, done=locked(self.done), too_large=locked(self.too_large), watch=locked(self.watch)
        )

    def count_dead(self, job: ResidentJob, state: TrainState) -> Counts | None:
        """None where it is not wanted."""
        return None if self.scores_only else count_dead(job, state)


def run_groups(
    groups: Sequence[tuple[Group, int]],
    jobs: list[ResidentJob],
    interrupt: Interrupt,
    recorder: Recorder,
) -> None:
    """Train every run of the groups.

    Args:
        groups: of `grouped`, each with its number of runs side by side in a job; 1: one by one.
        jobs: of `make_jobs`; replaced by those of the groups that each did last.
        interrupt: heard between epochs.
        recorder: is told of one thing at a time.

    Raises:
        InterruptedRun: a signal came; the runs under way are lost, the others are done.
    """
    shares = Shares([Share(group, width) for group, width in groups])
    recorder = recorder.one_at_a_time()

    def work(place: int) -> None:
        try:
            while share := shares.take():
                if jobs[place].plan.sharding.devices == 1:  # over several there is a single run
                    jobs[place] = jobs[place].with_plan(share.plan, share.config)
                own = OnRows(jobs[place])
                for queue in share.queues:
                    if share.width > 1:
                        with enough_memory("--how map, one run after the other"):
                            _side_by_side(own, queue, share.width, interrupt, recorder)
                        continue
                    while run := queue.take():
                        try:
                            with enough_memory():
                                _one(own.of(run.config), run, interrupt, recorder)
                        except OutOfMemoryError as error:  # others may be smaller
                            # As text: the error itself would keep the arrays that are too large.
                            recorder.too_large(run, str(error))
                shares.give_back(share)
        except BaseException:
            shares.stop()
            raise

    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = [pool.submit(work, place) for place in range(len(jobs))]
        # Python hears a signal in its main thread only, and only when that wakes up.
        while wait(futures, POLL_SECONDS).not_done:
            pass
        for future in futures:
            future.result()


class OnRows:
    """A job for the runs of a group: programs and pixels are shared, by equal splits rows too."""

    def __init__(self, job: ResidentJob):
        self._known = {rows_of(job.config): job}
        self._any = job

    def of(self, config: Config) -> ResidentJob:
        """The job of one run."""
        rows = rows_of(config)
        if rows not in self._known:
            self._known[rows] = self._any.with_rows(config)
        return self._known[rows].with_config(config)


def _one(job: ResidentJob, run: PlannedRun, interrupt: Interrupt, recorder: Recorder) -> None:
    """A run from its first epoch to its row."""
    state = job.init()
    slot = Slot(run, job, recorder, recorder.count_dead(job, state))
    for report in epochs(job, state, Progress(), interrupt):
        # The next epoch uses the state up.
        keep = functools.partial(jax.tree.map, jnp.copy, report.state)
        for outcome in slot.after(report.metrics, report.progress, keep):
            recorder.done(outcome)
        if slot.diverged:
            return


@dataclass
class Slot:
    """A run under way; in a stack, in its place."""

    run: PlannedRun
    job: ResidentJob
    recorder: Recorder
    before: Counts | None  # dead units
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
        self.recorder.watch(self.run, metrics)
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
        dead = None if self.before is None else (self.before, count_dead(job, self.kept))
        row = conclude(job, self.kept, self.progress, history, self.recorder.name, dead)
        for metric in METRICS:
            if not math.isfinite(row.get(metric, 0.0)):
                reason = DivergedError(f"epoch {row['kept_epoch']}: {metric} is {row[metric]}")
                return self._diverged(run, reason)
        predictions = self._predictions(self.kept) if self.recorder.predictions else None
        return Outcome(run, {**row, **_identity(run), "status": "complete"}, history, predictions)

    def _predictions(self, state: TrainState) -> dict[str, np.ndarray]:
        logits = self.job.predict(state, "test")
        rows = self.job.rows.test
        return {"row": rows, "label": self.job.labels()[rows], "predicted": logits.argmax(axis=1)}

    def _diverged(self, run: PlannedRun, error: DivergedError) -> Outcome:
        row = {
            **_identity(run), "status": "diverged", "reason": str(error),
            "experiment": self.recorder.name, "protocol": run.config.protocol,
            "epochs_run": self.progress.epoch, "fingerprint": run.config.fingerprint(),
            "data_digest": self.job.dataset.digest, "split_digest": splits.digest(self.job.rows),
        }  # fmt: skip
        return Outcome(run, row, list(self.history))


def _identity(run: PlannedRun) -> dict[str, Any]:
    return {"run": run.key, "setting": dict(run.setting), "vary": run.vary, "seed": run.seed}


def _side_by_side(
    on_rows: OnRows, queue: Queue, width: int, interrupt: Interrupt, recorder: Recorder
) -> None:
    """Train stacks of `width` runs, all on the same rows, until the queue is empty."""
    slots: list[Slot | None] = []
    starts: list[tuple[TrainState, Any]] = []

    def start() -> tuple[Slot, TrainState] | None:
        run = queue.take()
        if run is None:
            return None
        own = on_rows.of(run.config)
        state = own.init()
        return Slot(run, own, recorder, recorder.count_dead(own, state)), state

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
    stack = one.stacked(hypers, width)
    stack.compile(states)  # before the first clock starts
    while running := sum(slot is not None for slot in slots):
        stack = one.stacked(hypers, width)
        states, found = one_epoch(stack, states, interrupt)
        for place, slot in enumerate(slots):
            if slot is None:
                continue
            part = _part(found, place, running)
            metrics, progress = epoch_metrics(part, slot.progress, slot.job.config)
            keep = functools.partial(_picked, states, jnp.int32(place))
            for outcome in slot.after(metrics, progress, keep):
                recorder.done(outcome)
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
