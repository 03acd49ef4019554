"""The page of `flaxcnn data check`: what is in a data set, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flaxcnn.data.check import Findings, opener
from flaxcnn.errors import DataError
from flaxcnn.records.format import count_text
from flaxcnn.records.tables import Cell, Table, count
from flaxcnn.reports.commands import line
from flaxcnn.reports.label_errors import LabelErrors
from flaxcnn.reports.page import Facts, Page, Rendered, Section, render
from flaxcnn.reports.predicted import SAMPLED, share_text, short_name
from flaxcnn.reports.tiles import Tile, Tiles, source

GROUPS = 24  # of duplicates
TOGETHER = 6  # images of one
SUSPECTS = 48
LISTED = 100  # sentences of what is wrong, and sizes

Open = Callable[[str], np.ndarray]


def check_page(found: Findings, errors: LabelErrors | None = None) -> Rendered:
    """The page of what was found; images that cannot be read are left out."""
    total = sum(map(sum, found.rows.values()))
    page = Page(
        title=f"Data set {found.name}", label="Images that can be used", figure=f"{total:,}",
        interval=[f"{len(found.classes)} classes,",
                  ", ".join(f"{split} {sum(rows):,}" for split, rows in found.rows.items())],
        meaning=_verdict(found, errors), flag="", doubtful=False, facts=_facts(found),
    )  # fmt: skip
    _notices(page, found, errors)
    show = opener(found.name)
    page.sections = [_classes(found, show), *_wrong(found)]
    if errors is not None:
        page.sections.append(_labels(found, errors, show))
    for name, title, groups in (("exact", "Exact duplicates", found.exact),
                                ("near", "Near duplicates", found.near)):  # fmt: skip
        if groups:
            page.sections.append(_duplicates(name, title, groups, show))
    page.sections.append(_again(found))
    return render(page)


def _verdict(found: Findings, errors: LabelErrors | None) -> str:
    wrong = [
        (len(found.wrong), "file cannot be used", "files cannot be used"),
        (len(found.exact), "group of exact duplicates", "groups of exact duplicates"),
        (len(found.near), "group of near duplicates", "groups of near duplicates"),
        (len(errors.suspects) if errors else 0, "label is likely wrong", "labels are likely wrong"),
    ]  # fmt: skip
    texts = [f"{n:,} {one if n == 1 else many}" for n, one, many in wrong if n]
    return f"{', '.join(texts)}." if texts else "Nothing was found to be wrong."


def _facts(found: Findings) -> list[tuple[str, str]]:
    train = found.rows["train"]
    facts = [
        ("Largest class of train", f"{found.classes[train.index(max(train))]}, {max(train):,}"),
        ("Smallest class of train", f"{found.classes[train.index(min(train))]}, {min(train):,}"),
    ]
    for name, counts in (("Height x width", found.sizes), ("Channels", found.kinds)):
        first = next(iter(counts), "-")
        more = f" and {len(counts) - 1} more" if len(counts) > 1 else ""
        facts.append((name, f"{first}{more}"))
    return facts


def _notices(page: Page, found: Findings, errors: LabelErrors | None) -> None:
    if found.wrong:
        page.problems.append(f"{count_text(len(found.wrong), 'file')} cannot be used: see below.")
    for kind, groups in (("exact", found.exact), ("near", found.near)):
        torn = sum(len(group["classes"]) > 1 for group in groups)
        leaks = sum(len(group["splits"]) > 1 for group in groups)
        if torn:
            page.problems.append(
                f"{count_text(torn, 'group')} of {kind} duplicates with different classes: one of "
                "the labels must be wrong."
            )
        if leaks:
            page.problems.append(
                f"{count_text(leaks, 'group')} of {kind} duplicates across splits: what is tested "
                "was seen in training."
            )
    if found.imbalanced:
        page.warnings.append(
            "Classes are imbalanced: `-s class_weight=balanced` or `-s sampling=balanced` make up "
            "for it."
        )
    if errors and errors.suspects:
        page.warnings.append(
            f"Of {errors.rows:,} images that were predicted by runs that had not seen them, "
            f"{count_text(len(errors.suspects), 'label')} may be wrong: look at them below."
        )
    page.notes += [f"Passed over: {name}" for name in found.passed_over[:LISTED]]
    page.notes += [f"{text[0].upper()}{text[1:]}." for text in found.notes]


# -- sections ------------------------------------------------------------------------------------


def _classes(found: Findings, show: Open) -> Section:
    section = Section("classes", "Classes")
    splits = list(found.rows)
    most = {split: max(max(rows), 1) for split, rows in found.rows.items()}
    rows = [
        [Cell(name), *(Cell(f"{found.rows[s][k]:,}", found.rows[s][k], found.rows[s][k] / most[s])
                       for s in splits)]
        for k, name in enumerate(found.classes)
    ]  # fmt: skip
    table = Table("Images of each class", ["class", *splits], rows)
    forms = [
        Table(name, [name.lower(), "images"],
              [[Cell(key), count(n)] for key, n in list(counts.items())[:LISTED]])
        for name, counts in (("Height x width", found.sizes), ("Channels", found.kinds))
        if len(counts) > 1
    ]  # fmt: skip
    groups = [
        (name, [tile for image in names if (tile := _tile(show, image, image))])
        for name, names in list(zip(found.classes, found.sample, strict=True))[:SAMPLED]
    ]
    insight = "Drawn at random, the same each time."
    if len(found.classes) > SAMPLED:
        insight += f" The first {SAMPLED} of {len(found.classes)} classes."
    sample = Tiles("Some images of each class", groups, insight, rows=True)
    section.add([sample], 6)
    section.add([table, *forms], 6)
    return section


def _wrong(found: Findings) -> list[Section]:
    if not found.wrong:
        return []
    rows = [[Cell(text)] for text in found.wrong[:LISTED]]
    caption = count_text(len(found.wrong), "file")
    return [Section("wrong", "Cannot be used", tables=[Table(caption, ["what is wrong"], rows)])]


def _labels(found: Findings, errors: LabelErrors, show: Open) -> Section:
    section = Section("labels", "Labels that are likely wrong")
    section.text = (
        f"By confident learning (Northcutt et al. 2021, arXiv:1911.00068) on what "
        f"{count_text(errors.runs, 'run')} predicted for {errors.rows:,} images that they had not "
        "been trained on. A model that is wrong looks like a label that is: judge each by eye."
    )
    tiles = []
    for one, name in zip(errors.suspects[:SUSPECTS], errors.names, strict=False):
        given, likely = found.classes[one.given], found.classes[one.likely]
        lines = (f"{likely} {share_text(one.probability)}", short_name(name))
        said = f"{name} is labelled {given}, and likely {likely}"
        if tile := _tile(show, name, said, f"labelled {given}", lines):
            tiles.append(tile)
    more = len(errors.suspects) - len(tiles)
    insight = f"And {more:,} more: `--json` lists all." if more else ""
    if tiles:
        section.add(Tiles("The most likely ones first", [("", tiles)], insight))
    else:
        section.text += " None was found."
        section.add(Facts("Labels", [("Looked at", f"{errors.rows:,}"), ("Likely wrong", "0")]), 4)
    return section


def _duplicates(name: str, title: str, groups: Sequence[dict[str, Any]], show: Open) -> Section:
    section = Section(name, title)
    shown = []
    for group in groups[:GROUPS]:
        marks = ["across splits"] if len(group["splits"]) > 1 else []
        if len(group["classes"]) > 1:
            marks.append(f"classes {', '.join(group['classes'])}")
        heading = "; ".join(marks) or f"class {group['classes'][0]}, {group['splits'][0]}"
        tiles = [
            tile for image in group["images"][:TOGETHER]
            if (tile := _tile(show, image, image, "", _lines(image)))
        ]  # fmt: skip
        more = len(group["images"]) - TOGETHER
        shown.append((f"{heading}{f' (and {more} more)' if more > 0 else ''}", tiles))
    left = len(groups) - len(shown)
    insight = f"And {left:,} more: `--json` lists all." if left else ""
    section.add(Tiles(count_text(len(groups), "group"), shown, insight))
    return section


def _lines(image: str) -> list[str]:
    """A file, and its folder in a line of its own."""
    folder, _, name = image.rpartition("/")
    return [name, folder] if folder else [name]


def _tile(
    show: Open, image: str, said: str, head: str = "", lines: Sequence[str] = ()
) -> Tile | None:
    """An image with its words; None if it cannot be read."""
    try:
        return Tile(*source(show(image)), said, head, lines, hint=said)
    except DataError:
        return None


def _again(found: Findings) -> Section:
    check = line("data", "check", found.name)
    return Section("again", "Look again", commands=[
        ("Everything, as JSON:", f"{check} --json"),
        ("Likely label errors of the training images, each predicted by a run that did not see it:",
         "flaxcnn study RECIPE --seeds 1 --predictions -s 'split={\"type\":\"fold\",\"index\":0}' "
         "--grid split.index=0,1,2,3,4 --study-dir runs/folds\n"
         f"{check} --study runs/folds --output check.html"),
    ])  # fmt: skip
