"""Records read: with what each must hold, and as the digests that were taken of them say."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxcnn.errors import DAMAGED_ARRAY, CheckpointError
from flaxcnn.records import digests
from flaxcnn.records.files import read_json, read_lines

if TYPE_CHECKING:
    import numpy as np

# What each file must hold for a record to be read; other keys are of use where they are there.
NEEDED = {
    "summary.json": (
        "experiment", "protocol", "seed", "params", "kept_epoch", "best_epoch", "epochs_run",
        "test_accuracy", "val_accuracy", "fingerprint", "data_digest", "split_digest",
    ),
    "metrics.jsonl": ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"),
    "data.json": ("shape", "classes", "digest", "rows"),
    "study.json": ("experiment", "planned", "complete", "settings"),
    "runs.jsonl": ("run", "seed", "setting", "vary", "status", "protocol", "data_digest",
                   "split_digest"),
    "epochs.jsonl": ("run", "epoch"),
    "search.json": ("experiment", "candidates", "winner", "incumbent", "dropped", "protocol"),
}  # fmt: skip
PLAN = {
    "study": ("experiment", "config", "seeds", "grid", "vary"),
    "search": ("experiment", "candidates", "folds", "repeats", "seeds", "document"),
}


def checked(path: Path, name: str, needed: Sequence[str] = ()) -> dict[str, Any]:
    """A JSON record of a folder, with the keys that are `needed`, or those of `NEEDED`.

    Raises:
        CheckpointError: missing, damaged, or of another version.
    """
    value = checked_object(path, name)
    _check(path / name, value, needed or NEEDED[name])
    return value


def checked_object(path: Path, name: str) -> dict[str, Any]:
    """A JSON record of a folder, whatever its keys; errors as `checked`."""
    value = read_json(path / name)  # first: its sentence says where
    digests.check(path, name)
    _check(path / name, value, ())
    return dict(value)


def checked_lines(path: Path, name: str) -> list[dict[str, Any]]:
    """The objects of a JSON-lines record of a folder, each with its `NEEDED` keys.

    Raises:
        CheckpointError: a line is damaged, or of another version.
    """
    lines = read_lines(path / name)
    digests.check(path, name)
    for number, line in enumerate(lines, start=1):
        _check(path / name, line, NEEDED[name], f"line {number} ")
    return lines


def _check(file: Path, value: Any, needed: Sequence[str], where: str = "") -> None:
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: is damaged (no object)")
    if lacking := [name for name in needed if name not in value]:
        raise CheckpointError(
            f"{file}: {where}lacks {', '.join(lacking)}: it is damaged, or of another version"
        )


def checked_arrays(path: Path, names: Sequence[str]) -> tuple[np.ndarray, ...]:
    """Arrays of an .npz record by name.

    Raises:
        CheckpointError: missing or damaged.
    """
    import numpy as np

    digests.check(path.parent, path.name)
    try:
        with np.load(path, allow_pickle=False) as file:
            return tuple(file[name] for name in names)
    except FileNotFoundError:
        raise CheckpointError(f"{path.name} is missing") from None
    except (*DAMAGED_ARRAY, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise CheckpointError(f"{path.name} is damaged ({error})") from None
