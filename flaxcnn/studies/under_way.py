"""Runs of a study that a signal has stopped: saved at their last step, and gone on with."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from flaxcnn.engine.checkpoint import Checkpoints
from flaxcnn.engine.job import Job
from flaxcnn.engine.loop import Progress, resumed
from flaxcnn.engine.midway import BEGINNING, Midway, Underway, restored, underway
from flaxcnn.engine.step import TrainState
from flaxcnn.errors import CheckpointError, FlaxcnnError
from flaxcnn.records.environment import jax_settings
from flaxcnn.records.files import plain, read_json, write_atomic

Tree = Any
log = logging.getLogger(__name__)
FOLDER = "under-way"  # of a study: a folder for each run, by its key


STACK = "stack-"  # begins the name of runs side by side, which are saved together


@flax.struct.dataclass
class _Arrays:
    now: Underway
    kept: TrainState  # of the best epoch; where there is none yet, of this one


@dataclass(frozen=True)
class RunUnderWay:
    """A run between two of its steps."""

    progress: Progress
    history: list[dict[str, Any]]
    kept: TrainState | None  # the weights of its best epoch

    def record(self, job: Job) -> dict[str, Any]:
        """What is saved of it, beside the arrays."""
        return {
            **dataclasses.asdict(self.progress), "history": [plain(line) for line in self.history],
            "config": job.config.to_dict(), "data": job.dataset.digest,
            "kept": self.kept is not None, "environment": {"jax": jax_settings()},
        }  # fmt: skip

    @classmethod
    def of_record(cls, job: Job, record: dict[str, Any], kept: TrainState) -> RunUnderWay:
        """The reverse of `record`.

        Raises:
            ConfigError, DataError: it is of another recipe, other settings of jax or other data.
        """
        progress, history = resumed(job, record)
        return cls(progress, history, kept if record["kept"] else None)


class UnderWay:
    """The runs of a study that were stopped.

    Args:
        study: its folder.
    """

    def __init__(self, study: Path):
        self.folder = study / FOLDER

    def save(self, key: str, job: Job, run: RunUnderWay, state: TrainState, midway: Midway) -> None:
        """Write a run that is about to be stopped."""
        record = {**run.record(job), **midway.record()}
        self._write(key, job, state, midway, run.kept or state, record)

    def save_stack(
        self,
        job: Job,
        runs: Sequence[tuple[Job, str, RunUnderWay] | None],
        state: TrainState,
        midway: Midway,
    ) -> None:
        """Write runs side by side.

        Args:
            job: of the stack.
            runs: the job, the key and the progress of each; None: a slot without a run.
            state: of all of them, [W, ...].
            midway: of the epoch, which they have begun together.
        """
        kept = [
            run[2].kept if run and run[2].kept else part(state, i) for i, run in enumerate(runs)
        ]
        record = {
            **midway.record(),
            "runs": [run and run[2].record(run[0]) for run in runs],
        }
        keys = [run and run[1] for run in runs]
        name = _name(keys)
        self._write(name, job, state, midway, stacked(kept), record)
        write_atomic(self.folder / f"{name}.json", json.dumps(keys).encode())

    def _write(
        self, name: str, job: Job, state: TrainState, midway: Midway, kept: TrainState,
        record: dict[str, Any],
    ) -> None:  # fmt: skip
        self.forget(name)  # it would be of the same step, or of an earlier one
        arrays = _Arrays(underway(job.plan, state, midway), kept)
        with Checkpoints(self.folder / name, counts="step") as checkpoints:
            checkpoints.save(int(state.step.max()), arrays, record, None)

    def restore(
        self, key: str, job: Job, like: TrainState
    ) -> tuple[RunUnderWay, TrainState, Midway] | None:
        """The run, if it was stopped and what was saved is whole; else it begins anew.

        Raises:
            ConfigError, DataError: it is of another recipe, other settings of jax or other data.
        """
        if (found := self._read(key, job, like)) is None:
            return None
        arrays, record = found
        state, midway = restored(job.plan, arrays.now, record)
        return RunUnderWay.of_record(job, record, arrays.kept), state, midway

    def stacks(self) -> list[list[str | None]]:
        """The keys of the runs that were side by side, of each stack that was saved."""
        found = []
        for path in sorted(self.folder.glob(f"{STACK}*.json")):
            with contextlib.suppress(FlaxcnnError):  # damaged: they begin anew
                found.append(read_json(path))
        return [keys for keys in found if _are_keys(keys)]

    def width(self, keys: set[str]) -> int | None:
        """How many of these runs were side by side as they were stopped; None: none is saved."""
        for stack in self.stacks():
            if set(stack) - {None} <= keys:
                return len(stack)
        return 1 if any((self.folder / key).is_dir() for key in keys) else None

    def restore_stack(
        self, job: Job, runs: Sequence[tuple[Job, str] | None], like: TrainState
    ) -> tuple[list[RunUnderWay | None], TrainState, Midway] | None:
        """The reverse of `save_stack`, or None: they begin anew.

        Raises:
            ConfigError, DataError: of another recipe, other settings of jax or other data.
        """
        keys = [run and run[1] for run in runs]
        if keys not in self.stacks():
            return None
        if (found := self._read(_name(keys), job, like)) is None:
            return None
        arrays, record = found
        state, midway = restored(job.plan, arrays.now, record)
        parts = [part(arrays.kept, i) for i in range(len(runs))]
        own = [
            RunUnderWay.of_record(run[0], said, kept) if run else None
            for run, said, kept in zip(runs, record["runs"], parts, strict=True)
        ]
        return own, state, midway

    def _read(self, name: str, job: Job, like: TrainState) -> tuple[_Arrays, dict[str, Any]] | None:
        if not (self.folder / name).is_dir():
            return None
        begun = Midway(before=like) if job.config.on_nonfinite == "rollback" else BEGINNING
        shapes = _Arrays(underway(job.plan, like, begun), like)
        try:
            with Checkpoints(self.folder / name, counts="step") as checkpoints:
                return checkpoints.restore_newest(shapes)
        except CheckpointError as error:
            log.warning("run %s begins anew: %s", name, error)
            return None

    def forget(self, name: str) -> None:
        """The run, or the stack, has ended, or goes on."""
        shutil.rmtree(self.folder / name, ignore_errors=True)

    def forget_all(self) -> None:
        """The study has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)


def stacked(trees: Sequence[Tree]) -> Tree:
    """Trees of equal shapes side by side: arrays [W, ...]."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def part(stack: Tree, index: int | jax.Array) -> Tree:
    """One of the trees that `stacked` put together."""
    return jax.tree.map(lambda x: x[index], stack)


def _are_keys(value: Any) -> bool:
    """Whether it names the runs of a stack: anybody may have made the file."""
    return (
        isinstance(value, list)
        and any(value)
        and all(key is None or isinstance(key, str) for key in value)
    )


def _name(keys: Sequence[str | None]) -> str:
    """Of a stack: a run is in one at a time."""
    return STACK + next(key for key in keys if key)
