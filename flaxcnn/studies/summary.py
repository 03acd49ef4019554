"""study.json: the figures over the seeds of each setting."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from flaxcnn.records.format import label
from flaxcnn.studies.plan import PlannedRun
from flaxcnn.studies.stats import METRICS, summarize, variance_components

VARIANCE_OF = "test_accuracy"
EXTRA = ("best_epoch", "epochs_run", "dead_units")


def aggregate(rows: Sequence[dict[str, Any]], planned: Sequence[PlannedRun]) -> dict[str, Any]:
    """study.json: figures over the seeds of each setting, in the plan's order; no times.

    Dead networks (a relu layer of which nothing comes) count like any other, and are counted.
    """
    by_key = {row["run"]: row for row in rows}
    settings: dict[str, list[PlannedRun]] = {}
    for run in planned:
        settings.setdefault(run.label, []).append(run)
    figures = []
    for name, runs in settings.items():
        ended = [by_key[run.key] for run in runs if run.key in by_key]
        complete = [row for row in ended if row["status"] == "complete"]
        figures.append({
            "label": name, "setting": dict(runs[0].setting), "vary": runs[0].vary,
            "runs": len(runs), "complete": len(complete),
            "diverged": [row["seed"] for row in ended if row["status"] == "diverged"],
            "dead": [row["seed"] for row in complete if row["dead_layers"]],
            "metrics": _figures(complete, (*METRICS, *EXTRA, *runs[0].config.measured)),
            "params_digests": {str(row["seed"]): row["params_digest"] for row in complete},
        })  # fmt: skip
    return {
        "planned": len(planned),
        "complete": sum(s["complete"] for s in figures),
        "settings": figures,
        "variance": _variance(planned, by_key),
    }


def _figures(rows: Sequence[dict[str, Any]], metrics: Sequence[str]) -> dict[str, Any]:
    """What is known of each metric over the rows; nothing of one that is not finite everywhere."""
    values = {metric: [row.get(metric, math.nan) for row in rows] for metric in metrics}
    return {
        metric: dataclasses.asdict(summarize(each))
        for metric, each in values.items()
        if each and all(value is not None and math.isfinite(value) for value in each)
    }


def _variance(
    planned: Sequence[PlannedRun], rows: dict[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """For each setting studied by several sources of randomness: what each adds to the spread."""
    groups: dict[str, dict[str, list[float]]] = {}
    for run in planned:
        row = rows.get(run.key, {"status": "missing"})
        if row["status"] == "complete":
            sources = groups.setdefault(label(run.setting), {})
            sources.setdefault(run.vary, []).append(row[VARIANCE_OF])
    return [
        {
            "setting": setting, "metric": VARIANCE_OF,
            "components": [dataclasses.asdict(c) for c in variance_components(sources)],
        }
        for setting, sources in groups.items()
        if len(sources) > 1 and min(map(len, sources.values())) > 1
    ]  # fmt: skip
