"""A table is made once, of a header and cells, and rendered as text, Markdown or HTML.

Text and Markdown are here; HTML is the template of `flaxcnn.reports.page`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flaxcnn.records.format import interval_text

MISSING = "-"


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and the number it is sorted by; without one, its text is."""

    text: str
    number: float | None = None


def count(number: int | None) -> Cell:
    """`12,345`."""
    return Cell(MISSING) if number is None else Cell(f"{number:,}", number)


def decimal(number: float | None, digits: int = 4) -> Cell:
    """`0.9812`."""
    return Cell(MISSING) if number is None else Cell(f"{number:,.{digits}f}", number)


def interval(ends: tuple[float, float] | list[float] | None) -> Cell:
    """`[0.9888, 0.9899]`, sorted by its lower end."""
    return Cell(interval_text(ends), ends[0]) if ends else Cell(MISSING)


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header.

    >>> print(Table("", ["split", "rows"], [[Cell("test"), count(360)]]).markdown())
    | split | rows |
    | --- | --- |
    | test | 360 |
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def numeric(self, column: int) -> bool:
        """Whether a column holds numbers, and is aligned to the right."""
        return any(row[column].number is not None for row in self.rows)

    def lines(self) -> list[list[str]]:
        """The header and the rows as text."""
        return [list(self.header), *([cell.text for cell in row] for row in self.rows)]

    def text(self) -> list[str]:
        """Lines with aligned columns."""
        return aligned(self.lines())

    def markdown(self) -> str:
        """As a Markdown table."""
        header, *rows = (f"| {' | '.join(cells)} |" for cells in self.lines())
        return "\n".join([header, f"| {' | '.join(['---'] * len(self.header))} |", *rows])


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells as lines with aligned columns.

    >>> aligned([["split", "rows"], ["test", "360"]])
    ['split  rows', 'test   360']
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in lines
    ]


# -- records as columns --------------------------------------------------------------------------


def columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Rows as columns; None where a row has no value.

    >>> columns([{"seed": 0}, {"seed": 1, "loss": 0.5}])
    {'seed': [0, 1], 'loss': [None, 0.5]}
    """
    names = dict.fromkeys(key for row in rows for key in row)
    return {name: [row.get(name) for row in rows] for name in names}


def run_columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Column -> one value per run of a study; each setting is a column."""
    return columns([{**_scalars(row), **row["setting"]} for row in rows])


def candidate_columns(candidates: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Column -> one value per candidate of a search; each setting is a column."""
    rows = []
    for row in candidates:
        against = row.get("against_incumbent") or {}
        rows.append({
            **_scalars({k: v for k, v in row.items() if k != "against_incumbent"}),
            **{f"against_incumbent.{key}": value for key, value in against.items()},
        })  # fmt: skip
    return columns(rows)


def _scalars(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not isinstance(value, dict | list)}


def csv_text(table: Mapping[str, Sequence[Any]]) -> str:
    """Columns as CSV, their names first."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return text.getvalue()
