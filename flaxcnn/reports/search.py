"""The page of a search: candidates in order, what the folds show, and the winner's test."""

from __future__ import annotations

from typing import Any

import numpy as np

from flaxcnn.records.format import figure, value_text
from flaxcnn.records.read import SearchRecord
from flaxcnn.records.tables import Cell, Table
from flaxcnn.records.views import (
    BEST_OF_SEVERAL,
    DOCUMENT_FOLDS,
    HONEST,
    candidates_table,
    dropped_heading,
    refit_note,
)
from flaxcnn.reports import comparisons
from flaxcnn.reports.commands import of_search
from flaxcnn.reports.comparisons import Point
from flaxcnn.reports.grids import layout
from flaxcnn.reports.page import Page, Section
from flaxcnn.reports.recipes import environment_table, settings_table

SPLIT = "held-out"  # what accuracies are taken on
MOST_OF_A_LABEL = 48  # letters of one in a picture


def search_page(record: SearchRecord) -> Page:
    """Everything a search's records say."""
    page = _head(record)
    page.sections.append(candidates(page, record))
    if dropped := record.summary["dropped"]:
        rows = [[Cell(each["label"]), Cell(each["reason"])] for each in dropped]
        table = Table(f"{len(dropped)} candidates", ["candidate", "reason"], rows)
        page.sections.append(Section("dropped", dropped_heading(record.summary), tables=[table]))
    page.sections.append(_recipe(record))
    commands = of_search(
        record.path, record.plan["experiment"], record.plan,
        record.environment.get("source_revision"), "refit" in record.summary,
    )  # fmt: skip
    page.sections.append(Section("again", "Reproduce", commands=commands))
    return page


def search_brief(record: SearchRecord) -> Page:
    """What a notebook shows of it."""
    page = _head(record)
    page.sections.append(candidates(page, record))
    return page


def _head(record: SearchRecord) -> Page:
    summary = record.summary
    document = summary["protocol"] == "document"
    best = next((row for row in summary["candidates"] if row["label"] == summary["winner"]), None)
    shown, meaning = "no winner", "Every candidate has a training that diverged."
    if best is not None:
        ends = None if best["low"] is None else (best["low"], best["high"])
        shown = figure(best["mean"], None, ends)
        meaning = (
            f"Accuracy of “{best['label']}” on the folds it was not trained on: mean and 95 % "
            "interval, which allows for folds sharing their training rows (Nadeau and Bengio "
            f"2003). {BEST_OF_SEVERAL}"
        )
    facts = [
        ("Candidates", str(len(summary["candidates"]))),
        ("Folds", f"{summary['folds']}, dealt {_times(summary['repeats'])}"),
        ("Seeds", str(len(summary["seeds"]))),
        ("Trainings", f"{summary['trained']} for {summary['planned']} runs"),
    ]
    if "sampler" in summary:
        drawn = f"{summary['trials']} by {summary['sampler']}, pruner {summary['pruner']}"
        facts.insert(1, ("Drawn", drawn))
    if refit := summary.get("refit"):
        facts.append(("Winner on the test rows", f"{refit['test_accuracy']:.4f}"))
    return Page(
        title=f"Search of {record.name}",
        figure=shown,
        meaning=meaning,
        flag=DOCUMENT_FOLDS if document else HONEST,
        doubtful=document,
        facts=facts,
        warnings=_warnings(summary),
    )


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _warnings(summary: dict[str, Any]) -> list[str]:
    return [
        *([refit_note(summary)] if "refit_diverged" in summary else []),
        *(f"{row['label']}: {row['diverged']} trainings diverged; it cannot win."
        for row in summary["candidates"]
        if row["diverged"]),
    ]  # fmt: skip


def candidates(page: Page, record: SearchRecord) -> Section:
    """The scores of all candidates: pictures and a table."""
    section = Section("candidates", "Candidates")
    scored = [row for row in record.summary["candidates"] if row["mean"] is not None]
    points = [_point(row) for row in scored]
    if points:
        pairs = [(point, _by_fold(row)) for point, row in zip(points, scored, strict=True)]
        page.draw(section, "the folds", comparisons.seed_distribution, pairs, SPLIT, "fold")
        if "sampler" not in record.summary:  # drawn points make no grid
            position = [one["label"] for one in record.plan["candidates"]].index
            rows = sorted(scored, key=lambda row: position(row["label"]))
            places = _places(rows, record.plan["candidates"][0]["config"])
            if grid := layout(places):
                page.draw(section, "the grid", comparisons.heat_map, *grid, SPLIT)
        if len({point.params for point in points}) > 1:
            page.draw(section, "accuracy and parameters", comparisons.against_parameters, points,
                      SPLIT)  # fmt: skip
    section.tables.append(candidates_table(record.summary))
    return section


def _point(row: dict[str, Any]) -> Point:
    interval = None if row["low"] is None else (row["low"], row["high"])
    return Point(_name(row), row["mean"], interval, row["params"])


def _name(row: dict[str, Any]) -> str:
    """The label, or only its values if it is too long for a picture."""
    if len(row["label"]) <= MOST_OF_A_LABEL:
        return str(row["label"])
    return ", ".join(value_text(value) for _, value in _settings(row))


def _settings(row: dict[str, Any]) -> list[tuple[str, Any]]:
    prefix = "setting."
    return [(key.removeprefix(prefix), value) for key, value in row.items()
            if key.startswith(prefix)]  # fmt: skip


def _by_fold(row: dict[str, Any]) -> dict[int, float]:
    """Mean over seeds of every fold of every repeat, numbered."""
    return {number: float(np.mean(one["values"])) for number, one in enumerate(row["scores"])}


def _places(rows: list[dict[str, Any]], base: dict[str, Any]) -> list[tuple[dict[str, str], float]]:
    """Each candidate of the grid, as the texts of its settings, and its mean.

    `base` is the recipe of a candidate without settings; it is in the grid by its values.
    """
    means = [({name: value_text(value) for name, value in _settings(row)}, row["mean"])
             for row in rows]  # fmt: skip
    means = [(settings, mean) for settings, mean in means if "incumbent" not in settings]
    points = [(settings, mean) for settings, mean in means if settings]
    names = {name for settings, _ in points for name in settings}
    as_it_is = {name: _value(base, name) for name in names}
    if all(any(one.get(name) == as_it_is[name] for one, _ in points) for name in names):
        points += [(as_it_is, mean) for settings, mean in means if not settings]
    return points


def _value(config: dict[str, Any], key: str) -> str:
    """The text of `layers.4.rate`, or of the kind of an optimizer; empty: no such setting."""
    value: Any = config
    for part in key.split("."):
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            return ""
    return value_text(value.get("type", value) if isinstance(value, dict) else value)


def _recipe(record: SearchRecord) -> Section:
    first = record.plan["candidates"][0]
    return Section(
        "recipe", "Recipe", "plan.json holds every candidate in full.",
        folded=[settings_table(first["config"]), environment_table(record.environment)],
    )  # fmt: skip
