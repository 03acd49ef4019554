"""The page of a study: what the seeds show."""

from __future__ import annotations

import json
import math
from typing import Any

from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.records.format import AS_IT_IS, label, value_text
from flaxcnn.records.read import StudyRecord
from flaxcnn.records.tables import MISSING, Cell, Table, count, decimal
from flaxcnn.records.views import (
    CHOSEN_BY,
    MEASURED,
    figure_cell,
    protocol_note,
    seeds_table,
    variance_table,
)
from flaxcnn.reports import comparisons, curves
from flaxcnn.reports.commands import of_study
from flaxcnn.reports.comparisons import Point
from flaxcnn.reports.grids import layout
from flaxcnn.reports.page import Page, Section
from flaxcnn.reports.run import environment_table, network, recipe_warnings, settings_table

LISTED = 5  # runs that a warning names


def study_page(record: StudyRecord) -> Page:
    """Everything a study's records say."""
    page = _head(record)
    page.sections += [_seeds(page, record), _epochs(page, record), *_variance(record)]
    page.sections.append(_runs(record))
    if facts := KNOWN_DATA.get(str(record.plan["config"]["dataset"])):
        page.sections.append(network(page, record.recipe, facts.shape, facts.classes))
    page.sections.append(_recipe(record))
    revision = record.environment.get("source_revision")
    lines = of_study(
        record.path, record.summary["experiment"], record.plan, record.recipe, revision
    )
    page.sections.append(Section("again", "Reproduce", commands=lines))
    return page


def study_brief(record: StudyRecord) -> Page:
    """What a notebook shows of it."""
    page = _head(record)
    page.sections.append(_seeds(page, record))
    return page


def complete(record: StudyRecord) -> list[dict[str, Any]]:
    """The settings that have figures."""
    return [setting for setting in record.summary["settings"] if setting["metrics"]]


def point(record: StudyRecord, setting: dict[str, Any], name: str = "") -> Point:
    """A setting's mean test accuracy, its interval over seeds and its parameters."""
    metric = setting["metrics"][MEASURED]
    rows = record.rows_of(setting)
    interval = metric["t_interval"]
    return Point(name or setting["label"] or AS_IT_IS, metric["mean"],
                 None if interval is None else (interval[0], interval[1]),
                 rows[0]["params"] if rows else None)  # fmt: skip


def _head(record: StudyRecord) -> Page:
    summary, settings = record.summary, complete(record)
    text, doubtful = protocol_note(
        {row["protocol"] for row in record.rows}, record.plan["config"].get("validation")
    )
    shown, meaning = "no run is complete", "No run of this study is complete."
    if settings:
        best = max(settings, key=lambda setting: float(setting["metrics"][CHOSEN_BY]["mean"]))
        measured = best["metrics"][MEASURED]
        shown = figure_cell(measured).text
        meaning = (
            f"Test accuracy over {measured['n']} seeds: mean ± standard deviation [95 % interval "
            "of the mean, Student's t]. It says how well the mean over seeds is known, on these "
            "test rows."
        )
        if len(settings) > 1:
            meaning += (
                f" It is the best of {len(settings)} settings by validation accuracy: "
                f"{best['label']}."
            )
    return Page(
        title=f"Study of {record.name}, {len(record.plan['seeds'])} seeds", figure=shown,
        meaning=meaning, flag=text, doubtful=doubtful, warnings=_warnings(record),
        facts=[
            ("Runs complete", f"{summary['complete']} of {summary['planned']}"),
            ("Settings", str(len(summary["settings"]))),
            ("Data", str(record.plan["config"]["dataset"])),
            ("Determinism", str(record.plan["config"].get("determinism"))),
            ("Device", str(record.environment.get("device"))),
            ("Fingerprint", record.recipe.fingerprint() if record.recipe else "–"),
        ],
    )  # fmt: skip


def _warnings(record: StudyRecord) -> list[str]:
    summary, warnings = record.summary, []
    if (ended := len(record.rows)) < summary["planned"]:
        warnings.append(f"Only {ended} of {summary['planned']} runs have ended.")
    diverged = [row for row in record.rows if row["status"] == "diverged"]
    for row in diverged[:LISTED]:
        where = f" ({json.dumps(row['setting'])})" if row["setting"] else ""
        warnings.append(
            f"Seed {row['seed']}{where} diverged: {row.get('reason', 'no reason noted')}."
        )
    if len(diverged) > LISTED:
        warnings.append(f"{len(diverged) - LISTED} more runs diverged.")
    for setting in summary["settings"]:
        what = f" of {setting['label']}" if setting["label"] else ""
        if setting["dead"]:
            seeds = ", ".join(map(str, setting["dead"]))
            warnings.append(f"Dead networks{what}: seeds {seeds}; they count in every mean.")
        if setting["metrics"] and setting["metrics"][MEASURED]["n"] < 2:
            warnings.append(f"One seed{what} gives no interval; two or more do.")
    return warnings + recipe_warnings(record)


def _seeds(page: Page, record: StudyRecord) -> Section:
    section = Section("seeds", "What the seeds show")
    settings = complete(record)
    points = [point(record, setting) for setting in settings]
    if settings:
        values = [
            {row["seed"]: row[MEASURED] for row in record.rows_of(setting)} for setting in settings
        ]
        pairs = list(zip(points, values, strict=True))
        page.draw(section, "the seeds", comparisons.seed_distribution, pairs)
        one_source = not record.plan["vary"][1:]  # with more, a setting has several means
        if one_source and (grid := layout(_places(record))):
            page.draw(section, "the grid", comparisons.heat_map, *grid)
        if len({p.params for p in points}) > 1:
            page.draw(section, "accuracy and parameters", comparisons.against_parameters, points)
    section.tables.append(seeds_table(record.summary, record.rows))
    return section


def _places(record: StudyRecord) -> list[tuple[dict[str, str], float]]:
    """The grid's values of each setting as text, and its mean; NaN: no run is complete."""
    return [
        ({name: value_text(setting["setting"][name]) for name in record.plan["grid"]},
         setting["metrics"][MEASURED]["mean"] if setting["metrics"] else math.nan)
        for setting in record.summary["settings"]
    ]  # fmt: skip


def histories_of(record: StudyRecord, setting: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The epochs of a setting's complete runs."""
    runs = [record.histories.get(row["run"], []) for row in record.rows_of(setting)]
    return [history for history in runs if history]


def _epochs(page: Page, record: StudyRecord) -> Section:
    section = Section("training", "Training", "Epochs after some seeds have stopped show the rest.")
    bands, seeds = [], []
    for setting in complete(record):
        if histories := histories_of(record, setting):
            bands.append((setting["label"] or AS_IT_IS, histories))
            rows = record.rows_of(setting)
            seeds.append([row["seed"] for row in rows if record.histories.get(row["run"])])
    if bands:
        page.draw(section, "accuracy", curves.bands, bands, "accuracy", seeds)
        page.draw(section, "loss", curves.bands, bands, "loss", seeds)
    return section


def _variance(record: StudyRecord) -> list[Section]:
    tables = [variance_table(each) for each in record.summary.get("variance", [])]
    return [Section("variance", "Where the spread comes from", tables=tables)]


def _runs(record: StudyRecord) -> Section:
    header = ["seed", "setting", "status", "test accuracy", "test loss", "validation accuracy",
              "kept epoch", "dead units", "fingerprint"]  # fmt: skip
    rows = []
    for row in record.rows:
        name = label(row["setting"], row["vary"])
        dead = "dead" if row.get("dead_layers") else row["status"]
        rows.append([
            count(row["seed"]), Cell(name or AS_IT_IS), Cell(dead), decimal(row.get(MEASURED)),
            decimal(row.get("test_loss")), decimal(row.get(CHOSEN_BY)),
            count(row.get("kept_epoch")), count(row.get("dead_units")),
            Cell(str(row.get("fingerprint", MISSING))),
        ])  # fmt: skip
    return Section("runs", "Every run", tables=[Table(f"{len(rows)} runs", header, rows)])


def _recipe(record: StudyRecord) -> Section:
    return Section("recipe", "Recipe", "plan.json holds recipe, seeds and grid in full.",
                   folded=[settings_table(record.plan["config"]),
                           environment_table(record.environment)])  # fmt: skip
