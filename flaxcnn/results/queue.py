"""The queue: carries out its tasks one after the other, and keeps the row of each as it ends.

A training goes on from its own checkpoint, a stack or a search from the runs that have ended, also
after SIGKILL. Several processes may share a queue: each leaves the others' tasks alone.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from flaxcnn.activity import doing
from flaxcnn.data.datasets import load_for
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.train import fit
from flaxcnn.errors import (
    DivergedError,
    FlaxcnnError,
    FolderInUseError,
    InterruptedRun,
    WriteError,
)
from flaxcnn.records.environment import environment
from flaxcnn.records.files import read_lines
from flaxcnn.records.folder import runs_folder
from flaxcnn.results.rows import Results, diverged_row, recipe, row_of_run, rows_of_study
from flaxcnn.results.tasks import FOLDS, Pace, Task, candidates
from flaxcnn.studies.candidates import Candidates
from flaxcnn.studies.events import Listener
from flaxcnn.studies.plan import Scoring
from flaxcnn.studies.search import campaign_of, search_candidates
from flaxcnn.studies.study import study

TOO_SHORT = 1.0  # seconds before the deadline in which nothing is begun


@dataclass
class Ended:
    """What a queue did before it ended."""

    rows: list[dict[str, Any]] = field(default_factory=list)  # new ones
    searches: list[str] = field(default_factory=list)
    left: list[Task] = field(default_factory=list)
    failed: list[tuple[Task, FlaxcnnError]] = field(default_factory=list)


def work_folder() -> Path:
    """The folder of trainings under way: `queue` in the folder of runs."""
    return runs_folder() / "queue"


def run_queue(
    todo: Sequence[Task], results: Results, *, hours: float | None = None,
    say: Callable[[str], None] = print, note: Callable[[str], None] = print,
) -> Ended:  # fmt: skip
    """Do the tasks in their order, and add the rows of each to the results.

    A task that fails, for example because its data is missing, is skipped.

    Args:
        todo: of `flaxcnn.results.tasks.tasks`.
        results: opened for writing.
        hours: stop after this many; what is under way is saved, what is left is returned.
        say: called with a line for each task that has ended.
        note: called with warnings and failures.

    Raises:
        InterruptedRun: a signal (`flaxcnn.signals`); what is under way is saved where it can be.
        WriteError: the disk is full, or a folder is not writable.
    """
    ended, left, note = Ended(), list(todo), _once(note)
    pace = Pace.of(results.rows())
    with Interrupt() as interrupt, Deadline(hours) as deadline:
        while left:
            task = left[0]
            needed = pace.seconds(task) if task.kind == "study" else None
            if deadline.before(needed or TOO_SHORT):
                break
            try:
                interrupt.check()
                began = time.perf_counter()
                with doing(task.label):
                    rows = _do(task, results, note)
            except InterruptedRun:
                if deadline.passed:
                    break
                raise
            except FolderInUseError as error:
                note(f"{task.label}: {error}; skipped")
                left.pop(0)
                continue
            except WriteError:
                raise
            except FlaxcnnError as error:
                note(f"{task.label}: {error}")
                ended.failed.append((left.pop(0), error))
                continue
            left.pop(0)
            ended.rows += rows
            if task.kind == "search":
                ended.searches.append(task.experiment.name)
            seconds, pace = time.perf_counter() - began, Pace.of(results.rows())
            say(f"{_outcome(task, rows)}; {seconds:,.0f} s. Left: {len(left)}, {pace.text(left)}")
            jax.clear_caches()  # the programs of one recipe are of no use to the next
    ended.left = left
    return ended


def _once(note: Callable[[str], None]) -> Callable[[str], None]:
    """Passes on each text once: every task of a recipe gives the same notes."""
    noted: set[str] = set()

    def tell(text: str) -> None:
        if text not in noted:
            noted.add(text)
            note(text)

    return tell


class Deadline:
    """After `hours` the process sends itself SIGTERM, which stops the training under way."""

    def __init__(self, hours: float | None):
        self.end = None if hours is None else time.monotonic() + 3600 * hours
        self.passed = False
        self._timer = None if hours is None else threading.Timer(3600 * hours, self._stop)

    def __enter__(self) -> Deadline:
        if self._timer:
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer:
            self._timer.cancel()

    def _stop(self) -> None:
        self.passed = True
        os.kill(os.getpid(), signal.SIGTERM)

    def before(self, seconds: float) -> bool:
        """Whether it is less than so many seconds away."""
        return self.end is not None and self.end - time.monotonic() < seconds


def _outcome(task: Task, rows: Sequence[dict[str, Any]]) -> str:
    """`mnist-ladder/model10, document protocol, seed 0: test accuracy 0.9926 (document 0.993)`."""
    accuracies = [row["test_accuracy"] for row in rows if row["status"] == "complete"]
    if not rows:
        return f"{task.label}: complete"
    if not accuracies:
        return f"{task.label}: diverged ({rows[0]['reason']})"
    mean = sum(accuracies) / len(accuracies)
    reported = task.experiment.reported.get("test_accuracy")
    beside = "" if reported is None else f" (document {reported:.4f})"
    of = "" if len(rows) == 1 else f", mean of {len(accuracies)}"
    return f"{task.label}: test accuracy {mean:.4f}{of}{beside}"


def _do(task: Task, results: Results, note: Callable[[str], None]) -> list[dict[str, Any]]:
    """Train or search, and keep the rows."""
    folder = work_folder() / task.folder
    rows = {"train": _train, "study": _study, "search": _search}[task.kind](task, folder, note)
    if task.kind == "search":
        results.add_search(folder, task.experiment.name, task.protocol)
    results.add(rows)
    return rows


def _train(task: Task, folder: Path, note: Callable[[str], None]) -> list[dict[str, Any]]:
    config = recipe(task.experiment.name, task.protocol, task.seeds[0])
    try:
        fit(config, load_for(config), folder, name=task.experiment.name, resume=True, on_note=note)
    except DivergedError as error:
        history = read_lines(folder / "metrics.jsonl")
        summary = {
            "experiment": task.experiment.name, "protocol": task.protocol, "seed": config.seed,
            "fingerprint": config.fingerprint(), "epochs_run": len(history),
        }  # fmt: skip
        return [diverged_row(summary, config.to_dict(), environment(), str(error), history)]
    return [row_of_run(folder)]


def _study(task: Task, folder: Path, note: Callable[[str], None]) -> list[dict[str, Any]]:
    config = recipe(task.experiment.name, task.protocol, task.seeds[0])
    dataset = load_for(config)
    # Side by side whatever the clock says: a width that is measured may be another one after a
    # kill, and the bits with it.
    study(
        config, task.seeds, how="vmap", study_dir=folder, resume=True, name=task.experiment.name,
        dataset=dataset, tell=Listener(note), predictions=True,
    )  # fmt: skip
    return rows_of_study(folder, dataset.num_classes)


def _search(task: Task, folder: Path, note: Callable[[str], None]) -> list[dict[str, Any]]:
    wanted, incumbent = candidates(task.experiment)
    dataset = load_for(wanted[0][1])
    tried = Candidates.of(wanted, dataset, incumbent=incumbent)
    scoring = Scoring(folds=task.experiment.reported.get("folds", FOLDS), seeds=task.seeds,
                      document=task.protocol == "document")  # fmt: skip
    campaign = campaign_of(
        scoring, dataset, folder, name=task.experiment.name, resume=True, listener=Listener(note)
    )
    search_candidates(tried, scoring, campaign)
    return []
