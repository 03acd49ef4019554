"""Finished runs, studies and searches, read from their folders; the one read side, without jax.

`flaxcnn.train`, `study` and `search` return what these functions read: a search and a study are
their records, a run is its record and the kept weights (`flaxcnn.engine.saved.Result`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import flaxcnn
from flaxcnn.errors import CheckpointError, ConfigError
from flaxcnn.recipe.config import Config
from flaxcnn.records.checked import (
    PLAN,
    checked,
    checked_arrays,
    checked_lines,
    checked_object,
)
from flaxcnn.records.format import candidate_label
from flaxcnn.records.study import predictions_file
from flaxcnn.records.tables import candidate_columns, columns, csv_text, run_columns

if TYPE_CHECKING:  # a tenth of a second, which `--help` need not wait for
    import numpy as np

NOWHERE = "there is no such folder; `flaxcnn runs list` shows what there is"
# What two runs must share for their accuracies to mean the same.
SHARED = {"data_digest": "data", "split_digest": "rows of the splits", "protocol": "protocol"}

Kind = Literal["run", "study", "search"]
Row = dict[str, Any]


@dataclass(frozen=True)
class Predictions:
    """Of the test rows: row number [N], label [N], logits [N, K] (predictions.npz)."""

    row: np.ndarray
    label: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True, eq=False)
class Record:
    """What runs, studies and searches have in common: a folder, and a summary with figures."""

    path: Path
    summary: dict[str, Any] = field(repr=False)
    environment: dict[str, Any] = field(repr=False)

    @property
    def name(self) -> str:
        """Of the experiment, or of the folder."""
        return str(self.summary["experiment"] or self.path.name)

    def _repr_html_(self) -> str | None:
        """How a notebook shows it."""
        return flaxcnn._notebook_html(self)


@dataclass(frozen=True, eq=False)
class RunRecord(Record):
    """A run: summary.json, config.json, metrics.jsonl, data.json, env.json, status.json."""

    config: dict[str, Any] = field(repr=False)
    recipe: Config | None = field(repr=False)  # None: of another version, which this cannot read
    history: list[dict[str, Any]] = field(repr=False)
    data: dict[str, Any] = field(repr=False)
    status: dict[str, Any] = field(repr=False)

    def to_dict(self) -> dict[str, list[Any]]:
        """Column -> one value per epoch: `pandas.DataFrame(result.to_dict())`."""
        return columns(self.history)

    def to_csv(self, path: str | Path) -> None:
        """Write the table as a CSV file."""
        Path(path).write_text(csv_text(self.to_dict()), encoding="utf-8")

    def plot(self, metric: Literal["accuracy", "loss"] = "accuracy") -> Any:
        """The learning curves, which a notebook shows; `.figure` is matplotlib's."""
        return flaxcnn._learning_curves(self, metric)

    def predictions(self) -> Predictions:
        """Its predictions.npz.

        Raises:
            CheckpointError: missing, damaged, or not of this run's classes.
        """
        arrays = checked_arrays(self.path / "predictions.npz", ("row", "label", "logits"))
        read = Predictions(*arrays)
        shape = (len(read.label), len(self.data["classes"]))
        if read.logits.shape != shape or read.row.shape != shape[:1] or not len(read.label):
            raise CheckpointError(f"predictions.npz has logits {read.logits.shape}, not {shape}")
        return read

    def first_filters(self) -> tuple[str, np.ndarray] | None:
        """(layer, weights [H, W, C, N]) of the first convolution, where the run wrote them."""
        path = self.path / "filters.npz"
        if not path.is_file():
            return None
        layer, kernel = checked_arrays(path, ("layer", "kernel"))
        return str(layer), kernel


@dataclass(frozen=True, eq=False)
class StudyRecord(Record):
    """A study: study.json, plan.json, runs.jsonl, epochs.jsonl, env.json.

    `rows` are in the order of the plan; `histories` are the epochs of each run, by its key.
    """

    plan: dict[str, Any] = field(repr=False)
    recipe: Config | None = field(repr=False)
    rows: list[Row] = field(repr=False)
    histories: dict[str, list[dict[str, Any]]] = field(repr=False)

    def to_dict(self) -> dict[str, list[Any]]:
        """Column -> one value per run: `pandas.DataFrame(result.to_dict())`."""
        return run_columns(self.rows)

    def to_csv(self, path: str | Path) -> None:
        """Write the table as a CSV file."""
        Path(path).write_text(csv_text(self.to_dict()), encoding="utf-8")

    def rows_of(self, setting: Mapping[str, Any]) -> list[Row]:
        """The complete runs of one of `summary["settings"]`."""
        own = (setting["setting"], setting["vary"])
        return [
            row
            for row in self.rows
            if (row["setting"], row["vary"]) == own and row["status"] == "complete"
        ]

    def predictions(self, run: str) -> Predictions:
        """Row number, label and logits of the test rows of a run, where the study kept them.

        Raises:
            CheckpointError: they are missing or damaged.
        """
        file = self.path / predictions_file(run)
        return Predictions(*checked_arrays(file, ("row", "label", "logits")))

    def predicted(self, run: str) -> tuple[np.ndarray, np.ndarray]:
        """(label [N], predicted class [N]) of the test rows, where the study kept them.

        Raises:
            CheckpointError: they are missing or damaged.
        """
        label, predicted = checked_arrays(self.path / predictions_file(run), ("label", "predicted"))
        return label, predicted


@dataclass(frozen=True, eq=False)
class SearchRecord(Record):
    """A search: search.json, plan.json, env.json, and the runs of the candidates that are ranked.

    `rows` are in the order of the plan, or of the trials.
    """

    plan: dict[str, Any] = field(repr=False)
    rows: list[Row] = field(repr=False)

    def to_dict(self) -> dict[str, list[Any]]:
        """Column -> one value per candidate, the best first: `pandas.DataFrame(...)` of it."""
        return candidate_columns(self.summary["candidates"])

    def to_csv(self, path: str | Path) -> None:
        """Write the table as a CSV file."""
        Path(path).write_text(csv_text(self.to_dict()), encoding="utf-8")


# -- reading -------------------------------------------------------------------------------------


def kind_of(path: Path) -> Kind:
    """What a folder holds, finished.

    Raises:
        CheckpointError: none of the three.
    """
    if (path / "search.json").is_file():
        return "search"
    if (path / "study.json").is_file():
        return "study"
    if (path / "summary.json").is_file():
        return "run"
    what = "--resume finishes one" if path.exists() else NOWHERE
    raise CheckpointError(
        f"{path}: holds no finished run, study or search (no summary.json, study.json or "
        f"search.json); {what}"
    )


def read(path: Path) -> RunRecord | StudyRecord | SearchRecord:
    """The record in a folder, whichever kind it is.

    Raises:
        CheckpointError: there is none, it is not finished, or it is damaged.
    """
    readers: dict[Kind, Callable[[Path], RunRecord | StudyRecord | SearchRecord]] = {
        "run": read_run,
        "study": read_study,
        "search": read_search,
    }
    return readers[kind_of(path)](path)


def read_runs(path: Path, command: str) -> RunRecord | StudyRecord:
    """The record of a run or a study, for a command that does not take searches.

    Raises:
        CheckpointError: a search, or nothing finished, or damaged.
    """
    record = read(path)
    if isinstance(record, SearchRecord):
        raise CheckpointError(
            f"{path}: holds a search; {command} takes runs and studies, such as its refit/"
        )
    return record


def read_run(path: Path) -> RunRecord:
    """The record of a finished run.

    Raises:
        CheckpointError: a file is missing, damaged, or of another version.
    """
    path = path.expanduser().absolute()
    config = checked_object(path, "config.json")
    return RunRecord(
        path,
        checked(path, "summary.json"),
        checked_object(path, "env.json"),
        config=config,
        recipe=_recipe(config),
        history=checked_lines(path, "metrics.jsonl"),
        data=checked(path, "data.json"),
        status=checked_object(path, "status.json"),
    )


def read_study(path: Path) -> StudyRecord:
    """The record of a finished study.

    Raises:
        CheckpointError: a file is missing, damaged, or of another version.
    """
    path = path.expanduser().absolute()
    summary, plan = checked(path, "study.json"), checked(path, "plan.json", PLAN["study"])
    rows = checked_lines(path, "runs.jsonl")
    settings = [json.dumps([each["setting"], each["vary"]]) for each in summary["settings"]]
    by_setting = {setting: number for number, setting in enumerate(settings)}
    by_seed = {seed: number for number, seed in enumerate(plan["seeds"])}

    def position(row: Row) -> tuple[int, int]:
        setting, last = json.dumps([row["setting"], row["vary"]]), len(rows)
        return by_setting.get(setting, last), by_seed.get(row["seed"], last)

    return StudyRecord(
        path,
        summary,
        checked_object(path, "env.json"),
        plan=plan,
        recipe=_recipe(plan["config"]),
        rows=sorted(rows, key=position),
        histories=histories(path),
    )


def read_search(path: Path) -> SearchRecord:
    """The record of a finished search.

    Raises:
        CheckpointError: a file is missing, damaged, or of another version.
    """
    path = path.expanduser().absolute()
    summary, plan = checked(path, "search.json"), checked(path, "plan.json", PLAN["search"])
    ranked = {each["label"] for each in summary["candidates"]}
    rows = [row for row in run_rows(path) if candidate_label(row["setting"]) in ranked]
    by_label = {each["label"]: number for number, each in enumerate(plan["candidates"])}
    by_seed = {seed: number for number, seed in enumerate(plan["seeds"])}

    def position(row: Row) -> tuple[int, ...]:
        setting, last = row["setting"], len(rows)
        candidate = by_label.get(candidate_label(setting), last)
        return candidate, setting["repeat"], setting["fold"], by_seed.get(row["seed"], last)

    if "sampler" not in plan:  # trials are in the order in which they were drawn
        rows.sort(key=position)
    return SearchRecord(path, summary, checked_object(path, "env.json"), plan=plan, rows=rows)


def run_rows(path: Path) -> list[Row]:
    """The rows of every run of a study or search; those of a search by trials are in `trials/`."""
    return [row for folder in _folders(path) for row in checked_lines(folder, "runs.jsonl")]


def histories(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The epochs of every run of a study or search, by the run's key."""
    epochs: dict[str, list[dict[str, Any]]] = {}
    for folder in _folders(path):
        for line in checked_lines(folder, "epochs.jsonl"):
            epochs.setdefault(line["run"], []).append(line)
    return epochs


def _folders(path: Path) -> list[Path]:
    """The folder itself and those of its trials, the incumbent's first."""
    trials = (path / "trials").glob("*")
    return [path, *sorted(trials, key=lambda trial: (trial.name.isdecimal(), trial.name))]


def _recipe(config: dict[str, Any]) -> Config | None:
    try:
        return Config.from_dict(config)
    except ConfigError:
        return None
