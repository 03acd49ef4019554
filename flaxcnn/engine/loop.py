"""One epoch after the other: what each counts, which is the best, and when it is enough."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from flaxcnn.activity import doing
from flaxcnn.engine.average import averaged
from flaxcnn.engine.hosts import several
from flaxcnn.engine.interrupt import Interrupt, is_ready, wait_for
from flaxcnn.engine.job import Job
from flaxcnn.engine.metrics import MetricSums, finalize, first_bad
from flaxcnn.engine.midway import BEGINNING, Keep, Midway
from flaxcnn.engine.step import TrainState
from flaxcnn.errors import CheckpointError, DataError, DivergedError, InterruptedRun
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.schedules import Plateau, Schedule
from flaxcnn.records.environment import check_jax_settings
from flaxcnn.records.run import check_same

log = logging.getLogger(__name__)
ROLLBACKS = 3  # of a run: what half, a quarter, an eighth of the rate do not help has other causes
ROLLBACK_RATE = 0.5
SPIKE = 3.0  # times the lowest training loss so far: far beyond what epochs differ by
SETTLED = 0.1  # of the first epoch's loss: what is below goes up and down by itself
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
    rollbacks: int = 0  # with `on_nonfinite=rollback`; each halves `rate`

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

    def rolled_back(self) -> Progress:
        """Progress at the beginning of an epoch that is tried again."""
        return dataclasses.replace(
            self, rollbacks=self.rollbacks + 1, rate=self.rate * ROLLBACK_RATE
        )

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
        ConfigError: of another recipe, or with other settings of jax.
        DataError: of other data.
    """
    try:
        before, history = saved["config"], list(saved["history"])
    except (KeyError, TypeError):
        raise CheckpointError("checkpoint is damaged: it has no recipe, or no epochs") from None
    check_same("checkpoint", before, job.config.to_dict())
    check_jax_settings("checkpoint", saved.get("environment", {}))
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
    config, goes_back = job.config, job.config.on_nonfinite == "rollback"
    if not progress.done(config):  # compile before the first clock starts
        job.compile(state)
    while not progress.done(config):
        what, now = f"epoch {progress.epoch + 1}", job.at_rate(progress.rate)
        if goes_back and midway.before is None:  # training uses the state up
            midway = dataclasses.replace(midway, before=jax.tree.map(jnp.copy, state))
        before, begun = midway.before, progress
        state, counted = one_epoch(now, state, interrupt, what, midway, keep)
        midway = BEGINNING
        metrics, progress = epoch_metrics(counted, progress, config)
        if before and begun.rollbacks < ROLLBACKS and (bad := not_finite(metrics, config)):
            state, progress = before, begun.rolled_back()
            log.warning(
                "%s: %s; it begins again with half the learning rate (%d of %d times)",
                what, bad, progress.rollbacks, ROLLBACKS,
            )  # fmt: skip
            continue
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
    after, steps = state, job.plan.steps_per_epoch

    def stop_if_asked() -> None:
        stops = interrupt.stops
        if several() and 0 < midway.done < steps:  # at the end of an epoch, they are asked anyway
            wait_for(after, interrupt.overdue)  # two exchanges at once could wait for one another
            stops = interrupt.coming()
        if stops and keep is not None:
            keep(after, midway)
            interrupt.stop(f"stopped in {what} after {midway.done} of {steps} steps")
        interrupt.check()

    with doing(what, images, ("train", program, images)):
        stop_if_asked()
        for after, sums, count in job.train_parts(state, midway.done, interrupt.overdue):
            midway = midway.after(sums, count, time.perf_counter() - began)
            stop_if_asked()
            # The other steps would be in vain. Of several processes, all must do the same ones.
            if job.runs == 1 and not several() and _is_bad(sums, count):
                wait_for((after, midway.parts), interrupt.overdue)
                taken = time.perf_counter() - began
                return after, EpochSums({"train": jax.device_get(midway.sums())}, taken, taken)
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


def _is_bad(sums: MetricSums, count: int) -> bool:
    """Whether a part that is computed has a loss that is not finite."""
    return is_ready(sums) and first_bad(sums, count) is not None


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
    if config.on_nonfinite == "skip":
        metrics["skipped_steps"] = int((counted.sums["train"].count == 0).sum())
    if progress.rollbacks:
        metrics["rollbacks"] = progress.rollbacks
    if (step := first_bad(train := counted.sums["train"], train.loss.shape[-1])) is not None:
        metrics["bad_step"] = step + 1
    if isinstance(config.schedule, Plateau) or progress.rollbacks:
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
    if bad := not_finite(metrics, config):
        after = f" after {progress.rollbacks} rollbacks" if progress.rollbacks else ""
        raise DivergedError(
            f"epoch {progress.epoch}: {bad}{after}; "
            f"lower learning_rate (now {config.learning_rate:g}); "
            f"best epoch so far: {progress.best_epoch or 'none'}"
        )


def not_finite(metrics: dict[str, Any], config: Config) -> str | None:
    """What of an epoch is not finite, in words."""
    for name in (*LOSSES, config.monitor, config.monitored):
        if not math.isfinite(value := metrics.get(name, 0.0)):
            step = f" from step {metrics['bad_step']} on" if "bad_step" in metrics else ""
            return f"{name} is {value}{step}"
    return None


def spike(history: Sequence[dict[str, Any]]) -> str | None:
    """A warning, if the training loss of the last epoch is far above the lowest before."""
    *earlier, last = (row["train_loss"] for row in history)
    known = [loss for loss in earlier if loss is not None]
    low = min(known, default=math.inf)
    if last is None or not 0 < SPIKE * low < last or last < SETTLED * known[0]:
        return None
    return (
        f"epoch {len(history)}: the training loss rose to {last:.4g}, from {low:.4g} at its "
        "lowest: a lower learning_rate, or clip, may keep it down"
    )
