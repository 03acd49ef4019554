"""JSON and JSON lines, read strictly and written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from flaxcnn.errors import CheckpointError, ConfigError, WriteError, one_of


def plain(value: Any) -> Any:
    """The value with NaN and infinities as None: JSON cannot hold them.

    >>> plain({"loss": float("nan"), "epochs": (1, 2)})
    {'loss': None, 'epochs': [1, 2]}
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_read(value: dict[str, Any]) -> dict[str, Any]:
    """The value as a JSON file returns it: lists for tuples, None for NaN."""
    return dict(json.loads(json.dumps(plain(value))))


def flat(nested: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys.

    >>> flat({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    result: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, dict):
            result |= {f"{key}.{inner}": item for inner, item in flat(value).items()}
        else:
            result[key] = value
    return result


def check_suffix(option: str, path: Path, *suffixes: str) -> None:
    """Check that the name of a file says what will be in it.

    Raises:
        ConfigError: it says another kind.
    """
    if path.suffix.lower() not in suffixes:
        raise ConfigError(
            f"{option} writes {one_of(suffixes)}, by the name of the file (got {str(path)!r})"
        )


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside the target, flush to disk, rename.

    Raises:
        WriteError: the folder is not writable, or the disk is full.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise WriteError(f"{path}: cannot be written ({error.strerror})") from error


def read_json(path: Path) -> Any:
    """A JSON file; CheckpointError if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: is damaged ({error})") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; a last line that a crash cut short does not count.

    Raises:
        CheckpointError: another line is damaged, or the file cannot be read.
    """
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            raise CheckpointError(f"{path}: line {number} is damaged") from None
    return rows
