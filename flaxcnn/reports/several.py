"""The page of several runs and studies, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flaxcnn.records.intervals import wilson
from flaxcnn.records.read import SHARED, RunRecord, StudyRecord
from flaxcnn.records.tables import Cell, Table, count, decimal, interval
from flaxcnn.records.views import CHOSEN_BY, protocol_note
from flaxcnn.reports import comparisons, curves, study
from flaxcnn.reports.commands import shell_path
from flaxcnn.reports.comparisons import Point
from flaxcnn.reports.page import Page, Section


@dataclass(frozen=True)
class Side:
    """A run, or a setting of a study."""

    point: Point
    seeds: int
    validation: float
    speed: float | None  # images per second, median of its runs
    histories: list[list[dict[str, Any]]]
    shared: dict[str, Any]
    where: str


def several_page(records: Sequence[RunRecord | StudyRecord]) -> Page:
    """All runs and settings found in the records, the highest validation accuracy first."""
    sides = [side for record in records for side in _sides(record)]
    sides.sort(key=lambda side: -side.validation)
    text, doubtful = protocol_note({side.shared["protocol"] for side in sides}, None)
    page = Page(
        title=f"{len(sides)} recipes side by side", figure="no run is complete", meaning="",
        flag=text, doubtful=doubtful, facts=[("Folders", str(len(records)))],
        warnings=_warnings(sides),
    )  # fmt: skip
    if sides:
        best = sides[0].point
        low, high = best.interval or (None, None)
        page.figure = f"{best.value:.4f}" + (f" [{low:.4f}, {high:.4f}]" if best.interval else "")
        page.meaning = (
            f"Test accuracy of {best.name}, which has the highest validation accuracy. Intervals "
            "are 95 %: over seeds for studies (Student's t), of the test rows for single runs "
            "(Wilson). Run `flaxcnn compare` to test whether a difference is more than chance."
        )
        page.sections += [_accuracy(page, sides), _training(page, sides)]
    paths = " ".join(shell_path(record.path) for record in records)
    page.sections.append(
        Section("again", "Reproduce", commands=[
            ("Test the differences:", f"flaxcnn compare {paths}"),
            ("Write this page again:", f"flaxcnn report {paths}"),
        ])
    )  # fmt: skip
    return page


def _sides(record: RunRecord | StudyRecord) -> list[Side]:
    if isinstance(record, StudyRecord):
        return [_setting(record, one) for one in study.complete(record)]
    summary = record.summary
    rows = summary.get("test_rows") or record.data["rows"]["test"]
    value = summary["test_accuracy"]
    own = Point(f"{record.name} seed {summary['seed']}", value, wilson(value, rows),
                summary["params"])  # fmt: skip
    shared = {key: summary.get(key) for key in SHARED}
    return [Side(own, 1, summary["val_accuracy"], summary.get("images_per_second"),
                 [record.history], shared, shell_path(record.path))]  # fmt: skip


def _setting(record: StudyRecord, setting: dict[str, Any]) -> Side:
    rows = record.rows_of(setting)
    name = " ".join(filter(None, (record.name, setting["label"], f"({len(rows)} seeds)")))
    speeds = sorted(row["images_per_second"] for row in rows if "images_per_second" in row)
    return Side(
        study.point(record, setting, name), len(rows),
        setting["metrics"][CHOSEN_BY]["mean"],
        speeds[len(speeds) // 2] if speeds else None, study.histories_of(record, setting),
        {key: rows[0].get(key) for key in SHARED} if rows else dict.fromkeys(SHARED),
        shell_path(record.path),
    )  # fmt: skip


def _warnings(sides: Sequence[Side]) -> list[str]:
    warnings = [
        f"They differ in {SHARED[key]}, which may explain a difference."
        for key in SHARED
        if len({side.shared[key] for side in sides}) > 1
    ]
    if any(side.seeds < 2 for side in sides):
        warnings.append("Some have only one seed, so how much they vary between seeds is unknown.")
    return warnings


def _accuracy(page: Page, sides: Sequence[Side]) -> Section:
    section = Section("accuracy", "Accuracy")
    points = [side.point for side in sides]
    page.draw(section, "accuracy and parameters", comparisons.against_parameters, points)
    rates = [(side.point.name, side.speed) for side in sides if side.speed]
    if rates:
        page.draw(section, "throughput", comparisons.throughput, rates)
    section.tables.append(
        Table(
            "All recipes, highest validation accuracy first",
            ["recipe", "seeds", "test accuracy", "95 % interval", "validation accuracy",
             "parameters", "images/s", "protocol", "folder"],
            [_row(side) for side in sides],
        )
    )  # fmt: skip
    return section


def _row(side: Side) -> list[Cell]:
    return [
        Cell(side.point.name), count(side.seeds), decimal(side.point.value),
        interval(side.point.interval), decimal(side.validation), count(side.point.params),
        decimal(side.speed, 0),
        Cell(str(side.shared["protocol"])), Cell(side.where),
    ]  # fmt: skip


def _training(page: Page, sides: Sequence[Side]) -> Section:
    section = Section("training", "Training")
    shown = [side for side in sides if side.histories and side.histories[0]]
    for metric in ("accuracy", "loss") if shown else ():
        if all(side.seeds == 1 for side in shown):
            runs = [(side.point.name, side.histories[0]) for side in shown]
            page.draw(section, metric, curves.overlay, runs, metric)
        else:
            bands = [(side.point.name, side.histories) for side in shown]
            page.draw(section, metric, curves.bands, bands, metric)
    return section
