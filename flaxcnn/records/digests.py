"""digests.json: the SHA-256 of every record in a folder, and of each line, to find what changed.

It is written when the work in a folder ends, whichever way, and removed when work begins again.
A folder without it, of a process that was killed or of an earlier version, is read as it is.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxcnn.errors import CheckpointError
from flaxcnn.limits import read_bytes
from flaxcnn.records.files import read_json, write_atomic

NAME = "digests.json"
KINDS = (".json", ".jsonl", ".npz")  # of records; pages and tables are made from them
ASIDE = ".damaged"  # added to the name of a record that is made anew


@dataclass(frozen=True)
class Damage:
    """A record that is not what was written."""

    name: str
    line: int | None  # the first that is not, counted from 1

    def __str__(self) -> str:
        where = "" if self.line is None else f"line {self.line} "
        return f"{where}is damaged: it is not what was written ({NAME})"


def write(folder: Path) -> None:
    """Take the digests of all records in the folder.

    Raises:
        WriteError: it cannot be written.
    """
    names = sorted(p.name for p in folder.iterdir() if p.suffix in KINDS and p.name != NAME)
    files = {name: _of((folder / name).read_bytes(), name) for name in names}
    write_atomic(folder / NAME, (json.dumps(files, indent=1) + "\n").encode())


def remove(folder: Path) -> None:
    """Forget them: the records are about to change."""
    (folder / NAME).unlink(missing_ok=True)


def check(folder: Path, *names: str) -> None:
    """Check records that are there; those without a digest pass.

    Raises:
        CheckpointError: one is not what was written, with its first line that is not.
    """
    recorded = _recorded(folder)
    for name in names:
        if damage := _compare(folder, name, recorded):
            raise CheckpointError(f"{folder / name}: {damage}")


def damaged(folder: Path) -> list[Damage]:
    """All records of the folder that are there and not what was written.

    Raises:
        CheckpointError: digests.json itself is damaged.
    """
    recorded = _recorded(folder)
    return [found for name in recorded if (found := _compare(folder, name, recorded))]


def whole_lines(folder: Path, name: str) -> bytes:
    """The lines of a file that are as they were written."""
    known = set(_recorded(folder)[name]["lines"])
    lines = (folder / name).read_bytes().splitlines(keepends=True)
    return b"".join(line for line in lines if _short(line) in known)


def _of(content: bytes, name: str) -> dict[str, Any]:
    whole: dict[str, Any] = {"sha256": hashlib.sha256(content).hexdigest()}
    if name.endswith(".jsonl"):
        whole["lines"] = [_short(line) for line in content.splitlines(keepends=True)]
    return whole


def _short(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:16]


def _recorded(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / NAME
    if not path.is_file():
        return {}
    recorded = read_json(path)
    sound = isinstance(recorded, dict) and all(
        isinstance(one, dict) and isinstance(one.get("sha256"), str) and "/" not in name
        and (not name.endswith(".jsonl") or isinstance(one.get("lines"), list))
        for name, one in recorded.items()
    )  # fmt: skip
    if not sound:
        raise CheckpointError(
            f"{path}: is damaged; without the file, the records are read unchecked"
        )
    return dict(recorded)


def _compare(folder: Path, name: str, recorded: dict[str, dict[str, Any]]) -> Damage | None:
    path = folder / name
    if name not in recorded or not path.is_file():
        return None
    try:
        found = _of(read_bytes(path), name)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    if found["sha256"] == recorded[name]["sha256"]:
        return None
    if "lines" not in found:
        return Damage(name, None)
    now, then = found["lines"], recorded[name]["lines"]
    same = [a == b for a, b in zip(now, then, strict=False)]
    first = same.index(False) if False in same else len(same)
    return Damage(name, first + 1)
