"""README.md of a study and of a search: what its folder holds, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flaxcnn.records.views import (
    DOCUMENT_FOLDS,
    FOLDS_NOTE,
    FRONT_NOTE,
    SEEDS_NOTE,
    candidates_table,
    dropped_heading,
    protocol_note,
    refit_note,
    scoring_text,
    seeds_table,
    trained_note,
    variance_table,
)


def study_readme(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """README.md of a study.

    Args:
        summary: study.json.
        rows: of the runs.
    """
    failures = [f"- seed {row['seed']}: {row['reason']}" for row in rows if "reason" in row]
    variance = [
        part
        for each in summary["variance"]
        for table in [variance_table(each)]
        for part in (f"## {table.caption}", table.markdown())
    ]
    return _document(
        f"# Study of {summary['experiment'] or 'a recipe'}",
        _protocol({row["protocol"] for row in rows}, None),
        f"{summary['complete']} of {summary['planned']} runs are complete.",
        seeds_table(summary, rows).markdown(),
        *variance,
        f"{SEEDS_NOTE} `study.json` has every figure, `runs.csv` and `runs.jsonl` every run, "
        "`epochs.jsonl` every epoch.",
        *(["## Runs that diverged", "\n".join(failures)] if failures else []),
        "## Recipe",
        "`plan.json` holds recipe, seeds and grid; `env.json` the software.",
    )


def search_readme(summary: Mapping[str, Any]) -> str:
    """README.md of a search.

    Args:
        summary: search.json.
    """
    dropped = "\n".join(f"- {each['label']}: {each['reason']}" for each in summary["dropped"])
    return _document(
        f"# Search of {summary['experiment'] or 'recipes'}",
        f"**{DOCUMENT_FOLDS.capitalize()}.**" if summary["protocol"] == "document" else "",
        f"{trained_note(summary)} {scoring_text(summary)}.",
        candidates_table(summary).markdown(),
        refit_note(summary),
        f"{FOLDS_NOTE} The epoch was chosen on rows held out of the other folds. {FRONT_NOTE}"
        if summary["protocol"] != "document"
        else f"{FOLDS_NOTE} {FRONT_NOTE}",
        *([f"## {dropped_heading(summary)}", dropped] if dropped else []),
    )


def _document(*parts: str) -> str:
    return "\n\n".join(filter(None, parts)) + "\n"


def _protocol(protocols: set[str], validation: Any) -> str:
    """The note in bold where it is a warning; nothing otherwise."""
    text, doubtful = protocol_note(protocols, validation)
    optimistic = " These figures are optimistic." if validation == "test" else ""
    return f"**{text.capitalize()}.**{optimistic}" if doubtful else ""
