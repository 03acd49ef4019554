"""The page of a study: what the seeds show."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from typing import Any

from flaxcnn.errors import FlaxcnnError
from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.records.format import UNCHANGED, count_text, label, value_text
from flaxcnn.records.intervals import clipped
from flaxcnn.records.read import StudyRecord
from flaxcnn.records.tables import MISSING, Cell, Table, count, decimal
from flaxcnn.records.views import (
    CHOSEN_BY,
    MEASURED,
    protocol_note,
    seeds_table,
    variance_table,
)
from flaxcnn.reports import comparisons, curves, words
from flaxcnn.reports.commands import of_study, shell_path
from flaxcnn.reports.comparisons import Point
from flaxcnn.reports.grids import layout
from flaxcnn.reports.page import Block, Facts, Page, Section
from flaxcnn.reports.recipes import (
    environment_table,
    foremost,
    network,
    recipe_warnings,
    settings_table,
    source_trust,
    where_it_ran,
)

LISTED = 5  # runs that a warning names
SHOWN = 16  # runs whose table is not folded
Bands = list[tuple[str, list[list[dict[str, Any]]]]]  # name and histories of each setting


def study_page(record: StudyRecord) -> Page:
    """Everything a study's records say."""
    page = _head(record)
    bands, seeds = _bands(record)
    if bands:
        page.lead = page.drawn("accuracy", curves.bands, bands, "accuracy", seeds)
    page.sections += [_seeds(page, record, bands, seeds), *_variance(record)]
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
    page.sections.append(_seeds(page, record, [], []))
    return page


def complete(record: StudyRecord) -> list[dict[str, Any]]:
    """The settings that have figures."""
    return [setting for setting in record.summary["settings"] if setting["metrics"]]


def point(record: StudyRecord, setting: dict[str, Any], name: str = "") -> Point:
    """A setting's mean test accuracy, its interval over seeds and its parameters."""
    metric = setting["metrics"][MEASURED]
    rows = record.rows_of(setting)
    interval = metric["t_interval"]
    return Point(name or setting["label"] or _unlabelled(record), metric["mean"],
                 None if interval is None else (interval[0], interval[1]),
                 rows[0]["params"] if rows else None)  # fmt: skip


def _unlabelled(record: StudyRecord) -> str:
    """What a picture calls the setting without a label: alone, by the recipe's name."""
    return record.name if len(record.summary["settings"]) == 1 else UNCHANGED


def _head(record: StudyRecord) -> Page:
    settings = complete(record)
    text, doubtful = protocol_note(
        {row["protocol"] for row in record.rows}, record.plan["config"].get("validation")
    )
    page = Page(
        title=f"Study of {record.name}, {count_text(len(record.plan['seeds']), 'seed')}",
        figure="no run is complete", meaning="No run of this study is complete.", flag=text,
        doubtful=doubtful, facts=_facts(record), trust=_trust(record),
    )  # fmt: skip
    if settings:
        _headline(page, record, settings)
    if record.recipe is not None and (data := _data_of(record)):
        train_rows = next((row["train_rows"] for row in record.rows if "train_rows" in row), None)
        with contextlib.suppress(FlaxcnnError):  # the section on the network says why
            page.words = words.recipe_text(record.recipe, *data, train_rows)
            page.words += " " + _varied(record)
    _notices(page, record)
    return page


def _headline(page: Page, record: StudyRecord, settings: list[dict[str, Any]]) -> None:
    """The figure of the best setting, and what it is compared with."""
    best = max(settings, key=lambda setting: float(setting["metrics"][CHOSEN_BY]["mean"]))
    measured, chosen = best["metrics"][MEASURED], best["metrics"][CHOSEN_BY]
    mean, reach = measured["mean"], measured["t_interval"]
    page.label = f"Test accuracy, mean of {count_text(measured['n'], 'seed')}"
    page.figure = words.percent(mean)
    page.interval, interval = [], None
    if reach:
        interval = clipped(reach)
        page.interval = [f"± {100 * measured['sd']:.2f} (standard deviation),",
                         words.interval_words(*reach), "of the mean"]  # fmt: skip
    figures: list[words.Figure] = [("Mean", mean, "test", interval)]
    if measured["n"] > 1:
        figures += [("Lowest seed", measured["min"], "test", None),
                    ("Highest seed", measured["max"], "test", None)]  # fmt: skip
    meaning = "The interval (Student's t) says how well the mean over seeds is known, on these "
    meaning += "test images."
    if document := words.reported(record.summary["experiment"] or ""):
        figures.append(("Document", document[0], "ink", None))
        meaning = f"{words.against_document(mean, interval, document)} {meaning}"
    figures.append(("Validation, mean", chosen["mean"], "validation", None))
    if len(settings) > 1:
        meaning = (
            f"The best of {len(settings)} settings by validation accuracy: `{best['label']}`. "
            f"{meaning}"
        )
    page.meaning, page.versus = meaning, words.versus(figures)


def _facts(record: StudyRecord) -> list[tuple[str, str]]:
    summary = record.summary
    facts = [("Runs complete", _complete(record))]
    if len(summary["settings"]) > 1:
        facts.append(("Settings", str(len(summary["settings"]))))
    params = sorted({row["params"] for row in record.rows if "params" in row})
    if params:
        facts.append(("Parameters", " to ".join(f"{n:,}" for n in {params[0]: 0, params[-1]: 0})))
    facts.append(("Device", str(record.environment.get("device"))))
    return facts


def _complete(record: StudyRecord) -> str:
    return f"{record.summary['complete']} of {record.summary['planned']}"


def _trust(record: StudyRecord) -> list[tuple[str, str]]:
    """What speaks for the figures, and what is not known."""
    summary = record.summary
    whole = summary["complete"] == summary["planned"]
    return [
        source_trust(record),
        ("yes" if whole else "no", f"{_complete(record)} runs complete"),
        ("yes", f"`flaxcnn reproduce {shell_path(record.path)}` trains every run again and "
         "compares every bit"),
        ("open", "All seeds share their test images; `flaxcnn compare` tests a difference"),
    ]  # fmt: skip


def _data_of(record: StudyRecord) -> tuple[Sequence[int], int] | None:
    facts = KNOWN_DATA.get(str(record.plan["config"]["dataset"]))
    return (facts.shape, facts.classes) if facts else None


def _varied(record: StudyRecord) -> str:
    """What differs between the runs."""
    seeds = count_text(len(record.plan["seeds"]), "seed")
    varies = ", ".join(record.plan["vary"]) or "everything random"
    text = f"Trained with {seeds}, which vary {varies}"
    if record.plan["grid"]:
        keys = ", ".join(f"`{key}`" for key in record.plan["grid"])
        text += f", for each of {len(record.summary['settings'])} settings of {keys}"
    return f"{text}."


def _notices(page: Page, record: StudyRecord) -> None:
    summary = record.summary
    if (ended := len(record.rows)) < summary["planned"]:
        page.problems.append(
            f"Only {ended} of {summary['planned']} runs have ended; `flaxcnn study ... --resume` "
            "finishes them."
        )
    diverged = [row for row in record.rows if row["status"] == "diverged"]
    for row in diverged[:LISTED]:
        where = f" ({json.dumps(row['setting'])})" if row["setting"] else ""
        page.problems.append(
            f"Seed {row['seed']}{where} diverged: {row.get('reason', 'no reason noted')}."
        )
    if len(diverged) > LISTED:
        page.problems.append(f"{len(diverged) - LISTED} more runs diverged.")
    for setting in summary["settings"]:
        what = f" of {setting['label']}" if setting["label"] else ""
        if setting["dead"]:
            seeds = ", ".join(map(str, setting["dead"]))
            page.problems.append(f"Dead networks{what}: seeds {seeds}; they count in every mean.")
        if setting["metrics"] and setting["metrics"][MEASURED]["n"] < 2:
            page.warnings.append(f"One seed{what} gives no interval; two or more do.")
    page.warnings += recipe_warnings(record)


def _seeds(page: Page, record: StudyRecord, bands: Bands, seeds: list[list[int]]) -> Section:
    section = Section("seeds", "What the seeds show")
    settings = complete(record)
    points = [point(record, setting) for setting in settings]
    if bands:
        alone = len(settings) == 1
        page.draw(section, "loss", curves.bands, bands, "loss", seeds, span=7 if alone else 12)
    if settings:
        values = [
            {row["seed"]: row[MEASURED] for row in record.rows_of(setting)} for setting in settings
        ]
        pairs = list(zip(points, values, strict=True))
        picture = page.drawn("the seeds", comparisons.seed_distribution, pairs)
        if picture and bands and len(settings) == 1:
            section.add([picture, _spread(settings[0])], 5)
        elif picture:
            section.pictures.append(picture)
        one_source = not record.plan["vary"][1:]  # with more, a setting has several means
        if one_source and (grid := layout(_places(record))):
            page.draw(section, "the grid", comparisons.heat_map, *grid)
        if len({p.params for p in points}) > 1:
            page.draw(section, "accuracy and parameters", comparisons.against_parameters, points)
    if len(settings) != 1 or not bands:
        section.tables.append(seeds_table(record.summary, record.rows))
    return section


def _spread(setting: dict[str, Any]) -> Facts:
    """What a study of one setting has beside its headline."""
    metrics = setting["metrics"]
    test, validation = metrics[MEASURED], metrics[CHOSEN_BY]
    spread = "" if validation["sd"] is None else f" ± {100 * validation['sd']:.2f}"
    return Facts("Over the seeds", [
        ("Test accuracy, from lowest to highest",
         f"{100 * test['min']:.2f} to {words.percent(test['max'])}"),
        ("Validation accuracy, mean ± sd", f"{100 * validation['mean']:.2f}{spread} %"),
        ("Diverged", count_text(len(setting["diverged"]), "run")),
        ("Dead networks", count_text(len(setting["dead"]), "run")),
    ])  # fmt: skip


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


def _bands(record: StudyRecord) -> tuple[Bands, list[list[int]]]:
    """The epochs of each setting's runs, and the seeds of these runs."""
    bands: Bands = []
    seeds = []
    for setting in complete(record):
        if histories := histories_of(record, setting):
            bands.append((setting["label"] or _unlabelled(record), histories))
            rows = record.rows_of(setting)
            seeds.append([row["seed"] for row in rows if record.histories.get(row["run"])])
    return bands, seeds


def _variance(record: StudyRecord) -> list[Section]:
    tables = [variance_table(each) for each in record.summary.get("variance", [])]
    return [Section("variance", "Where the spread comes from", tables=tables)]


def _runs(record: StudyRecord) -> Section:
    several = len(record.summary["settings"]) > 1
    header = ["seed", "status", "test accuracy", "test loss", "validation accuracy", "kept epoch",
              "dead units", "fingerprint"]  # fmt: skip
    rows = []
    for row in record.rows:
        dead = "dead" if row.get("dead_layers") else row["status"]
        cells = [
            count(row["seed"]), Cell(dead), _percent(row.get(MEASURED)),
            decimal(row.get("test_loss")), _percent(row.get(CHOSEN_BY)),
            count(row.get("kept_epoch")), count(row.get("dead_units")),
            Cell(f"`{row.get('fingerprint', MISSING)}`"),
        ]  # fmt: skip
        if several:
            cells.insert(1, Cell(label(row["setting"], row["vary"]) or UNCHANGED))
        rows.append(cells)
    if several:
        header.insert(1, "setting")
    table = Table(count_text(len(rows), "run"), header, rows)
    shown, folded = ([table], []) if len(rows) <= SHOWN else ([], [table])
    return Section("runs", "Every run", tables=shown, folded=folded)


def _percent(share: float | None) -> Cell:
    return decimal(share) if share is None else Cell(words.percent(share), share)


def _recipe(record: StudyRecord) -> Section:
    settings = settings_table(record.plan["config"])
    ran = where_it_ran(record.environment, record.recipe.fingerprint() if record.recipe else "")
    return Section("recipe", "Recipe", "`plan.json` holds recipe, seeds and grid in full.",
                   blocks=[Block(foremost(settings), 7), Block(ran, 5)],
                   folded=[settings, environment_table(record.environment)])  # fmt: skip
