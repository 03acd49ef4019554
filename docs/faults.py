"""The table of docs/reliability.md: faults.json, a fault and its test each."""

from __future__ import annotations

import json
from pathlib import Path

COLUMNS = ("fault", "promised", "observed", "test")


def rows() -> dict[str, list[dict[str, str]]]:
    """Kind of fault -> its faults, each with what is promised, what its test sees, and the test."""
    found = json.loads((Path(__file__).parent / "faults.json").read_text())
    return {kind: [dict(row) for row in each] for kind, each in found.items()}


def faults() -> str:
    """The tables, a section for each kind."""
    lines: list[str] = []
    for kind, each in rows().items():
        lines += ["", f"### {kind}", "", f"| {' | '.join(COLUMNS)} |", "|---" * 4 + "|"]
        for row in each:
            *said, test = (row[column] for column in COLUMNS)
            lines.append(f"| {' | '.join(said)} | `tests/{test}` |")
    return "\n".join(lines).strip()
