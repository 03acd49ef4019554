"""The page of several runs and studies: what differs, by how much, and whether it is chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flaxcnn.records.differing import difference_table, differing
from flaxcnn.records.format import count_text, p_text
from flaxcnn.records.read import SHARED, RunRecord, StudyRecord
from flaxcnn.records.tables import MISSING, Cell, Table, count, decimal, interval
from flaxcnn.records.views import CHOSEN_BY, protocol_note
from flaxcnn.reports import comparisons, curves, differences, words
from flaxcnn.reports.commands import shell_path
from flaxcnn.reports.differences import VERDICTS, points
from flaxcnn.reports.page import HALF, WHOLE, Page, Section
from flaxcnn.reports.sides import Side, chosen, sides_of

ENOUGH = 3  # seeds a side, from which the tests hold their level whatever the distribution
Compared = Mapping[str, Any] | str  # of `flaxcnn.compare(...).to_dict()`, or why there is none


def several_page(records: Sequence[RunRecord | StudyRecord], compared: Compared = "") -> Page:
    """All recipes found in the records, compared with the first of them.

    Args:
        records: in the order given; the first recipe is what the others are compared with.
        compared: what `flaxcnn compare` says of the same records, or why it says nothing.
    """
    every = sides_of(records)
    sides = [side for side in every if side.rows]
    text, doubtful = protocol_note({side.shared["protocol"] for side in sides}, None)
    names = list(dict.fromkeys(side.name for side in sides))
    what = f"{len(sides)} recipes side by side"
    if len(sides) == 1:
        what = f"{count_text(len(sides[0].rows), 'run')} of one recipe"
    page = Page(
        title=f"{names[0]}: {what}" if len(names) == 1 else what, figure="no run is complete",
        meaning="", flag=text, doubtful=doubtful, warnings=_warnings(every, compared),
        facts=[("Recipes", str(len(sides))), ("Runs", str(sum(len(s.rows) for s in sides))),
               ("Folders", str(len(records)))],
    )  # fmt: skip
    if sides:
        _headline(page, sides, compared)
        page.trust = _trust(sides, compared)
        if not isinstance(compared, str):
            page.lead = page.drawn("the differences", differences.forest, compared)
        page.sections += [
            _settings(sides), _differences(page, sides, compared), _training(page, sides),
            _cost(page, sides),
        ]  # fmt: skip
    paths = " ".join(shell_path(record.path) for record in records)
    page.sections.append(
        Section("again", "Reproduce", commands=[
            ("Test the differences:", f"flaxcnn compare {paths}"),
            ("The same as a table for a paper:", f"flaxcnn compare {paths} --format latex"),
            ("And as figures:", f"flaxcnn figures {paths}"),
            ("Write this page again:", f"flaxcnn report {paths}"),
        ])
    )  # fmt: skip
    return page


def _headline(page: Page, sides: Sequence[Side], compared: Compared) -> None:
    """The difference between the first recipe and the best of the others."""
    first = sides[0]
    if len(sides) == 1:
        page.label, page.figure = "Mean test accuracy", words.percent(first.mean())
        page.meaning = "There is one recipe here, so nothing is compared."
        return
    best = chosen(sides[1:])
    page.label = "Difference in test accuracy, percentage points"
    page.figure = points(best.mean() - first.mean())
    of = " which has the best validation of the others," if len(sides) > 2 else ""
    seeds = [count_text(len(side.rows), "seed") for side in (best, first)]
    over = f"{seeds[0]} each" if seeds[0] == seeds[1] else " and ".join(seeds)
    page.meaning = (
        f"`{best.label}`,{of} against `{first.label}`: "
        f"{100 * best.mean():.2f} % and {100 * first.mean():.2f} %, means over {over}."
    )
    one = _verdict_of(best, compared)
    if one is None:
        reason = compared if isinstance(compared, str) else ""
        page.meaning = (
            f"Whether it is more than chance is unknown: {reason or 'not tested'}. {page.meaning}"
        )
        page.flag, page.doubtful = (page.flag, True) if page.doubtful else ("not tested", True)
        return
    if ends := one["comparison"]["interval"]:
        page.interval = ["95 % interval", f"{points(ends[0])} to {points(ends[1])}"]
    verdict = {
        "better": "Better by more than chance", "worse": "Worse by more than chance",
        "equivalent": "Equivalent: any difference is too small to matter",
        "not shown": "No difference found",
    }[one["verdict"]]  # fmt: skip
    p = p_text(one["p_value"])
    more = one["more_seeds"]
    page.meaning = f"{verdict}{f' ({p})' if p else ''}. {page.meaning}"
    if more:
        page.meaning += f" About {count_text(more, 'more seed')} a side would settle it."


def _verdict_of(side: Side, compared: Compared) -> Mapping[str, Any] | None:
    if isinstance(compared, str):
        return None
    return next((one for one in compared["comparisons"] if one["label"] == side.label), None)


def _warnings(sides: Sequence[Side], compared: Compared) -> list[str]:
    warnings = [
        f"They differ in {SHARED[key]}, which may explain a difference."
        for key in SHARED
        if len({side.shared[key] for side in sides if side.rows}) > 1
    ]
    warnings += [
        f"{side.label}: {side.failed} of {len(side.rows) + side.failed} runs have no figures."
        for side in sides
        if side.failed
    ]
    if any(len(side.rows) == 1 for side in sides):
        warnings.append("Some have only one seed, so how much they vary between seeds is unknown.")
    if not isinstance(compared, str):
        warnings += [note for note in compared["notes"] if "differ in" not in note]
    return warnings


def _settings(sides: Sequence[Side]) -> Section:
    labels = [side.label for side in sides]
    differ = differing([side.settings for side in sides])
    tables = [difference_table(labels, differ)] if differ else []
    return Section("settings", "What differs", tables=tables)


def _trust(sides: Sequence[Side], compared: Compared) -> list[tuple[str, str]]:
    """What speaks for the difference, and what is not known."""
    same = all(len({side.shared[key] for side in sides}) == 1 for key in SHARED)
    fewest = min(len(side.rows) for side in sides)
    seeds = count_text(fewest, "seed")
    trust = [
        ("yes" if same else "no", "The same data, rows and protocol on all sides"),
        ("yes", f"{seeds} or more a side") if fewest >= ENOUGH
        else ("no", f"Only {seeds} on a side: the spread over seeds is hardly known"),
    ]  # fmt: skip
    if not isinstance(compared, str):
        several = len(compared["comparisons"])
        test = "Paired t test by seed" if compared["paired"] else "Welch's t test"
        corrected = f", p corrected for {several} comparisons (Holm)" if several > 1 else ""
        trust.append(("yes", f"{test}{corrected}"))
    trust.append(
        ("open", "All seeds share their test images: other images may rank them otherwise")
    )
    return trust


def _differences(page: Page, sides: Sequence[Side], compared: Compared) -> Section:
    section = Section("differences", "Differences")
    pairs = [(side.point, side.values()) for side in sides]
    page.draw(section, "the seeds", comparisons.seed_distribution, pairs)
    _classes(page, section, sides)
    section.tables.append(_table(sides, compared))
    return section


def _table(sides: Sequence[Side], compared: Compared) -> Table:
    header = ["recipe", "seeds", "test accuracy", "95 % interval", "difference", "95 % interval",
              "p", "verdict", "validation accuracy"]  # fmt: skip
    rows = []
    for number, side in enumerate(sides):
        one, test = _verdict_of(side, compared), None
        if one is not None:
            test = one["comparison"]
        rows.append([
            Cell(side.label), count(len(side.rows)), decimal(side.mean()),
            interval(side.point.interval),
            Cell(MISSING) if test is None else Cell(f"{test['difference']:+.4f}",
                                                    test["difference"]),
            interval(test["interval"]) if test else Cell(MISSING),
            Cell(MISSING) if one is None or one["p_value"] is None
            else Cell(f"{one['p_value']:.2g}", one["p_value"]),
            Cell("reference" if number == 0 else MISSING if one is None
                 else VERDICTS[one["verdict"]][2]),
            decimal(side.mean(CHOSEN_BY)),
        ])  # fmt: skip
    return Table(f"All recipes; differences from {sides[0].label}", header, rows)


def _training(page: Page, sides: Sequence[Side]) -> Section:
    section = Section("training", "Training")
    drawn = [(side.label, side.histories, side.seeds) for side in sides if any(side.histories)]
    if not drawn:
        return section
    names = [(label, [h for h in histories if h]) for label, histories, _ in drawn]
    seeds = [[seed for seed, h in zip(own, histories, strict=True) if h]
             for _, histories, own in drawn]  # fmt: skip
    for metric in ("accuracy", "loss"):
        page.draw(section, metric, curves.bands, names, metric, seeds)
    return section


def _classes(page: Page, section: Section, sides: Sequence[Side]) -> None:
    """Recalls of the first recipe and of the best of the others; of all in a table."""
    kept = [(side, side.recalls()) for side in sides]
    known = [(side, recalls) for side, recalls in kept if recalls is not None]
    if len(known) < 2 or known[0][0] is not sides[0]:
        return
    if len({len(recalls) for _, recalls in known}) > 1:
        return
    classes = next((side.classes for side, _ in known if side.classes), None)
    classes = classes or [str(number) for number in range(len(known[0][1]))]
    first = (sides[0].label, known[0][1])
    best = chosen([side for side, _ in known[1:]])
    other = next(recalls for side, recalls in known if side is best)
    page.draw(section, "the classes", differences.by_class, classes, first, (best.label, other))
    header = ["class", *(side.label for side, _ in known)]
    rows = [
        [Cell(name, number if name.isdecimal() else None),
         *(decimal(float(recalls[number])) for _, recalls in known)]
        for number, name in enumerate(classes)
    ]  # fmt: skip
    section.folded.append(Table("Recall of each class, mean over seeds", header, rows))


def _cost(page: Page, sides: Sequence[Side]) -> Section:
    section = Section("cost", "Cost")
    sizes = {side.rows[0].get("params") for side in sides}
    if len(sizes) > 1:
        shown = [side.point for side in sides]
        page.draw(section, "accuracy and parameters", comparisons.against_parameters, shown,
                  span=HALF)  # fmt: skip
    rates = [(side.label, _median(side, "images_per_second")) for side in sides]
    if len([rate for _, rate in rates if rate]) > 1:
        told = [(label, rate) for label, rate in rates if rate]
        page.draw(section, "throughput", comparisons.throughput, told, span=HALF)
    rows = [
        [Cell(side.label), count(side.rows[0].get("params")),
         decimal(_median(side, "seconds"), 1), decimal(rate, 0)]
        for side, (_, rate) in zip(sides, rates, strict=True)
    ]  # fmt: skip
    header = ["recipe", "parameters", "seconds a run", "images/s"]
    table = Table("What a run costs, median over seeds", header, rows)
    section.add(table, HALF if len(section.blocks) == 1 else WHOLE)
    return section


def _median(side: Side, key: str) -> float | None:
    values = [row[key] for row in side.rows if row.get(key) is not None]
    return float(np.median(values)) if values else None
