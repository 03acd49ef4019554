"""Rows of results: one JSON line for each finished training, kept in a folder. No jax.

`DIR/<experiment>.jsonl` has a line for each protocol and seed, `DIR/searches/<grid>/<protocol>/`
the records of a grid search, and `DIR/about.json` the format. A row holds what a table, a curve, a
confusion matrix and a grid of first predictions need, so the run directory is not needed again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flaxcnn
from flaxcnn.errors import CheckpointError, ConfigError, FlaxcnnError, WriteError
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.records.files import plain, read_json, read_lines, write_atomic

if TYPE_CHECKING:  # numpy and the reports come with it; the commands that only list need neither
    import numpy as np

FORMAT = 1
ABOUT = "about.json"
SEARCHES = "searches"
OF_A_SEARCH = ("plan.json", "env.json", "search.json", "runs.jsonl", "candidates.csv")
FIRST = 100  # test rows whose predictions are kept one by one
MOST_CLASSES = 100  # of a confusion matrix that is kept
DIGITS = 6  # significant digits of curves
CURVES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds")
ENVIRONMENT = ("source_revision", "platform", "processor", "cpus", "backend", "device", "devices")
# Of summary.json and of a study's runs.jsonl, which have the same fields.
KEPT = (
    "experiment", "protocol", "seed", "fingerprint", "params", "trainable_params", "train_rows",
    "val_rows", "test_rows", "epochs_run", "best_epoch", "kept_epoch", "stopped_early",
    "test_accuracy", "test_loss", "val_accuracy", "val_loss", "train_accuracy", "train_loss",
    "seconds", "compile_seconds", "images_per_second", "dead_units", "dead_layers", "relu_units",
    "params_digest", "data_digest", "split_digest", "versions",
)  # fmt: skip
Key = tuple[str, str, int]  # experiment, protocol, seed


def experiment_path(experiment: str) -> str:
    """Where its records are: `mnist-ladder/model10`; of models.py:small `models/small`."""
    file, colon, name = experiment.rpartition(":")
    return f"{Path(file).stem}/{name.replace('/', '-')}" if colon else experiment


def key(row: Mapping[str, Any]) -> Key:
    """Experiment, protocol and seed, which are unique in a folder."""
    return row["experiment"], row["protocol"], row["seed"]


class Results:
    """A folder of rows.

    >>> folder = Results(Path("runs/results"))
    >>> [row["test_accuracy"] for row in folder.rows()]  # doctest: +SKIP
    [0.9833, 0.9806]
    """

    def __init__(self, path: Path):
        self.path = path.expanduser().absolute()

    def check(self) -> None:
        """Raise unless this version can read the folder; one that does not exist is empty.

        Raises:
            ConfigError: it holds something else, or rows of another format.
        """
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise ConfigError(f"--results: {self.path} is a file; choose a folder")
        about = self.path / ABOUT
        if not about.is_file():
            if any(self.path.iterdir()):
                raise ConfigError(
                    f"--results: {self.path} is not empty and has no {ABOUT}, so it is not a "
                    "results folder; choose a new or empty folder"
                )
            return
        content = read_json(about)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            version = content.get("flaxcnn", "?") if isinstance(content, dict) else "?"
            raise ConfigError(
                f"--results: {self.path} was written by flaxcnn {version} in another format; "
                f"flaxcnn {flaxcnn.__version__} reads format {FORMAT}. Use that version, or "
                "choose another folder"
            )

    def open(self) -> None:
        """Make sure that rows can be written.

        Raises:
            ConfigError: as `check`.
            WriteError: the folder cannot be created or written to.
        """
        self.check()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"--results: {self.path}: {error.strerror}") from error
        text = json.dumps({"format": FORMAT, "flaxcnn": flaxcnn.__version__}, indent=1) + "\n"
        write_atomic(self.path / ABOUT, text.encode())

    def rows(self, experiment: str | None = None) -> list[dict[str, Any]]:
        """All rows, or those of one experiment; in the order of the catalog, protocol, seed.

        Raises:
            ConfigError: as `check`.
            CheckpointError: a line is damaged.
        """
        self.check()
        files = [self._file(experiment)] if experiment else sorted(self.path.glob("*/*.jsonl"))
        read = [row for file in files for row in read_lines(file)]
        for row in read:
            if lacking := [name for name in ("experiment", "protocol", "seed") if name not in row]:
                raise CheckpointError(f"{self.path}: a row lacks {', '.join(lacking)}")
        order = {name: number for number, name in enumerate(catalog.experiments())}
        return sorted(read, key=lambda row: (order.get(row["experiment"], len(order)), *key(row)))

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep rows; one of the same experiment, protocol and seed is replaced.

        Raises:
            WriteError: a file cannot be written; the rows that were there stay.
        """
        by_file: dict[Path, list[Mapping[str, Any]]] = {}
        for row in rows:
            by_file.setdefault(self._file(row["experiment"]), []).append(row)
        with self._locked():
            for file, new in by_file.items():
                self._make_folder(file.parent)
                kept = {key(row): row for row in (*read_lines(file), *new)}
                lines = [json.dumps(plain(kept[k]), sort_keys=True, allow_nan=False) + "\n"
                         for k in sorted(kept)]  # fmt: skip
                write_atomic(file, "".join(lines).encode())

    def search_folder(self, experiment: str, protocol: str) -> Path:
        """Where the records of a grid search are kept."""
        return self.path / SEARCHES / experiment_path(experiment) / protocol

    def add_search(self, search_dir: Path, experiment: str, protocol: str) -> None:
        """Keep the records of a finished search; they replace those of an older one."""
        folder = self.search_folder(experiment, protocol)
        with self._locked():
            self._make_folder(folder)
            for name in OF_A_SEARCH:
                write_atomic(folder / name, (search_dir / name).read_bytes())

    def has_search(self, experiment: str, protocol: str) -> bool:
        """Whether there is a complete search of a grid as it is in the catalog now."""
        folder = self.search_folder(experiment, protocol)
        if not (folder / "search.json").is_file():
            return False
        return not changed_settings(experiment, read_json(folder / "plan.json"))

    def _file(self, experiment: str) -> Path:
        own = self.path / experiment_path(experiment)
        return own.with_name(f"{own.name}.jsonl")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time changes the files."""
        try:
            with open(self.path / ".lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
        except OSError as error:
            raise WriteError(f"--results: {self.path}: {error.strerror}") from error

    def _make_folder(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"--results: {folder}: {error.strerror}") from error


def changed_settings(experiment: str, plan: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings in which the candidates of a search differ from the grid: name -> (grid, search)."""
    known = {json.dumps(dict(point.settings)): point.config
             for point in catalog.find(experiment).candidates}  # fmt: skip
    for candidate in plan["candidates"]:
        config = known.get(json.dumps(candidate["settings"]))
        if config is None:
            continue  # the hand-made model beside the grid
        own = json.loads(json.dumps(config.to_dict()))
        differ = {k: (own.get(k), v) for k, v in candidate["config"].items() if v != own.get(k)}
        if differ:
            return differ
    return {}


def stale(row: Mapping[str, Any]) -> bool:
    """Whether the catalog's recipe is no longer the one that the row was made with."""
    try:
        return bool(recipe(row["experiment"], row["protocol"], row["seed"]).fingerprint()
                    != row["fingerprint"])  # fmt: skip
    except FlaxcnnError:
        return True


def recipe(experiment: str, protocol: str, seed: int) -> Config:
    """The recipe of an experiment as the queue runs it: without settings from outside."""
    config, _ = catalog.resolve(
        catalog.find(experiment), protocol=protocol, seed=seed, environ={}
    )  # fmt: skip
    return config


def row_of_run(run_dir: Path) -> dict[str, Any]:
    """The row of a finished run directory.

    Raises:
        CheckpointError: it is not finished, or damaged.
    """
    from flaxcnn.records.read import read_run

    record = read_run(run_dir)
    predictions = record.predictions()
    return make_row(
        record.summary, record.history, record.config, record.environment, predictions.label,
        predictions.logits.argmax(axis=1), len(record.data["classes"]),
    )  # fmt: skip


def rows_of_study(study_dir: Path, classes: int) -> list[dict[str, Any]]:
    """A row for each run of a study of one recipe that kept its predictions.

    Raises:
        CheckpointError: a record is missing or damaged.
    """
    from flaxcnn.records.read import read_study

    record = read_study(study_dir)
    rows = []
    for run in record.rows:
        config = {**record.plan["config"], "seed": run["seed"]}
        history = record.histories.get(run["run"], [])
        if run["status"] == "diverged":
            rows.append(diverged_row(run, config, record.environment, run["reason"], history))
            continue
        label, predicted = record.predicted(run["run"])
        row = make_row(run, history, config, record.environment, label, predicted, classes)
        rows.append({**row, "runs_beside": len(record.plan["seeds"])})
    return rows


def make_row(
    summary: Mapping[str, Any], history: Sequence[Mapping[str, Any]], config: Mapping[str, Any],
    environment: Mapping[str, Any], label: np.ndarray, predicted: np.ndarray, classes: int,
) -> dict[str, Any]:  # fmt: skip
    """A row from the records of a run.

    Args:
        summary: summary.json, or the run's line in a study.
        history: the epochs.
        config: the recipe as plain JSON.
        environment: env.json.
        label, predicted: [N] classes of the test rows, in their order.
        classes: how many there are.
    """
    from flaxcnn.reports.numbers import confusion

    first = {"label": label[:FIRST].tolist(), "predicted": predicted[:FIRST].tolist()}
    matrix = confusion(label, predicted, classes).tolist() if classes <= MOST_CLASSES else None
    return {
        "status": "complete",
        **{name: summary[name] for name in KEPT},
        "first_errors": int((label[:FIRST] != predicted[:FIRST]).sum()),
        "first": first,
        "confusion": matrix,
        "curves": _curves(history),
        "config": dict(config),
        "environment": {name: environment.get(name) for name in ENVIRONMENT},
    }


def diverged_row(
    summary: Mapping[str, Any], config: Mapping[str, Any], environment: Mapping[str, Any],
    reason: str, history: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:  # fmt: skip
    """The row of a run that diverged."""
    names = ("experiment", "protocol", "seed", "fingerprint", "epochs_run")
    return {
        "status": "diverged", "reason": reason, **{name: summary[name] for name in names},
        "curves": _curves(history), "config": dict(config),
        "environment": {name: environment.get(name) for name in ENVIRONMENT},
    }  # fmt: skip


def _curves(history: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Column -> one value per epoch."""
    return {name: [_short(epoch.get(name)) for epoch in history] for name in CURVES}


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")
