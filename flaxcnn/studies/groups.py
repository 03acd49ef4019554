"""Runs in groups that share compiled programs, and queues of them that threads share."""

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
            found.setdefault(rows_of(run.config), []).append(run)
        return list(found.values())


def rows_of(config: Config) -> tuple[Any, ...]:
    """What decides which rows a run uses."""
    return config.values(Role.ROWS | Role.HELD_OUT)


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
        if (own := rows_of(config)) not in rows:
            rows[own] = len(splits.choose(dataset, config).train)
        plan = make_plan(config, rows[own], devices=1)
        key = (plan, config.values(Role.PROGRAM))
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


class Share:
    """A group that the threads share: runs that are still to be started, `width` side by side."""

    def __init__(self, group: Group, width: int):
        self.plan, self.config, self.width = group.plan, group.runs[0].config, width
        parts = [list(group.runs)] if width == 1 else group.by_rows()
        self.queues = [Queue(deque(part)) for part in parts]
        self.at_work = 0  # threads

    @property
    def left(self) -> int:
        """Runs that nobody has started."""
        return sum(len(queue.runs) for queue in self.queues)


class Shares:
    """All groups; each thread asks for the next one when it has nothing to start any more."""

    def __init__(self, shares: Sequence[Share]):
        self.all = shares
        self.lock = threading.Lock()

    def take(self) -> Share | None:
        """The one that the fewest are at, of those the longest; None: everything has begun."""
        with self.lock:
            open_ones = [share for share in self.all if share.left]
            if not open_ones:
                return None
            chosen = min(open_ones, key=lambda share: (share.at_work, -share.left))
            chosen.at_work += 1
            return chosen

    def give_back(self, share: Share) -> None:
        """A thread has ended what it had started of it."""
        with self.lock:
            share.at_work -= 1

    def stop(self) -> None:
        """No further run is started."""
        for share in self.all:
            for queue in share.queues:
                queue.stop()
