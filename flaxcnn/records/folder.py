"""A folder of records that one process at a time writes to, and where such folders are."""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import logging
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from flaxcnn.errors import CheckpointError, ConfigError, WriteError
from flaxcnn.recipe.references import SOURCES
from flaxcnn.records import digests
from flaxcnn.records.files import append, as_read, plain, read_json, read_lines, write_atomic
from flaxcnn.records.lease import NAME, Lease

log = logging.getLogger(__name__)
_reservations: list[tuple[Path, Path]] = []  # folders made by `_reserved`, and the top of each


def runs_folder() -> Path:
    """The default folder for runs: FLAXCNN_RUNS_DIR, or `runs`."""
    return Path(os.environ.get("FLAXCNN_RUNS_DIR", "runs")).expanduser()


def stamp() -> str:
    """The time as folders are named: 20261120-101500."""
    return datetime.now().strftime("%Y%m%d-%H%M%S")


def new_run(name: str, seed: int) -> Path:
    """The default folder of a new run: runs/NAME/20261120-101500-seed0, or with -2 after it.

    It is made, so that a process that starts in the same second takes another one.
    """
    return _reserved(runs_folder() / name / f"{stamp()}-seed{seed}")


def new_plan(kind: str, name: str) -> Path:
    """The default folder of a new "study" or "search": runs/NAME/study-20261120-101500."""
    return _reserved(runs_folder() / name / f"{kind}-{stamp()}")


def _reserved(path: Path) -> Path:
    """The path, or with -2, -3, ... after it where there is something already, as a new folder.

    If nothing comes to be in it, `remove_unused` removes it, at the latest when the process ends.
    """
    own, number = path, 2
    while True:
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            path = own.with_name(f"{own.name}-{number}")
            number += 1
        except OSError:
            return path  # the one who writes there says what is wrong
        else:
            _reservations.append((path.absolute(), runs_folder().absolute()))
            return path


@atexit.register
def remove_unused() -> None:
    """Remove the new folders of this process in which nothing began, and empty ones above them."""
    while _reservations:
        path, top = _reservations.pop()
        with contextlib.suppress(OSError):
            for folder in (path, *path.parents):
                if top in (folder, *folder.parents):
                    folder.rmdir()


class Folder:
    """A folder that one process at a time writes to; its lock ends with the process.

    `kind` is its name in messages, and `proof` is the file by which it is recognised; each kind
    decides in `check` whether it may be resumed.

    Raises:
        ConfigError: it holds something else.
        WriteError: it is in use, or cannot be written.
    """

    kind = "run"
    proof = "config.json"
    remade: tuple[str, ...] = ()  # records that resuming makes anew, so that damage costs nothing
    by_line: tuple[str, ...] = ()  # records whose whole lines are kept; what is lost is done again

    def __init__(self, path: Path, writes: bool = True):
        self.path = path.expanduser().absolute()
        self.writes = writes  # False: another process writes, and this one's calls do nothing
        self._lease: Lease | None = None

    # -- opening ---------------------------------------------------------------------------------

    def take(self, recipe: dict[str, Any], resume: bool) -> Self:
        """Create it, with `recipe` in the proof file, or resume it; returns self."""
        if not self.writes:
            return self
        try:
            self._check_place()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lease = Lease(self.path, self.kind)
        except OSError as error:
            raise WriteError(f"{self.kind} directory {self.path}: {error.strerror}") from error
        try:
            if (self.path / self.proof).exists():
                if not resume:
                    raise ConfigError(
                        f"{self.kind} directory {self.path}: holds a {self.kind} already; "
                        "add --resume to continue it, or choose another directory"
                    )
                self._mend()
                self.check(recipe)
        except BaseException:
            self.close()
            raise
        digests.remove(self.path)
        self.write_json(self.proof, recipe)
        return self

    def check_unused(self) -> None:
        """FolderInUseError if a process is writing to it."""
        if (self.path / NAME).is_file():
            Lease(self.path, self.kind).release()

    def check(self, recipe: dict[str, Any]) -> None:
        """ConfigError if `recipe` is not what the folder holds."""
        raise NotImplementedError

    def _mend(self) -> None:
        """Put aside what is damaged and will be made anew.

        Raises:
            CheckpointError: another record is damaged.
        """
        for found in digests.damaged(self.path):
            path = self.path / found.name
            if found.name not in self.remade + self.by_line:
                raise CheckpointError(f"{path}: {found}")
            log.warning("%s: %s; what it lacks is made again", path, found)
            whole = digests.whole_lines(self.path, found.name) if found.line else b""
            path.replace(path.with_name(found.name + digests.ASIDE))
            if found.name in self.by_line:
                self.write_bytes(found.name, whole)

    def close(self) -> None:
        """Release the lock."""
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_place(self) -> None:
        """Refuse a folder of something else before anything is written."""
        if not self.path.is_dir() or (self.path / self.proof).exists():
            return
        ours = (NAME, f".{self.proof}.")  # the latter is left by a start that was killed
        if others := sorted(p.name for p in self.path.iterdir() if not p.name.startswith(ours)):
            raise ConfigError(
                f"{self.kind} directory {self.path}: holds {others[0]} but no {self.kind}; "
                "use a new or empty folder"
            )

    # -- files -----------------------------------------------------------------------------------

    def read_json(self, name: str) -> Any:
        """A JSON file; CheckpointError if it is missing or damaged."""
        value = read_json(self.path / name)
        if not isinstance(value, dict):
            raise CheckpointError(f"{self.path / name}: is damaged (no object)")
        return value

    def write_json(self, name: str, value: dict[str, Any]) -> dict[str, Any]:
        """Write a JSON file, whole or not at all -> the value as it will be read."""
        self.write_text(name, json.dumps(plain(value), indent=1, allow_nan=False) + "\n")
        return as_read(value)

    def write_text(self, name: str, text: str) -> None:
        """Write a text file, whole or not at all."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        if self.writes:
            self._check_lease()
            write_atomic(self.path / name, data)

    def write_npz(self, name: str, **arrays: Any) -> None:
        """Write named arrays as a compressed npz file, whole or not at all."""
        import numpy as np  # imported late: commands that write nothing start at once

        file = io.BytesIO()
        np.savez_compressed(file, **arrays)
        self.write_bytes(name, file.getvalue())

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The objects of a JSON-lines file, as `flaxcnn.records.files.read_lines`."""
        return read_lines(self.path / name)

    def write_lines(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Write a JSON-lines file, whole or not at all."""
        self.write_text(name, "".join(_line(row) for row in rows))

    def add_lines(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Append to a JSON-lines file in a single write."""
        if self.writes:
            self._check_lease()
            append(self.path / name, "".join(_line(row) for row in rows).encode())

    def keep_sources(self, sources: Mapping[str, str]) -> None:
        """Write code of one's own, file name -> text, to source/."""
        for name, text in sources.items():
            if self.writes:
                (self.path / SOURCES).mkdir(exist_ok=True)
            self.write_text(f"{SOURCES}/{name}", text)

    def set_status(self, status: str, **more: Any) -> dict[str, Any]:
        """Write status.json: running, complete, interrupted, diverged or failed.

        At an end, the digests of all records are taken, to find later what has been damaged.
        """
        try:
            found = self.write_json("status.json", {"status": status, **more})
            if self.writes and status == "running":
                digests.remove(self.path)
            elif self.writes:
                digests.write(self.path)
        except WriteError as error:
            if status in ("running", "complete"):
                raise
            log.warning("%s", error)  # why it ends is more than what could not be noted of it
            return {"status": status, **more}
        return found

    def _check_lease(self) -> None:
        """Raise where the folder is gone, or another process has taken it."""
        if self._lease is not None:
            self._lease.check()


def _line(row: dict[str, Any]) -> str:
    return json.dumps(plain(row), allow_nan=False) + "\n"
