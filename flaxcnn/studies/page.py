"""README.md of a study, and its table as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flaxcnn.records.format import figure, variance_lines

SHOWN = ("test_accuracy", "val_accuracy")


def lines(summary: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table: a header, then a line a setting."""
    found = [["setting", "runs", *(f"{name} (mean ± sd [95 %])" for name in SHOWN), "lowest",
              "highest", "diverged", "dead"]]  # fmt: skip
    for setting in summary["settings"]:
        metrics = setting["metrics"]
        test = metrics.get("test_accuracy")
        found.append([
            setting["label"] or "as it is", f"{setting['complete']} of {setting['runs']}",
            *(figure(metrics[name]) if metrics else "-" for name in SHOWN),
            f"{test['min']:.4f}" if test else "-", f"{test['max']:.4f}" if test else "-",
            str(len(setting["diverged"])), str(len(setting["dead"])),
        ])  # fmt: skip
    return found


def _markdown(header: list[str], *body: list[str]) -> str:
    rule = "|" + "---|" * len(header)
    return "\n".join([f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(c)} |" for c in body)])


def page(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    flags = {row["protocol"] for row in rows}
    flag = (
        "**Document protocol:** epochs were chosen as the document did.\n\n"
        if "document" in flags else ""
    )  # fmt: skip
    failures = [f"- seed {row['seed']}: {row['reason']}\n" for row in rows if "reason" in row]
    failed = "## Runs that diverged\n\n" + "".join(failures) + "\n" if failures else ""
    text = _markdown(*lines(summary))
    for found in summary["variance"]:
        title = f"## Sources of variance {found['setting']}".rstrip()
        text += f"\n\n{title}\n\n{_markdown(*variance_lines(found))}"
    return f"""# Study of {summary["experiment"] or "a recipe"}

{flag}{summary["complete"]} of {summary["planned"]} runs are complete.

{text}

Intervals are Student's t over seeds: they say how well the mean over seeds is known, on these test
rows. `study.json` has every figure, `runs.csv` and `runs.jsonl` every run, `epochs.jsonl` every
epoch.

{failed}## Recipe

`plan.json` holds recipe, seeds and grid; `env.json` the software.
"""
