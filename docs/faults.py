"""The tables of docs/reliability.md, from faults.json: a fault and its test each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Kinds = dict[str, list[dict[str, Any]]]


def rows() -> Kinds:
    """Kind of fault -> its faults, each with what is promised, what its test sees, and the test."""
    return _read("faults")


def former_rows() -> Kinds:
    """Kind of fault -> what fell short when 445 cases were tried on an early version, and its test.

    `cases` are how many of them fell short so, `defects` the numbers that they had in that report.
    """
    return _read("former")


def faults() -> str:
    """The tables of what is promised, a section for each kind."""
    return _tables(rows(), ("fault", "promised", "observed"))


def former() -> str:
    """The tables of what fell short once, a section for each kind."""
    return _tables(former_rows(), ("failure", "cases"))


def _read(part: str) -> Kinds:
    found: Kinds = json.loads((Path(__file__).parent / "faults.json").read_text())[part]
    return found


def _tables(kinds: Kinds, columns: tuple[str, ...]) -> str:
    lines: list[str] = []
    for kind, each in kinds.items():
        lines += ["", f"### {kind}", "", f"| {' | '.join(columns)} | test |"]
        lines.append("|---" * (len(columns) + 1) + "|")
        for row in each:
            said = " | ".join(str(row[column] or "-") for column in columns)
            lines.append(f"| {said} | `tests/{row['test']}` |")
    return "\n".join(lines).strip()
