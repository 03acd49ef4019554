"""README.md of a run, a study and a search: what its folder holds, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flaxcnn.records.views import (
    DOCUMENT_FOLDS,
    FOLDS_NOTE,
    FRONT_NOTE,
    SEEDS_NOTE,
    TRAINING_NOTE,
    candidates_table,
    dropped_heading,
    epochs_table,
    protocol_note,
    refit_note,
    scoring_text,
    seeds_table,
    splits_table,
    trained_note,
    variance_table,
)


def run_readme(
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    dead: Mapping[str, tuple[int, int]],
) -> str:
    """README.md of a run.

    Args:
        config: config.json.
        summary: summary.json.
        history: the epochs.
        dead: layer -> (dead relu units, relu units).
    """
    counts = ", ".join(f"{layer} {n} of {total}" for layer, (n, total) in dead.items() if n)
    return _document(
        f"# {summary['experiment'] or 'a run'}, seed {summary['seed']}",
        _protocol({summary["protocol"]}, config["validation"]),
        f"Weights of epoch {summary['kept_epoch']} of {summary['epochs_run']}, "
        f"{summary['params']:,} parameters.",
        f"It diverged in epoch {summary['diverged_epoch']}; these are the last good weights."
        if "diverged_epoch" in summary
        else "",
        splits_table(summary).markdown(),
        f"Dead relu units: {counts or 'none'}. Training took {summary['seconds']:.1f} s after "
        f"{summary['compile_seconds']:.1f} s of compilation on {summary['device']}.",
        f"Probabilities are those of logits divided by {summary['temperature']:.3f}, fitted to the "
        "validation rows."
        if "temperature" in summary
        else "",
        "## Epochs",
        f"{TRAINING_NOTE} * marks a new best.",
        epochs_table(history).markdown(),
        "## Recipe",
        f"`config.json` holds it in full (fingerprint `{summary['fingerprint']}`); `split.json` "
        "the rows, `env.json` the software. Digest of the parameters: "
        f"`{summary['params_digest']}`.",
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
