"""Records read: with what each must hold, and as the digests that were taken of them say."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flaxcnn.errors import CheckpointError, first_line
from flaxcnn.limits import open_regular, shown
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
# Types of what they hold, where another one would be an error far from here: a record may be made
# by anybody. None stands for a number that is not finite.
NUMBER, WHOLE, TEXT, LIST, TABLE = (int, float, type(None)), (int,), (str,), (list,), (dict,)
TYPES: dict[str, dict[str, tuple[type, ...]]] = {
    "summary.json": {
        "experiment": TEXT, "protocol": TEXT, "seed": WHOLE, "params": WHOLE, "kept_epoch": WHOLE,
        "trainable_params": WHOLE, "best_epoch": (int, type(None)), "epochs_run": WHOLE,
        "stopped_early": (bool,), "fingerprint": TEXT, "data_digest": TEXT, "split_digest": TEXT,
        "params_digest": TEXT, "seconds": NUMBER, "compile_seconds": NUMBER, "device": TEXT,
        "images_per_second": NUMBER, "dead_units": WHOLE, "dead_units_init": WHOLE,
        "relu_units": WHOLE, "dead_layers": LIST, "temperature": NUMBER, "diverged_epoch": WHOLE,
        **{f"{split}_{figure}": NUMBER for split in ("train", "val", "test")
           for figure in ("loss", "accuracy")},
        **{f"{split}_rows": WHOLE for split in ("train", "val", "test")},
    },
    "metrics.jsonl": {
        "epoch": WHOLE, "best": (bool,), "seconds": NUMBER, "images_per_second": NUMBER,
        **{f"{split}_{figure}": NUMBER for split in ("train", "val")
           for figure in ("loss", "accuracy")},
    },
    "data.json": {"shape": LIST, "classes": LIST, "digest": TEXT, "rows": TABLE, "name": TEXT,
                  "test_origin": TEXT},
    "study.json": {"experiment": TEXT, "planned": WHOLE, "complete": WHOLE, "settings": LIST},
    "runs.jsonl": {"run": TEXT, "seed": WHOLE, "setting": TABLE, "status": TEXT, "protocol": TEXT,
                   "data_digest": TEXT, "split_digest": TEXT,
                   "test_accuracy": NUMBER, "val_accuracy": NUMBER, "test_loss": NUMBER},
    "epochs.jsonl": {"run": TEXT, "epoch": WHOLE},
    "search.json": {"experiment": TEXT, "candidates": LIST, "protocol": TEXT},
    "plan.json": {"experiment": TEXT, "config": TABLE, "seeds": LIST, "grid": TABLE, "vary": LIST,
                  "candidates": LIST, "repeats": WHOLE},
}  # fmt: skip
# What each item of their lists must hold
ITEMS: dict[str, dict[str, dict[str, tuple[type, ...]]]] = {
    "study.json": {"settings": {"label": TEXT, "setting": TABLE, "vary": (str, type(None)),
                                "metrics": TABLE}},
    "search.json": {"candidates": {"label": TEXT}},
    "plan.json": {"candidates": {"label": TEXT, "settings": TABLE}},
}  # fmt: skip
# What each value of their lists must be
VALUES: dict[str, dict[str, tuple[type, ...]]] = {"plan.json": {"seeds": WHOLE, "vary": TEXT}}
MAX_SIDE = 2**15  # pixels of an image
ARRAY_BYTES = 2**32  # of all arrays of a record; a few KB can unfold to any number
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
    check_value(path / name, value, needed or NEEDED[name])
    return value


def checked_object(path: Path, name: str) -> dict[str, Any]:
    """A JSON record of a folder, whatever its keys; errors as `checked`."""
    value = read_json(path / name)  # first: its sentence says where
    digests.check(path, name)
    check_value(path / name, value, ())
    return dict(value)


def checked_lines(path: Path, name: str) -> list[dict[str, Any]]:
    """The objects of a JSON-lines record of a folder, each with its `NEEDED` keys.

    Raises:
        CheckpointError: a line is damaged, or of another version.
    """
    lines = read_lines(path / name)
    digests.check(path, name)
    check_lines(path / name, lines)
    return lines


def check_lines(file: Path, lines: Sequence[Any]) -> None:
    """Check the objects of a JSON-lines record; errors as `checked_lines`."""
    for number, line in enumerate(lines, start=1):
        check_value(file, line, NEEDED[file.name], f"line {number} ")


def check_value(file: Path, value: Any, needed: Sequence[str], where: str = "") -> None:
    """Check what was read of a record, or of a line (`where`); errors as `checked`."""
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: is damaged (no object)")
    if lacking := [name for name in needed if name not in value]:
        raise CheckpointError(
            f"{file}: {where}lacks {', '.join(lacking)}: it is damaged, or of another version"
        )
    if wrong := _of_other_types(file.name, value):
        raise CheckpointError(
            f"{file}: {where}{wrong} is {shown(value[wrong])}: it is damaged, or of another version"
        )
    for name, keys in ITEMS.get(file.name, {}).items():
        for number, item in enumerate(value.get(name, ()), start=1):
            if not isinstance(item, dict) or not all(
                _is_of(item.get(key), types) for key, types in keys.items()
            ):
                raise CheckpointError(
                    f"{file}: {where}number {number} of {name} must have {', '.join(keys)}: it is "
                    "damaged, or of another version"
                )
    if file.name == "data.json" and needed and not _are_images(value):
        raise CheckpointError(f"{file}: describes no images: it is damaged, or of another version")


def _of_other_types(file: str, value: dict[str, Any]) -> str | None:
    """The first key whose value, or a value in its list, has a type that it must not have."""
    for name, types in TYPES.get(file, {}).items():
        if name in value and not _is_of(value[name], types):
            return name
    for name, types in VALUES.get(file, {}).items():
        if not all(_is_of(item, types) for item in value.get(name, ())):
            return name
    return None


def _is_of(value: Any, types: tuple[type, ...]) -> bool:
    """Whether it has one of the types; true and false are no numbers."""
    return type(value) in types


def _are_images(data: dict[str, Any]) -> bool:
    """Whether shape, rows, classes and scaling are those of a data set of images."""
    shape, rows = data["shape"], data["rows"]
    sizes = [*shape, *(rows.get(split) for split in ("train", "validation", "test"))]
    return (
        len(shape) == 3
        and all(type(size) is int and size >= 0 for size in sizes)
        and all(1 <= side <= MAX_SIDE for side in shape)
        and len(data["classes"]) > 0
        and all(type(name) is str for name in data["classes"])
        and all(_scales(data.get(key, 1.0), shape) for key in ("mean", "scale"))
    )


def _scales(numbers: Any, shape: list[int]) -> bool:
    """Whether nested lists are one number, one a channel, or one a pixel."""
    import numpy as np

    try:
        array = np.asarray(numbers, np.float32)
        return np.broadcast_shapes(array.shape, tuple(shape)) == tuple(shape)
    except (ValueError, TypeError, OverflowError):
        return False


def checked_arrays(path: Path, names: Sequence[str]) -> tuple[np.ndarray, ...]:
    """Arrays of an .npz record by name.

    Raises:
        CheckpointError: missing or damaged.
    """
    digests.check(path.parent, path.name)
    try:
        with open_regular(path) as opened, zipfile.ZipFile(opened) as archive:
            if sum(member.file_size for member in archive.infolist()) > ARRAY_BYTES:
                raise ValueError(f"it unfolds to more than {ARRAY_BYTES:,} bytes")
            return tuple(_array(archive, name) for name in names)
    except FileNotFoundError:
        raise CheckpointError(f"{path.name} is missing") from None
    except Exception as error:  # of zipfile, zlib and NumPy's header, of many kinds
        text = f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(f"{path.name} is damaged ({text})") from None


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    from numpy.lib import format as npy

    with archive.open(f"{name}.npy") as file:
        array = npy.read_array(file, allow_pickle=False)
        file.read(1)  # the end of the member, where zipfile compares its checksum
        return array
