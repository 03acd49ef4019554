"""What a report is made from: the records of a run, study or search, read without jax."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flaxcnn.data import datasets
from flaxcnn.data.archives import PUBLISHED
from flaxcnn.data.arrays import Dataset
from flaxcnn.errors import CheckpointError, ConfigError, DataError, FlaxcnnError
from flaxcnn.recipe.config import Config
from flaxcnn.records.files import read_json, read_lines

NEEDED = ("experiment", "protocol", "seed", "params", "kept_epoch", "best_epoch", "epochs_run",
          "test_accuracy", "val_accuracy", "fingerprint")  # fmt: skip

OF_AN_EPOCH = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy")


@dataclass(frozen=True)
class Predictions:
    """Of the test rows: row number [N], label [N], logits [N, K] (predictions.npz)."""

    row: np.ndarray
    label: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True)
class RunRecord:
    """A run directory."""

    path: Path
    config: dict[str, Any]
    recipe: Config | None  # None: another version's, which this one cannot read
    summary: dict[str, Any]
    history: list[dict[str, Any]]
    data: dict[str, Any]
    environment: dict[str, Any]
    status: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its experiment."""
        return str(self.summary["experiment"] or self.path.name)


@dataclass(frozen=True)
class StudyRecord:
    """A study directory; rows and histories in the order of its plan's keys."""

    path: Path
    plan: dict[str, Any]
    recipe: Config | None
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    histories: dict[str, list[dict[str, Any]]]  # by the run's key
    environment: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its experiment."""
        return str(self.summary["experiment"] or self.path.name)


@dataclass(frozen=True)
class SearchRecord:
    """A search directory."""

    path: Path
    plan: dict[str, Any]
    summary: dict[str, Any]
    environment: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its experiment."""
        return str(self.summary["experiment"] or self.path.name)


def read_run(path: Path) -> RunRecord:
    """The records of a finished run.

    Raises:
        CheckpointError: a file is missing, damaged, or of another version.
    """
    path = path.expanduser().absolute()
    summary, config = read_json(path / "summary.json"), read_json(path / "config.json")
    _check(path / "summary.json", summary, NEEDED)
    history = read_lines(path / "metrics.jsonl")
    for row in history:
        _check(path / "metrics.jsonl", row, OF_AN_EPOCH)
    data = read_json(path / "data.json")
    _check(path / "data.json", data, ("shape", "classes", "digest", "rows"))
    return RunRecord(
        path, config, _recipe(config), summary, history, data,
        read_json(path / "env.json"), read_json(path / "status.json"),
    )  # fmt: skip


def read_study(path: Path) -> StudyRecord:
    """The records of a finished study.

    Raises:
        CheckpointError: a file is missing, damaged, or of another version.
    """
    path = path.expanduser().absolute()
    summary, plan = read_json(path / "study.json"), read_json(path / "plan.json")
    _check(path / "study.json", summary, ("experiment", "planned", "complete", "settings"))
    _check(path / "plan.json", plan, ("experiment", "config", "seeds", "grid", "vary"))
    rows = read_lines(path / "runs.jsonl")
    for row in rows:
        _check(path / "runs.jsonl", row, ("run", "seed", "setting", "vary", "status", "protocol"))
    histories: dict[str, list[dict[str, Any]]] = {}
    for line in read_lines(path / "epochs.jsonl"):
        histories.setdefault(line["run"], []).append(line)
    settings = [(one["setting"], one["vary"]) for one in summary["settings"]]
    place = {json.dumps(one): number for number, one in enumerate(settings)}
    last = len(settings)
    rows.sort(key=lambda r: (place.get(json.dumps((r["setting"], r["vary"])), last), r["seed"]))
    return StudyRecord(
        path, plan, _recipe(plan["config"]), summary, rows, histories,
        read_json(path / "env.json"),
    )  # fmt: skip


def read_search(path: Path) -> SearchRecord:
    """The records of a finished search.

    Raises:
        CheckpointError: a file is missing, damaged, or of another version.
    """
    path = path.expanduser().absolute()
    summary, plan = read_json(path / "search.json"), read_json(path / "plan.json")
    needed = ("experiment", "candidates", "winner", "incumbent", "dropped", "protocol")
    _check(path / "search.json", summary, needed)
    planned = ("experiment", "candidates", "folds", "repeats", "seeds", "document")
    _check(path / "plan.json", plan, planned)
    return SearchRecord(path, plan, summary, read_json(path / "env.json"))


def _check(file: Path, found: Any, needed: tuple[str, ...]) -> None:
    if not isinstance(found, dict):
        raise CheckpointError(f"{file}: is damaged (no object)")
    if lacking := [name for name in needed if name not in found]:
        raise CheckpointError(
            f"{file}: lacks {', '.join(lacking)}: it is damaged, or of another version"
        )


def _recipe(config: dict[str, Any]) -> Config | None:
    try:
        return Config.from_dict(config)
    except ConfigError:
        return None


def _arrays(path: Path, names: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    try:
        with np.load(path, allow_pickle=False) as found:
            return tuple(found[name] for name in names)
    except FileNotFoundError:
        raise CheckpointError(f"{path.name} is missing") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path.name} is damaged ({error})") from None


def predictions(record: RunRecord) -> Predictions:
    """The run's predictions.npz.

    Raises:
        CheckpointError: missing, damaged, or not of this run's classes.
    """
    found = Predictions(*_arrays(record.path / "predictions.npz", ("row", "label", "logits")))
    shape = (len(found.label), len(record.data["classes"]))
    if found.logits.shape != shape or found.row.shape != shape[:1] or not len(found.label):
        raise CheckpointError(f"predictions.npz has logits {found.logits.shape}, not {shape}")
    return found


def first_filters(record: RunRecord) -> tuple[str, np.ndarray] | None:
    """(layer, weights [H, W, C, N]) of the first convolution, where the run wrote them."""
    path = record.path / "filters.npz"
    if not path.is_file():
        return None
    layer, kernel = _arrays(path, ("layer", "kernel"))
    return str(layer), kernel


def load_images(record: RunRecord) -> Dataset:
    """The data of a run, as far as it is there already: nothing is downloaded or prepared.

    Folders and sets of tfds are opened undecoded, so that only the images shown are read.

    Raises:
        DataError: not there, or not what the run was made on.
    """
    name = str(record.config["dataset"])
    if name in PUBLISHED and not (datasets.cache_path(name) / "meta.json").is_file():
        raise DataError(f"{name} is not prepared here; `flaxcnn data prepare {name}` does that")
    on_demand = name.startswith(("folder:", "tfds:"))
    resize = record.recipe.resize if record.recipe else None
    try:
        found = datasets.load(name, resize, 0 if on_demand else None)
    except FlaxcnnError as error:
        raise DataError(str(error)) from error
    if not on_demand and found.digest != record.data["digest"]:
        raise DataError(f"{name} is other data than the run was made on")
    return found


def pixels(dataset: Dataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(images [n, H, W, C], labels [n]) by row number; those of the train archive come first."""
    split, first = dataset.train, len(dataset.train)
    image = np.empty((len(rows), *split.image.shape[1:]), np.uint8)
    label = np.empty(len(rows), np.int32)
    for part, own, base in ((rows < first, split, 0), (rows >= first, dataset.test, first)):
        if part.any():
            image[part] = own.image[rows[part] - base]
            label[part] = own.label[rows[part] - base]
    return image, label
