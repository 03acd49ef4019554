"""What a study leaves behind: a line a run, a line an epoch, and the figures over the seeds."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from flaxcnn.engine.folder import Folder
from flaxcnn.errors import CheckpointError, ConfigError
from flaxcnn.recipe.config import decisive
from flaxcnn.studies.plan import PlannedRun, label
from flaxcnn.studies.runs import Outcome
from flaxcnn.studies.stats import METRICS, summarize, variance_components

VARIANCE_OF = "test_accuracy"
EXTRA = ("best_epoch", "epochs_run", "dead_units")


class StudyDirectory(Folder):
    """`plan.json` (recipe, seeds, grid, vary), `runs.jsonl`, `epochs.jsonl`, `study.json`, ...

    Raises:
        ConfigError: it holds another study, or something else.
        WriteError: it is in use, or cannot be written.
    """

    kind = "study"
    proof = "plan.json"
    scores_only = False  # rows without training accuracy and dead units
    predictions = False  # classes predicted for the test rows, a file a run

    def check(self, recipe: dict[str, Any]) -> None:
        """ConfigError for another recipe; more seeds of the same one are welcome."""
        old = self.read_json(self.proof)
        if lacking := [key for key in recipe if key not in old]:
            raise CheckpointError(f"{self.path / self.proof}: lacks {', '.join(lacking)}")
        new = json.loads(json.dumps(recipe))  # tuples are lists there
        differ = [key for key in ("experiment", "grid", "vary") if old[key] != new[key]]
        config = decisive(old["config"])
        differ += [k for k, v in decisive(new["config"]).items() if config.get(k) != v]
        missing = [seed for seed in old["seeds"] if seed not in new["seeds"]]
        if differ or missing:
            what = ", ".join(differ) or f"seeds {', '.join(map(str, missing))}"
            raise ConfigError(
                f"study directory {self.path}: holds a study of another recipe ({what} differ); "
                "allowed is the same one, with the same seeds or more"
            )

    def rows(self) -> list[dict[str, Any]]:
        """A row for each run that has ended, in the order in which they did."""
        return self.lines("runs.jsonl")

    def ordered_rows(self, planned: Sequence[PlannedRun]) -> list[dict[str, Any]]:
        """The rows in the plan's order."""
        by_key = {row["run"]: row for row in self.rows()}
        return [by_key[run.key] for run in planned if run.key in by_key]

    def tidy(self) -> set[str]:
        """Drop what a kill left of a run without a row -> keys of the runs that have ended."""
        rows = self.rows()
        ended = {row["run"] for row in rows}
        self.write_lines("runs.jsonl", rows)
        epochs = [line for line in self.lines("epochs.jsonl") if line["run"] in ended]
        self.write_lines("epochs.jsonl", epochs)
        return ended

    def add(self, outcome: Outcome) -> None:
        """A run that has ended: its epochs first, so that a row is never without them."""
        key = outcome.run.key
        if outcome.predictions is not None:
            self.write_npz(predictions_file(key), **outcome.predictions)
        self.add_lines("epochs.jsonl", [{"run": key, **epoch} for epoch in outcome.history])
        self.add_lines("runs.jsonl", [outcome.row])


def predictions_file(key: str) -> str:
    """Where a study that keeps them has the predictions of a run, below its folder."""
    return f"predictions-{key}.npz"


def aggregate(rows: Sequence[dict[str, Any]], planned: Sequence[PlannedRun]) -> dict[str, Any]:
    """study.json: figures over the seeds of each setting, in the plan's order; no times.

    Dead networks (a relu layer of which nothing comes) count like any other, and are counted.
    """
    by_key = {row["run"]: row for row in rows}
    settings: dict[str, list[PlannedRun]] = {}
    for run in planned:
        settings.setdefault(run.label, []).append(run)
    found = []
    for name, runs in settings.items():
        ended = [by_key[run.key] for run in runs if run.key in by_key]
        complete = [row for row in ended if row["status"] == "complete"]
        found.append({
            "label": name, "setting": dict(runs[0].setting), "vary": runs[0].vary,
            "runs": len(runs), "complete": len(complete),
            "diverged": [row["seed"] for row in ended if row["status"] == "diverged"],
            "dead": [row["seed"] for row in complete if row["dead_layers"]],
            "metrics": {
                metric: dataclasses.asdict(summarize([row[metric] for row in complete]))
                for metric in (*METRICS, *EXTRA)
            } if complete else {},
            "params_digests": {str(row["seed"]): row["params_digest"] for row in complete},
        })  # fmt: skip
    return {
        "planned": len(planned),
        "complete": sum(s["complete"] for s in found),
        "settings": found,
        "variance": _variance(planned, by_key),
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


def columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Column -> values of all rows (None where a row has none), a column for every setting."""
    flat = [
        {**{k: v for k, v in row.items() if not isinstance(v, dict | list)}, **row["setting"]}
        for row in rows
    ]
    names = dict.fromkeys(key for row in flat for key in row)
    return {name: [row.get(name) for row in flat] for name in names}


def table_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The same as CSV."""
    return csv_text(columns(rows))


def csv_text(table: Mapping[str, Sequence[Any]]) -> str:
    """Columns as CSV, their names first."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return text.getvalue()
