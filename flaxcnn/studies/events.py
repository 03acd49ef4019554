"""What happens while runs train: recorded in a folder, and passed on to a listener."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from flaxcnn.errors import OutOfMemoryError
from flaxcnn.records.study import StudyDirectory
from flaxcnn.studies.plan import PlannedRun

if TYPE_CHECKING:
    from flaxcnn.engine.resident import ResidentJob
    from flaxcnn.studies.groups import Group

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """A run that has ended: its line for runs.jsonl, and one for each of its epochs."""

    run: PlannedRun
    row: dict[str, Any]
    history: list[dict[str, Any]]
    predictions: dict[str, np.ndarray] | None = None  # row, label, predicted: each [N], test rows


class TooLarge(NamedTuple):
    """A run that does not fit in memory."""

    run: PlannedRun
    reason: str


def _ignore(*_: Any) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Listener:
    """Functions that are called while a study or a search runs, one call at a time.

    What one of them raises ends all runs. By default a note is logged and the rest is ignored.

    Args:
        note: called with each warning.
        group: called with a group of runs that share a program, the job of each device, and how
            many runs are stacked in a job, before they are trained.
        epoch: called with a run and the metrics of an epoch, after each epoch.
        run: called with each outcome, how many runs have ended, and of how many.
        trial: called with a line of text for each recipe that a sampler has drawn.
    """

    note: Callable[[str], None] = log.warning
    group: Callable[[Group, list[ResidentJob], int], None] = _ignore
    epoch: Callable[[PlannedRun, dict[str, Any]], None] = _ignore
    run: Callable[[Outcome, int, int], None] = _ignore
    trial: Callable[[str], None] = _ignore


class Ledger:
    """Which of the planned runs have ended; the threads that train them report to it.

    Args:
        folder: where each run is recorded as it ends.
        name: of the experiment, for the rows.
        listener: hears of epochs, runs and failures.
        planned: how many runs there are.
        all_or_none: a run that does not fit in memory ends the others too.
    """

    def __init__(
        self,
        folder: StudyDirectory,
        name: str,
        listener: Listener,
        planned: int,
        all_or_none: bool = False,
    ):
        self.folder, self.name, self.listener = folder, name, listener
        self.planned, self.all_or_none = planned, all_or_none
        self.ended = folder.tidy()  # keys of runs
        self.too_large: list[TooLarge] = []
        self._lock = threading.Lock()

    def add_epoch(self, run: PlannedRun, metrics: dict[str, Any]) -> None:
        """An epoch of a run has ended."""
        with self._lock:
            self.listener.epoch(run, metrics)

    def add(self, outcome: Outcome) -> None:
        """A run has ended. One that is known, and was read off a longer run again, is ignored."""
        key = outcome.run.key
        with self._lock:
            if key in self.ended:
                return
            self.folder.add(outcome.row, outcome.history, outcome.predictions)
            self.ended.add(key)
            self.listener.run(outcome, len(self.ended), self.planned)

    def add_too_large(self, run: PlannedRun, reason: str) -> None:
        """A run, and the shorter ones that were to be read off it, do not fit in memory.

        Raises:
            OutOfMemoryError: with `all_or_none`.
        """
        if self.all_or_none:
            raise OutOfMemoryError(reason)
        with self._lock:
            for each in (*run.shorter, run):
                if each.key not in self.ended:
                    self.too_large.append(TooLarge(each, reason))
                    self.listener.note(f"{each.name} seed {each.seed}: {reason}")
