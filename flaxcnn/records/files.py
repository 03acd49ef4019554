"""JSON and JSON lines, read strictly and written whole or not at all."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from flaxcnn.errors import CheckpointError, ConfigError, WriteError, one_of
from flaxcnn.fault_points import passing
from flaxcnn.limits import is_full, parse_json, read_bytes

log = logging.getLogger(__name__)
T = TypeVar("T")
UNFINISHED = re.compile(r"\.[\w-]+\.(csv|html|jsonl?|md|npz|svg)\.[a-z0-9_]{8}")  # as mkstemp names


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
        patient(path, lambda: _write_beside(path, data))
    except OSError as error:
        raise WriteError(f"{path}: cannot be written ({error.strerror})") from error


def _write_beside(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        passing("record.write")
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def flush(folder: Path) -> None:
    """Write a folder and all in it to the disk, so that a loss of power after it loses nothing.

    Raises:
        OSError: the disk does not take it.
    """
    for path in (folder, *folder.rglob("*")):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_unfinished(folder: Path) -> None:
    """Remove what a process killed in `write_atomic` left there; nobody else may write to it."""
    for path in folder.glob(".*"):
        if UNFINISHED.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def append(path: Path, data: bytes) -> None:
    """Add to the end of a file, all of it or nothing, and flush it to disk.

    Raises:
        WriteError: it cannot be written.
    """
    try:
        patient(path, lambda: _append(path, data))
    except OSError as error:
        raise WriteError(f"{path}: {error.strerror}") from error


def _append(path: Path, data: bytes) -> None:
    passing("record.append")
    with open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            if (written := file.write(data)) != len(data):
                raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes were written")
            os.fsync(file.fileno())
        except OSError:
            file.truncate(before)
            raise


# -- a full disk -----------------------------------------------------------------------------------

SPACE_SECONDS = 60.0  # that a full disk is waited for, for as long as it stays full
_full_until: float | None = None  # when the patience with the disk that is full now ends


def patient(what: Any, write: Callable[[], T], again: Callable[[], T] | None = None) -> T:
    """What `write()` gives; while the disk is full, it is tried again for SPACE_SECONDS.

    So that a disk that others fill for a moment does not end a run of days. What it raises for
    another reason, or still raises then, is raised. Trials after the first call `again`, if given.
    """
    global _full_until
    wait = 0.5
    while True:
        try:
            done = write()
        except Exception as error:
            if not is_full(error):
                raise
            now = time.monotonic()
            if _full_until is None:
                _full_until = now + SPACE_SECONDS
                log.warning("%s: the disk is full; waiting %.0f s for room", what, SPACE_SECONDS)
            if now >= _full_until:
                raise
            time.sleep(min(wait, max(_full_until - now, 0.0)))
            wait, write = min(2 * wait, 4.0), again or write
        else:
            _full_until = None
            return done


def read_json(path: Path) -> Any:
    """A JSON file; CheckpointError if it is missing or damaged."""
    try:
        return parse_json(read_bytes(path))
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
        *lines, _ = read_bytes(path).split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(dict(parse_json(line)))
        except (ValueError, TypeError):
            raise CheckpointError(f"{path}: line {number} is damaged") from None
    return rows
