"""Recipes beside each other: the runs of each, and a name by what differs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flaxcnn.errors import CheckpointError
from flaxcnn.recipe.config import decisive
from flaxcnn.records.differing import settings_of, side_labels
from flaxcnn.records.format import EVERYTHING
from flaxcnn.records.intervals import student, wilson
from flaxcnn.records.read import SHARED, RunRecord, StudyRecord
from flaxcnn.records.views import CHOSEN_BY, MEASURED
from flaxcnn.reports.comparisons import Point


@dataclass
class Side:
    """Runs of one recipe on the same rows that differ in their seed, as in `flaxcnn compare`."""

    name: str  # of the experiment
    records: list[RunRecord | StudyRecord]
    settings: dict[str, Any]  # by dotted key
    varied: str  # source of randomness
    shared: dict[str, Any]
    label: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)  # of complete runs, by seed
    histories: list[list[dict[str, Any]]] = field(default_factory=list)
    predicted: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    failed: int = 0

    def values(self, metric: str = MEASURED) -> dict[int, float]:
        """Seed -> metric."""
        return {row["seed"]: row[metric] for row in self.rows if row.get(metric) is not None}

    def mean(self, metric: str = MEASURED) -> float:
        """Of the seeds; NaN without any."""
        values = list(self.values(metric).values())
        return float(np.mean(values)) if values else float("nan")

    @property
    def point(self) -> Point:
        """Its mean accuracy with an interval: over seeds, or of the test rows for a single one."""
        values = list(self.values().values())
        interval = student(values) if len(values) > 1 else None
        if len(values) == 1 and (rows := self.rows[0].get("test_rows")):
            interval = wilson(values[0], rows)
        return Point(self.label, self.mean(), interval, self.rows[0].get("params"))

    @property
    def seeds(self) -> list[int]:
        """Of the complete runs."""
        return [row["seed"] for row in self.rows]

    def recalls(self) -> np.ndarray | None:
        """Share of each class's test rows that are right, mean over runs [K]; None: not kept."""
        if not self.predicted:
            return None
        each = []
        for label, called in self.predicted:
            count = np.bincount(label, minlength=self.kinds)
            right = np.bincount(label[label == called], minlength=self.kinds)
            each.append(right / np.maximum(count, 1))
        return np.mean(each, axis=0)

    @property
    def kinds(self) -> int:
        """Number of classes."""
        return len(self.classes) or 1 + max(int(label.max()) for label, _ in self.predicted)


def sides_of(records: Sequence[RunRecord | StudyRecord]) -> list[Side]:
    """A side for each recipe in the records, in their order; those without a complete run too."""
    sides: dict[str, Side] = {}
    for record in records:
        if isinstance(record, RunRecord):
            side = _side(sides, record, record.config, {}, EVERYTHING, record.summary)
            if record.summary.get(MEASURED) is None:
                side.failed += 1
                continue
            side.rows.append(record.summary)
            side.histories.append(record.history)
            side.classes = list(record.data["classes"])
            _add_predictions(side, record)
            continue
        for row in record.rows:
            side = _side(sides, record, record.plan["config"], row["setting"], row["vary"], row)
            if row["status"] != "complete":
                side.failed += 1
                continue
            side.rows.append(row)
            side.histories.append(record.histories.get(row["run"], []))
            _add_predictions(side, record, row["run"])
    found = list(sides.values())
    labels = side_labels(
        [side.name for side in found], [side.settings for side in found],
        [side.varied for side in found], [side.records[0].path for side in found],
    )  # fmt: skip
    for side, label in zip(found, labels, strict=True):
        side.label = label
    return found


def _side(
    sides: dict[str, Side], record: RunRecord | StudyRecord, config: dict[str, Any],
    setting: dict[str, Any], varied: str, row: dict[str, Any],
) -> Side:  # fmt: skip
    shared = {key: row.get(key) for key in SHARED}
    recipe = {key: value for key, value in decisive(config).items() if key != "seed"}
    known = json.dumps([recipe, setting, varied, shared], sort_keys=True)
    if known not in sides:
        settings = settings_of(config, setting)
        sides[known] = Side(record.name, [], settings, varied, shared)
    if record not in sides[known].records:
        sides[known].records.append(record)
    return sides[known]


def _add_predictions(side: Side, record: RunRecord | StudyRecord, run: str = "") -> None:
    """The classes predicted for the test rows, where they were kept and can be read."""
    try:
        if isinstance(record, RunRecord):
            read = record.predictions()
            side.predicted.append((read.label, read.logits.argmax(axis=1)))
        else:
            side.predicted.append(record.predicted(run))
    except CheckpointError:
        return


def chosen(sides: Sequence[Side]) -> Side:
    """The one with the highest validation accuracy."""
    return max(sides, key=lambda side: side.mean(CHOSEN_BY))
