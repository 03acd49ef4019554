"""The page of a study: what the seeds show."""

from __future__ import annotations

import json
import math
from typing import Any

from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.records.format import figure, label, value_text, variance_lines
from flaxcnn.records.read import StudyRecord
from flaxcnn.report import comparisons, curves
from flaxcnn.report.commands import of_study
from flaxcnn.report.comparisons import Point
from flaxcnn.report.grids import layout
from flaxcnn.report.page import Cell, Page, Section, Table, count, share
from flaxcnn.report.run import environment_table, flag, network, settings_table

MEASURED = "test_accuracy"
CHOSEN_BY = "val_accuracy"  # the best of several settings; never by the test rows
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
    return [one for one in record.summary["settings"] if one["metrics"]]


def rows_of(record: StudyRecord, setting: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs of a setting that are complete."""
    return [
        row
        for row in record.rows
        if (row["setting"], row["vary"]) == (setting["setting"], setting["vary"])
        and row["status"] == "complete"
    ]


def point(record: StudyRecord, setting: dict[str, Any], name: str = "") -> Point:
    """A setting's mean test accuracy, its interval over seeds and its parameters."""
    found = setting["metrics"][MEASURED]
    rows = rows_of(record, setting)
    interval = found["t_interval"]
    return Point(name or setting["label"] or "as it is", found["mean"],
                 None if interval is None else (interval[0], interval[1]),
                 rows[0]["params"] if rows else None)  # fmt: skip


def _head(record: StudyRecord) -> Page:
    summary, settings = record.summary, complete(record)
    text, doubtful = flag(
        {row["protocol"] for row in record.rows}, record.plan["config"].get("validation")
    )
    shown, meaning = "no run is complete", "No run of this study has ended well."
    if settings:
        best = max(settings, key=lambda one: float(one["metrics"][CHOSEN_BY]["mean"]))
        measured = best["metrics"][MEASURED]
        shown = figure(measured)
        meaning = (
            f"Test accuracy over {measured['n']} seeds: mean ± standard deviation [95 % interval "
            "of the mean, Student's t]. It says how well the mean over seeds is known, on these "
            "test rows."
        )
        if len(settings) > 1:
            meaning += (
                f" Of {len(settings)} settings the one with the highest validation accuracy: "
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
    summary, found = record.summary, []
    if (ended := len(record.rows)) < summary["planned"]:
        found.append(f"Only {ended} of {summary['planned']} runs have ended.")
    diverged = [row for row in record.rows if row["status"] == "diverged"]
    for row in diverged[:LISTED]:
        where = f" ({json.dumps(row['setting'])})" if row["setting"] else ""
        found.append(f"Seed {row['seed']}{where} diverged: {row.get('reason', 'no reason noted')}.")
    if len(diverged) > LISTED:
        found.append(f"{len(diverged) - LISTED} more runs diverged.")
    for one in summary["settings"]:
        what = f" of {one['label']}" if one["label"] else ""
        if one["dead"]:
            seeds = ", ".join(map(str, one["dead"]))
            found.append(f"Dead networks{what}: seeds {seeds}; they count in every mean.")
        if one["metrics"] and one["metrics"][MEASURED]["n"] < 2:
            found.append(f"One seed{what} has no interval; two or more do.")
    if record.recipe:
        found += [f"{text}." for text in record.recipe.warnings()]
    if str(record.environment.get("source_revision") or "").endswith("+"):
        found.append("The source was changed since its commit: the study has no exact source.")
    return found


def _seeds(page: Page, record: StudyRecord) -> Section:
    section = Section("seeds", "What the seeds show")
    settings = complete(record)
    points = [point(record, one) for one in settings]
    if settings:
        values = [{row["seed"]: row[MEASURED] for row in rows_of(record, one)} for one in settings]
        pairs = list(zip(points, values, strict=True))
        page.draw(section, "the seeds", comparisons.seed_distribution, pairs)
        one_source = not record.plan["vary"][1:]  # with more, a setting has several means
        if one_source and (grid := layout(_places(record))):
            page.draw(section, "the grid", comparisons.heat_map, *grid)
        if len({p.params for p in points}) > 1:
            page.draw(section, "accuracy and parameters", comparisons.against_parameters, points)
    header = ["setting", "runs", "test accuracy", "sd", "95 % interval", "validation accuracy",
              "lowest", "highest", "parameters", "diverged", "dead"]  # fmt: skip
    section.tables.append(
        Table("Each setting, over its seeds", header,
              [_setting_row(record, one) for one in record.summary["settings"]])
    )  # fmt: skip
    return section


def _setting_row(record: StudyRecord, setting: dict[str, Any]) -> list[Cell]:
    runs = Cell(f"{setting['complete']} of {setting['runs']}", setting["complete"])
    failed = [count(len(setting["diverged"])), count(len(setting["dead"]))]
    name = Cell(setting["label"] or "as it is")
    if not setting["metrics"]:
        return [name, runs, *(Cell("–") for _ in range(7)), *failed]
    test, chosen = setting["metrics"][MEASURED], setting["metrics"][CHOSEN_BY]
    interval = test["t_interval"]
    return [
        name, runs, share(test["mean"]), share(test["sd"]),
        Cell(f"[{interval[0]:.4f}, {interval[1]:.4f}]", interval[0]) if interval else Cell("–"),
        share(chosen["mean"]), share(test["min"]), share(test["max"]),
        count(point(record, setting).params), *failed,
    ]  # fmt: skip


def _places(record: StudyRecord) -> list[tuple[dict[str, str], float]]:
    """Each setting, as the texts of what the grid sets, and its mean; NaN: no run is complete."""
    return [
        ({name: value_text(one["setting"][name]) for name in record.plan["grid"]},
         one["metrics"][MEASURED]["mean"] if one["metrics"] else math.nan)
        for one in record.summary["settings"]
    ]  # fmt: skip


def histories_of(record: StudyRecord, setting: dict[str, Any]) -> list[list[dict[str, Any]]]:
    """The epochs of a setting's complete runs."""
    runs = [record.histories.get(row["run"], []) for row in rows_of(record, setting)]
    return [history for history in runs if history]


def _epochs(page: Page, record: StudyRecord) -> Section:
    section = Section("training", "Training", "Epochs after some seeds have stopped show the rest.")
    found = [(one["label"], histories_of(record, one)) for one in complete(record)]
    found = [(name or "as it is", histories) for name, histories in found if histories]
    if found:
        page.draw(section, "accuracy", curves.bands, found, "accuracy")
        page.draw(section, "loss", curves.bands, found, "loss")
    return section


def _variance(record: StudyRecord) -> list[Section]:
    tables = []
    for found in record.summary.get("variance", []):
        header, *lines = variance_lines(found)
        tables.append(Table(f"Sources of variance {found['setting']}".rstrip(), header,
                            [[Cell(text) for text in line] for line in lines]))  # fmt: skip
    return [Section("variance", "Where the spread comes from", tables=tables)]


def _runs(record: StudyRecord) -> Section:
    header = ["seed", "setting", "status", "test accuracy", "test loss", "validation accuracy",
              "kept epoch", "dead units", "fingerprint"]  # fmt: skip
    rows = []
    for row in record.rows:
        name = label(row["setting"], row["vary"])
        dead = "dead" if row.get("dead_layers") else row["status"]
        rows.append([
            count(row["seed"]), Cell(name or "as it is"), Cell(dead), share(row.get(MEASURED)),
            share(row.get("test_loss")), share(row.get(CHOSEN_BY)), count(row.get("kept_epoch")),
            count(row.get("dead_units")), Cell(str(row.get("fingerprint", "–"))),
        ])  # fmt: skip
    return Section("runs", "Every run", tables=[Table(f"{len(rows)} runs", header, rows)])


def _recipe(record: StudyRecord) -> Section:
    return Section("recipe", "Recipe", "plan.json holds recipe, seeds and grid in full.",
                   folded=[settings_table(record.plan["config"]),
                           environment_table(record.environment)])  # fmt: skip
