"""Runs in groups that share compiled programs, and how threads share the groups."""

from __future__ import annotations

import dataclasses
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flaxcnn.data import splits
from flaxcnn.data.arrays import Dataset
from flaxcnn.engine.job import make_plan
from flaxcnn.engine.step import Plan
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.fields import Role
from flaxcnn.studies.plan import PlannedRun


@dataclass(frozen=True)
class Group:
    """Runs that share a compiled program; their rows may differ, but not how many there are."""

    plan: Plan
    runs: tuple[PlannedRun, ...]

    def without(self, ended: set[str]) -> Group:
        """Without the runs that need no training, since `ended` has all of their keys."""
        return dataclasses.replace(
            self, runs=tuple(run for run in self.runs if not run.keys <= ended)
        )

    def by_rows(self) -> list[list[PlannedRun]]:
        """The runs that have the same rows, which can be stacked."""
        groups: dict[Any, list[PlannedRun]] = {}
        for run in self.runs:
            groups.setdefault(rows_of(run.config), []).append(run)
        return list(groups.values())


def rows_of(config: Config) -> tuple[Any, ...]:
    """What decides which rows a run uses."""
    return config.values(Role.ROWS | Role.HELD_OUT)


def grouped(runs: Sequence[PlannedRun], dataset: Dataset) -> list[Group]:
    """The runs by what is compiled in and by how pixels are scaled, in their order.

    Raises:
        ConfigError, DataError: a recipe does not fit the data.
    """
    groups: dict[Any, list[PlannedRun]] = {}
    rows: dict[Any, int] = {}
    for run in runs:
        config = run.config
        config.check_on(dataset.shape, dataset.num_classes)
        if (own := rows_of(config)) not in rows:
            rows[own] = len(splits.choose(dataset, config).train)
        plan = make_plan(config, rows[own], devices=1)
        key = (plan, config.values(Role.PROGRAM))
        groups.setdefault(key, []).append(run)
    return [Group(key[0], tuple(members)) for key, members in groups.items()]


@dataclass
class Queue:
    """Runs that are still to be started; shared by the threads."""

    runs: deque[PlannedRun]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> PlannedRun | None:
        """The next run, or None."""
        with self.lock:
            return self.runs.popleft() if self.runs else None

    def take_all(self, keys: Sequence[str]) -> list[PlannedRun]:
        """The runs of these keys, in their order; none, unless all are still to be started."""
        with self.lock:
            known = {run.key: run for run in self.runs}
            if not set(keys) <= set(known):
                return []
            chosen = [known[key] for key in keys]
            for run in chosen:
                self.runs.remove(run)
            return chosen

    def clear(self) -> None:
        """Start no further run."""
        with self.lock:
            self.runs.clear()


class GroupQueue:
    """The runs of a group that are still to be started, `width` side by side in a job."""

    def __init__(self, group: Group, width: int):
        self.plan, self.config, self.width = group.plan, group.runs[0].config, width
        parts = [list(group.runs)] if width == 1 else group.by_rows()
        self.queues = [Queue(deque(part)) for part in parts]
        self.threads = 0  # at work on it

    @property
    def left(self) -> int:
        """How many runs have not been started."""
        return sum(len(queue.runs) for queue in self.queues)


class Scheduler:
    """Gives each thread a group; it asks again when that group has no more runs to start."""

    def __init__(self, groups: Sequence[GroupQueue]):
        self.groups = groups
        self.lock = threading.Lock()

    def take(self) -> GroupQueue | None:
        """The group with the fewest threads, then the most runs; None: every run has started."""
        with self.lock:
            waiting = [group for group in self.groups if group.left]
            if not waiting:
                return None
            chosen = min(waiting, key=lambda group: (group.threads, -group.left))
            chosen.threads += 1
            return chosen

    def release(self, group: GroupQueue) -> None:
        """The runs that a thread started of the group have ended."""
        with self.lock:
            group.threads -= 1

    def stop(self) -> None:
        """Start no further run."""
        for group in self.groups:
            for queue in group.queues:
                queue.clear()
