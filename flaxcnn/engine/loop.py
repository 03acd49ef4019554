"""One epoch after the other: what each counts, which is the best, and when it is enough."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax

from flaxcnn.activity import doing
from flaxcnn.engine.average import averaged
from flaxcnn.engine.interrupt import Interrupt, wait_for
from flaxcnn.engine.job import Job
from flaxcnn.engine.metrics import MetricSums, finalize
from flaxcnn.engine.midway import BEGINNING, Keep, Midway
from flaxcnn.engine.step import TrainState
from flaxcnn.errors import CheckpointError, DataError, DivergedError, InterruptedRun
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.schedules import Plateau, Schedule
from flaxcnn.records.run import check_same

LOSSES = ("train_loss", "val_loss")  # an epoch counts only if those it has are finite


@dataclass(frozen=True)
class Progress:
    """What epochs so far decide of later ones. It belongs to one run; `after` gives the next."""

    epoch: int = 0  # epochs done
    best: float | None = None  # monitored value of the best epoch
    best_epoch: int | None = None
    wait: int = 0  # epochs since the best
    # Of the schedule `Plateau`:
    rate: float = 1.0  # factor of the learning rate
    rate_best: float | None = None  # monitored value of the best epoch by its threshold
    rate_wait: int = 0  # bad epochs since then, or since the last reduction
    rate_rest: int = 0  # epochs of the cooldown that are left

    def after(self, metrics: dict[str, float], config: Config) -> Progress:
        """Progress after another epoch: strictly better wins, an epoch with a NaN loss never.

        Without validation rows the training loss is what is monitored.
        """
        monitor = config.monitored if config.monitored in metrics else "train_loss"
        sign = 1.0 if monitor == config.monitored and config.rises else -1.0
        value, epoch = metrics[monitor], self.epoch + 1
        finite = [name for name in (*LOSSES, monitor) if name in metrics]
        sound = all(math.isfinite(metrics[name]) for name in finite)
        better = sound and (self.best is None or sign * (value - self.best) > config.min_delta)
        now = self._with_rate(sign, value, config.schedule)
        if better:
            return dataclasses.replace(now, epoch=epoch, best=value, best_epoch=epoch, wait=0)
        return dataclasses.replace(now, epoch=epoch, wait=self.wait + 1)

    def _with_rate(self, sign: float, value: float, schedule: Schedule) -> Progress:
        """The rate after a monitored value, as torch's ReduceLROnPlateau has it."""
        if not isinstance(schedule, Plateau):
            return self
        best, wait, rest, rate = self.rate_best, self.rate_wait + 1, self.rate_rest, self.rate
        if best is None or sign * (value - best) > schedule.threshold:
            best, wait = value, 0
        if rest:
            rest, wait = rest - 1, 0
        if wait > schedule.patience:
            rate, wait, rest = max(rate * schedule.factor, schedule.final), 0, schedule.cooldown
        return dataclasses.replace(self, rate=rate, rate_best=best, rate_wait=wait, rate_rest=rest)

    def done(self, config: Config) -> bool:
        """Whether the run ends here, by count or by patience."""
        impatient = config.patience is not None and self.wait >= config.patience
        return self.epoch >= config.epochs or impatient

    def kept(self, config: Config) -> int:
        """The epoch whose weights are kept."""
        kept = self.best_epoch if config.keep == "best" else self.epoch
        assert kept is not None  # an epoch without a finite loss ends the run
        return kept


def resumed(job: Job, saved: dict[str, Any]) -> tuple[Progress, list[dict[str, Any]]]:
    """The progress and the epochs that a checkpoint has, if it is of this recipe and data.

    Raises:
        CheckpointError: it lacks them.
        ConfigError: of another recipe.
        DataError: of other data.
    """
    try:
        before, history = saved["config"], list(saved["history"])
    except (KeyError, TypeError):
        raise CheckpointError("checkpoint is damaged: it has no recipe, or no epochs") from None
    check_same("checkpoint", before, job.config.to_dict())
    if saved.get("data", job.dataset.digest) != job.dataset.digest:
        raise DataError(f"{job.dataset.name} is not the data that the checkpoint was trained on")
    known = [field.name for field in dataclasses.fields(Progress) if field.name in saved]
    return Progress(**{name: saved[name] for name in known}), history


@dataclass(frozen=True)
class EpochSums:
    """What an epoch counted on "train", "val" and maybe "clean_train", and how long it took."""

    sums: dict[str, MetricSums]  # on the host
    train_seconds: float
    seconds: float  # with validation
    stalled: float | None = None  # of them, the device waited for rows; None: they lay on it


@dataclass(frozen=True)
class EpochReport:
    """What one epoch gave; `state` is valid until the next one is asked for."""

    metrics: dict[str, Any]
    progress: Progress
    state: TrainState


def epochs(
    job: Job, state: TrainState, progress: Progress, interrupt: Interrupt,
    midway: Midway = BEGINNING, keep: Keep | None = None,
) -> Iterator[EpochReport]:  # fmt: skip
    """Train until `config.epochs` or patience ends it; the first epoch goes on from `midway`.

    Raises:
        InterruptedRun: a signal came; `keep` was called.
    """
    config = job.config
    if not progress.done(config):  # compile before the first clock starts
        job.compile(state)
    while not progress.done(config):
        what, now = f"epoch {progress.epoch + 1}", job.at_rate(progress.rate)
        state, counted = one_epoch(now, state, interrupt, what, midway, keep)
        midway = BEGINNING
        metrics, progress = epoch_metrics(counted, progress, config)
        yield EpochReport(metrics, progress, state)


def one_epoch(
    job: Job, state: TrainState, interrupt: Interrupt, what: str = "epoch",
    midway: Midway = BEGINNING, keep: Keep | None = None,
) -> tuple[TrainState, EpochSums]:  # fmt: skip
    """Train, which uses `state` up, and validate; of all runs at once where the job is stacked.

    `what` names the epoch for whoever watches. It goes on from `midway`.
    Rows given by Python may have none held out; then nothing is validated.

    Raises:
        InterruptedRun: a signal came; `keep` was called, unless the device took too long.
    """
    began = time.perf_counter() - midway.seconds
    job.stalled()  # what went before this epoch is not its own
    images, program = job.plan.train_rows * job.runs, id(job.programs.programs)
    after = state

    def stop_if_asked() -> None:
        if interrupt.stops and keep is not None:
            keep(after, midway)
            steps = job.plan.steps_per_epoch
            interrupt.stop(f"stopped in {what} after {midway.done} of {steps} steps")
        interrupt.check()

    with doing(what, images, ("train", program, images)):
        stop_if_asked()
        for after, sums, count in job.train_parts(  # noqa: B007 - read by `stop_if_asked`
            state, midway.done, interrupt.overdue
        ):
            midway = midway.after(sums, count, time.perf_counter() - began)
            stop_if_asked()
        wait_for((after, midway.parts), interrupt.overdue)
        train = midway.sums()
    trained = time.perf_counter()
    with doing(f"{what}, validation", kind=("validation", program, images)):
        try:
            settled = job.settled(after)
            host = _evaluated(job, settled, train, interrupt)
        except InterruptedRun:
            stop_if_asked()
            raise
    seconds = time.perf_counter() - began
    return settled, EpochSums(host, trained - began, seconds, job.stalled())


def _evaluated(
    job: Job, state: TrainState, train: MetricSums, interrupt: Interrupt
) -> dict[str, MetricSums]:
    """The sums of an epoch with those of the rows that are evaluated after it, on the host."""
    sums = {"train": train}
    if len(job.rows.validation):
        sums["val"] = job.evaluate(state, "validation", interrupt.check)
        if average := job.config.average:
            interrupt.wait(sums)
            held = job.evaluate(averaged(state), "validation", interrupt.check)
            sums[f"{average.name}_val"] = held
    if job.config.evaluate_train:
        interrupt.wait(sums)  # two programs that exchange at once could wait for one another
        sums["clean_train"] = job.evaluate(state, "train", interrupt.check)
    interrupt.wait(sums)
    host: dict[str, MetricSums] = jax.device_get(sums)
    return host


def epoch_metrics(
    counted: EpochSums, progress: Progress, config: Config
) -> tuple[dict[str, Any], Progress]:
    """An epoch's line for metrics.jsonl and the progress after it; `progress` is that before."""
    metrics = {
        f"{split}_{name}": value
        for split, sums in counted.sums.items()
        for name, value in finalize(sums).items()
    }
    if isinstance(config.schedule, Plateau):
        metrics["learning_rate"] = config.scaled_learning_rate() * progress.rate
    progress = progress.after(metrics, config)
    return {
        "epoch": progress.epoch,
        **metrics,
        "best": progress.best_epoch == progress.epoch,
        "seconds": counted.seconds,
        "images_per_second": float(counted.sums["train"].count.sum()) / counted.train_seconds,
        **({} if counted.stalled is None else {"stall": counted.stalled / counted.seconds}),
    }, progress


def check_finite(metrics: dict[str, Any], progress: Progress, config: Config) -> None:
    """DivergedError before the weights of such an epoch can become a checkpoint."""
    for name in (*LOSSES, config.monitor, config.monitored):
        if not math.isfinite(loss := metrics.get(name, 0.0)):
            raise DivergedError(
                f"epoch {progress.epoch}: {name} is {loss}; "
                f"lower learning_rate (now {config.learning_rate:g}); "
                f"best epoch so far: {progress.best_epoch or 'none'}"
            )
