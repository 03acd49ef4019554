"""The page of a search: candidates in order, what the folds show, and the winner's test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxcnn.records.format import candidate_label, value_text
from flaxcnn.records.read import SearchRecord
from flaxcnn.records.tables import MISSING, Cell, Table, count
from flaxcnn.records.views import (
    BEST_OF_SEVERAL,
    DOCUMENT_FOLDS,
    HONEST,
    candidates_table,
    dropped_heading,
    refit_note,
    scoring_text,
)
from flaxcnn.reports import comparisons, trials, words
from flaxcnn.reports.commands import of_search
from flaxcnn.reports.comparisons import Point
from flaxcnn.reports.grids import layout
from flaxcnn.reports.page import Page, Section
from flaxcnn.reports.recipes import environment_table, settings_table
from flaxcnn.reports.style import Picture
from flaxcnn.reports.trials import Trial

SPLIT = "held-out"  # what accuracies are taken on
MOST_OF_A_LABEL = 60  # letters of one in a picture
MOST_COLUMNS = 8  # settings in a table
SHOWN = 6  # candidates whose folds are drawn, the best
LEADS = ("parallel", "grid", "seeds")  # pictures, one of which goes beside the headline
FANOVA = "Importances by Optuna (fANOVA over all trials)"
MAIN_EFFECTS = "Share of the variance of scores that the means over a setting's values explain"


def search_page(record: SearchRecord) -> Page:
    """Everything a search's records say."""
    page = _head(record)
    section = candidates(page, record)
    page.lead = next((p for p in section.pictures if p.name in LEADS), None)
    section.pictures = _paired([p for p in section.pictures if p is not page.lead])
    page.sections.append(section)
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


def _paired(pictures: Sequence[Picture]) -> list[Picture]:
    """Two stand side by side: beside each the one of the others whose height is nearest."""
    left, paired = list(pictures), []
    while left:
        first = left.pop(0)
        paired.append(first)
        if left:
            paired.append(min(left, key=lambda other: abs(_height(other) - _height(first))))
            left.remove(paired[-1])
    return paired


def _height(picture: Picture) -> float:
    return float(picture.figure.get_size_inches()[1])


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
    reach: list[str] = []
    if best is not None:
        shown = words.percent(best["mean"])
        if best["low"] is not None:
            reach = [words.interval_words(best["low"], best["high"])]
        meaning = (
            f"`{best['label']}` has the highest accuracy on the folds it was not trained on. The "
            "interval allows for folds sharing their training rows (Nadeau and Bengio 2003)."
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
        facts.append(("Winner on the test rows", words.percent(refit["test_accuracy"])))
    return Page(
        title=f"Search of {record.name}",
        label="Accuracy on held-out folds, of the winner",
        figure=shown,
        interval=reach,
        meaning=meaning,
        flag=DOCUMENT_FOLDS if document else HONEST,
        doubtful=document,
        facts=facts,
        trust=_trust(summary),
        warnings=_warnings(summary),
    )


def _trust(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """What speaks for the winner, and what is not known."""
    trust = [
        ("yes", f"Each was scored on rows that it was not trained on: {scoring_text(summary)}"),
        ("yes", f"p values are corrected for {len(summary['candidates']) - 1} candidates (Holm)"),
    ]
    if "refit" in summary:
        trust.append(("yes", "The winner was trained once more, and tested once on the test rows"))
    return [*trust, ("open", BEST_OF_SEVERAL.rstrip("."))]


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
    if scored:
        _scores(page, section, record, scored)
        best = scored[:SHOWN]
        pairs = [(_point(row), _by_fold(row)) for row in best]
        page.draw(section, "the folds", comparisons.seed_distribution, pairs, SPLIT, "fold")
        if len({row["params"] for row in scored}) > 1:
            points = [_point(row) for row in scored]
            page.draw(section, "accuracy and parameters", comparisons.against_parameters, points,
                      SPLIT)  # fmt: skip
    section.tables.append(_table(record))
    return section


def _scores(
    page: Page, section: Section, record: SearchRecord, scored: list[dict[str, Any]]
) -> None:
    """Pictures of settings and scores."""
    drawn = _trials(record, scored)
    sampled = "sampler" in record.summary
    if sampled and len(drawn) > 1:
        page.draw(section, "the order", trials.history, drawn, SPLIT)
    if len(drawn) > 1 and any(trial.settings for trial in drawn):
        page.draw(section, "the settings", trials.parallel, drawn, SPLIT)
        shares = record.summary.get("importance") if sampled else trials.main_effects(drawn)
        by = FANOVA if sampled else MAIN_EFFECTS
        if shares:
            page.draw(section, "what mattered", trials.importance, shares, by)
        page.draw(section, "each setting", trials.slices, drawn, SPLIT)
    if not sampled:  # drawn points make no grid
        position = [one["label"] for one in record.plan["candidates"]].index
        rows = sorted(scored, key=lambda row: position(row["label"]))
        if grid := layout(_places(rows, record.plan["candidates"][0]["config"])):
            page.draw(section, "the grid", comparisons.heat_map, *grid, SPLIT)


def _trials(record: SearchRecord, scored: list[dict[str, Any]]) -> list[Trial]:
    """The scored candidates in the order in which they were tried."""
    tried = dict.fromkeys(candidate_label(row["setting"]) for row in record.rows)
    order = list(tried) or [one["label"] for one in record.plan["candidates"]]
    known = {label: number for number, label in enumerate(order)}
    rows = sorted(scored, key=lambda row: known.get(row["label"], len(order)))
    base = record.plan["candidates"][0]["config"]
    keys = _keys(scored)
    return [
        Trial(number, _values(row, keys, base), row["mean"],
              row["label"] == record.summary["winner"])
        for number, row in enumerate(rows, start=1)
    ]  # fmt: skip


def _keys(rows: list[dict[str, Any]]) -> list[str]:
    """The settings that candidates differ in."""
    return list(dict.fromkeys(key for row in rows for key, _ in _settings(row)))


def _values(row: dict[str, Any], keys: list[str], base: dict[str, Any]) -> dict[str, Any]:
    """Setting -> value of a candidate, of those it does not change that of the recipe."""
    own = dict(_settings(row))
    values = {}
    for key in keys:
        if key in own:
            values[key] = own[key]
        elif (value := _recorded(base, key)) is not None:
            values[key] = value
    return values


def _table(record: SearchRecord) -> Table:
    """The table of candidates with a column for each setting, where there are not too many."""
    summary = record.summary
    whole = candidates_table(summary)
    keys = _keys(summary["candidates"])
    if not 0 < len(keys) <= MOST_COLUMNS:
        return whole
    base = record.plan["candidates"][0]["config"]
    rows = []
    for number, (row, cells) in enumerate(zip(summary["candidates"], whole.rows, strict=True)):
        values = _values(row, keys, base)
        own = [_setting_cell(values.get(key)) for key in keys]
        rows.append([count(number + 1), *own, *cells[1:]])
    return _without_equal(Table(whole.caption, ["rank", *keys, *whole.header[1:]], rows))


def _without_equal(table: Table) -> Table:
    """The numbers that are the same for all candidates go into the caption."""
    said, left = [], []
    for place, name in enumerate(table.header):
        texts = {row[place].text for row in table.rows}
        if name in ("parameters", "folds") and len(texts) == 1 and len(table.rows) > 1:
            said.append(f"{texts.pop()} {name}")
        else:
            left.append(place)
    caption = f"{table.caption}; all: {', '.join(said)}" if said else table.caption
    return Table(caption, [table.header[place] for place in left],
                 [[row[place] for place in left] for row in table.rows])  # fmt: skip


def _setting_cell(value: Any) -> Cell:
    if value is None:
        return Cell(MISSING)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    text = f"{value:.4g}" if isinstance(value, float) else value_text(value)
    return Cell(text, float(value) if number else None)


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
    value = _recorded(config, key)
    return "" if value is None else value_text(value)


def _recorded(config: dict[str, Any], key: str) -> Any:
    """The value of `layers.4.rate`, or the kind of an optimizer; None: no such setting."""
    value: Any = config
    for part in key.split("."):
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            return None
    return value.get("type", value) if isinstance(value, dict) else value


def _recipe(record: SearchRecord) -> Section:
    first = record.plan["candidates"][0]
    return Section(
        "recipe", "Recipe", "plan.json holds every candidate in full.",
        folded=[settings_table(first["config"]), environment_table(record.environment)],
    )  # fmt: skip
