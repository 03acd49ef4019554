"""Runs of a study that a signal has stopped: saved at their last step, and gone on with."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.struct

from flaxcnn.engine.checkpoint import Checkpoints
from flaxcnn.engine.job import Job
from flaxcnn.engine.loop import Progress, resumed
from flaxcnn.engine.midway import BEGINNING, Midway, Underway, restored, underway
from flaxcnn.engine.step import TrainState
from flaxcnn.errors import CheckpointError
from flaxcnn.records.environment import jax_settings
from flaxcnn.records.files import plain

log = logging.getLogger(__name__)
FOLDER = "under-way"  # of a study: a folder for each run, by its key


@flax.struct.dataclass
class _Arrays:
    now: Underway
    kept: TrainState  # of the best epoch; where there is none yet, of this one


@dataclass(frozen=True)
class RunUnderWay:
    """A run between two of its steps."""

    state: TrainState
    midway: Midway
    progress: Progress
    history: list[dict[str, Any]]
    kept: TrainState | None  # the weights of its best epoch


class UnderWay:
    """The runs of a study that were stopped.

    Args:
        study: its folder.
    """

    def __init__(self, study: Path):
        self.folder = study / FOLDER

    def save(self, key: str, job: Job, run: RunUnderWay) -> None:
        """Write a run that is about to be stopped."""
        kept = run.kept or run.state
        arrays = _Arrays(underway(job.plan, run.state, run.midway), kept)
        record = {
            **dataclasses.asdict(run.progress), **run.midway.record(),
            "history": [plain(line) for line in run.history], "config": job.config.to_dict(),
            "data": job.dataset.digest, "kept": run.kept is not None,
            "environment": {"jax": jax_settings()},
        }  # fmt: skip
        self.forget(key)  # it would be of the same step, or of an earlier one
        with Checkpoints(self.folder / key, counts="step") as checkpoints:
            checkpoints.save(int(run.state.step), arrays, record, None)

    def restore(self, key: str, job: Job, like: TrainState) -> RunUnderWay | None:
        """The run, if it was stopped and what was saved is whole; else it begins anew.

        Raises:
            ConfigError, DataError: it is of another recipe, other settings of jax or other data.
        """
        if not (self.folder / key).is_dir():
            return None
        begun = Midway(before=like) if job.config.on_nonfinite == "rollback" else BEGINNING
        shapes = _Arrays(underway(job.plan, like, begun), like)
        try:
            with Checkpoints(self.folder / key, counts="step") as checkpoints:
                found = checkpoints.restore_newest(shapes)
        except CheckpointError as error:
            log.warning("run %s begins anew: %s", key, error)
            return None
        if found is None:
            return None
        arrays, record = found
        progress, history = resumed(job, record)
        state, midway = restored(job.plan, arrays.now, record)
        kept = arrays.kept if record["kept"] else None
        return RunUnderWay(state, midway, progress, history, kept)

    def forget(self, key: str) -> None:
        """The run has ended, or goes on."""
        shutil.rmtree(self.folder / key, ignore_errors=True)

    def forget_all(self) -> None:
        """The study has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)
