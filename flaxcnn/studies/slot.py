"""A run under way: what its epochs gave, and what is recorded as it ends."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flaxcnn.data import splits
from flaxcnn.engine.average import chosen
from flaxcnn.engine.loop import Progress, check_finite
from flaxcnn.engine.resident import ResidentJob
from flaxcnn.engine.score import Counts, conclude, count_dead
from flaxcnn.engine.step import TrainState
from flaxcnn.errors import DivergedError
from flaxcnn.studies.events import Ledger, Outcome
from flaxcnn.studies.plan import PlannedRun
from flaxcnn.studies.stats import METRICS
from flaxcnn.studies.under_way import RunUnderWay


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

    @property
    def under_way(self) -> RunUnderWay:
        """What is saved of it, if it is stopped."""
        return RunUnderWay(self.progress, self.history, self.kept)

    def go_on(self, before: RunUnderWay) -> None:
        """Be where a run was when it was stopped."""
        self.progress, self.history, self.kept = before.progress, before.history, before.kept

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


def begin(job: ResidentJob, run: PlannedRun, ledger: Ledger) -> tuple[Slot, TrainState]:
    """A run before its first epoch."""
    state = job.init()
    dead = None if ledger.folder.scores_only else count_dead(job, state)
    return Slot(run, job, ledger, dead), state
