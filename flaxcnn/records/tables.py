"""A table is made once, of a header and cells, and rendered as text, Markdown or HTML.

Text and Markdown are here; HTML is the template of `flaxcnn.reports.page`.
"""

from __future__ import annotations

import csv
import io
import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flaxcnn.records.format import interval_text

MISSING = "-"
GAP = 2  # columns between two of a table
LEAST = 30  # columns for cells beside their names
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # begin what a spreadsheet computes


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and the number it is sorted by; without one, its text is."""

    text: str
    number: float | None = None
    bar: float | None = None  # a share that a page draws below the text
    missing: bool = False  # whether the bar is of what is missing
    link: str = ""  # of a page: where the text leads
    line: Sequence[float] = ()  # drawn on a page in place of the text


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


def fitted(lines: Sequence[Sequence[str]], width: int, less: Sequence[str] = ()) -> list[str]:
    """Cells as lines of at most `width`.

    Columns named in `less` are left out first, one by one; then cells are wrapped between words.
    Where even that is too wide, each row is a block of its own: the first cell, and below it a line
    for each other one that holds something.

    >>> fitted([["setting", "accuracy"], ["sgd", "0.98 [0.97, 0.99]"]], 20)
    ['setting  accuracy', 'sgd      0.98 [0.97,', '         0.99]']
    >>> fitted([["setting", "accuracy"], ["learning_rate=0.01", "0.98"]], 24)
    ['learning_rate=0.01', '  accuracy  0.98']
    """
    whole = aligned(lines)
    if max(map(len, whole)) <= width:
        return whole
    if less:
        out = list(lines[0]).index(less[0])
        return fitted([[*row[:out], *row[out + 1 :]] for row in lines], width, less[1:])
    columns = list(zip(*lines, strict=True))
    least = [max(len(word) for cell in column for word in (cell or "-").split())
             for column in columns]  # fmt: skip
    widths = [max(map(len, column)) for column in columns]
    room = width - GAP * (len(columns) - 1)
    if sum(least) > room:
        return list(_blocks(lines, width))
    while sum(widths) > room:
        widest = max(range(len(widths)), key=lambda i: (widths[i] > least[i], widths[i]))
        widths[widest] -= 1
    return [line for cells in lines for line in _wrapped(cells, widths)]


def _wrapped(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """A row on as many lines as its longest cell takes."""
    parts = [_words(cell, width) or [""] for cell, width in zip(cells, widths, strict=True)]
    rows = itertools.zip_longest(*parts, fillvalue="")
    gap = " " * GAP
    return [
        gap.join(p.ljust(width) for p, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _blocks(lines: Sequence[Sequence[str]], width: int) -> Iterator[str]:
    """A block for each row."""
    header, *rows = lines
    longest = max(map(len, header[1:]), default=0)
    longest = longest if longest + LEAST <= width else 0  # else cells are not below each other
    for first, *cells in rows:
        yield from _words(first, width)
        for name, cell in zip(header[1:], cells, strict=True):
            if cell not in ("", MISSING):
                text, below = f"  {name.ljust(longest)}  {cell}", " " * (longest + 4)
                yield from _words(text, width, below)


def _words(text: str, width: int, below: str = "") -> list[str]:
    """Text in lines, broken between words alone; all but the first begin with `below`."""
    return textwrap.wrap(
        text, width, subsequent_indent=below, break_long_words=False, break_on_hyphens=False
    )


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
    writer.writerow(map(_cell, table))
    writer.writerows(map(_cell, row) for row in zip(*table.values(), strict=True))
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A text that a spreadsheet would run as a formula begins with ', which it does not show."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
