"""The page of everything under a folder: one table that sorts, a line for each record."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from flaxcnn.records.format import count_text
from flaxcnn.records.index import Entry, Runs, size_text, spark
from flaxcnn.records.tables import MISSING, Cell, Table, count
from flaxcnn.reports.commands import shell_path
from flaxcnn.reports.page import Page, Section

NOTE = (
    "The curves are the validation accuracy by epoch of a run, the test accuracy by seed of a "
    "study, and the scores of a search from the lowest to the highest. Press a heading to sort."
)


def index_page(found: Runs, page: Path) -> Page:
    """All entries, the newest first; `page` is the file, which links lead from."""
    kinds = {kind: len(found.where(kind=kind)) for kind in ("run", "study", "search")}
    counts = ", ".join(
        count_text(number, kind).replace("studys", "studies").replace("searchs", "searches")
        for kind, number in kinds.items()
        if number
    )
    made = Page(
        title=f"Everything under {found.folder.name}/", figure=counts,
        meaning="The newest first. Behind ± is half the 95 % interval over seeds.",
        flag="", doubtful=False,
        facts=_facts(found),
        warnings=[f"{found.place(each)}: {each.status}. {each.note}" for each in found
                  if each.status in ("damaged", "failed")],
    )  # fmt: skip
    rows = [_row(found, each, page) for each in found]
    header = ["folder", "experiment", "kind", "runs", "status", "test accuracy", "curve",
              "training", "changed", "size"]  # fmt: skip
    table = Table(f"{count_text(len(rows), 'record')} under {found.folder}", header, rows)
    made.sections.append(Section("records", "Records", NOTE, tables=[table]))
    folder = shell_path(found.folder)
    made.sections.append(
        Section("again", "Commands", commands=[
            ("The same on a terminal:", f"flaxcnn runs list {folder}"),
            ("Write this page again:", f"flaxcnn report {folder}"),
        ])
    )  # fmt: skip
    return made


def _facts(found: Runs) -> list[tuple[str, str]]:
    ended = [each for each in found if each.status == "complete"]
    trained = sum(each.seconds or 0.0 for each in found)
    data = ", ".join(sorted({str(each.data) for each in found if each.data}))
    return [
        ("Complete", f"{len(ended)} of {len(found)}"),
        ("Runs trained", f"{sum(each.runs for each in found):,}"),
        ("Training time", _duration(trained)), ("Data", data or MISSING),
        ("On disk", size_text(sum(each.bytes for each in found))),
    ]  # fmt: skip


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _row(found: Runs, each: Entry, page: Path) -> list[Cell]:
    own = each.path / "report.html"
    link = quote(os.path.relpath(own, page.parent)) if own.is_file() and own != page else ""
    spread = f" ± {(each.spread[1] - each.spread[0]) / 2:.4f}" if each.spread else ""
    accuracy = MISSING if each.accuracy is None else f"{each.accuracy:.4f}{spread}"
    return [
        Cell(str(found.place(each)), link=link), Cell(each.name), Cell(each.kind),
        count(each.runs), Cell(each.status), Cell(accuracy, each.accuracy),
        Cell(spark(each.curve), each.curve[-1] if each.curve else None, line=each.curve),
        Cell(MISSING) if each.seconds is None else Cell(_duration(each.seconds), each.seconds),
        Cell(each.time[:10], each.when), Cell(size_text(each.bytes), each.bytes),
    ]  # fmt: skip
