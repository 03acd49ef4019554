"""A folder of records that one process at a time writes to, and where such folders are."""

from __future__ import annotations

import fcntl
import io
import json
import logging
import os
import socket
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any, Self

from flaxcnn.errors import CheckpointError, ConfigError, FolderInUseError, WriteError
from flaxcnn.recipe.references import SOURCES
from flaxcnn.records import digests
from flaxcnn.records.files import as_read, plain, read_json, read_lines, write_atomic

log = logging.getLogger(__name__)


def runs_folder() -> Path:
    """The default folder for runs: FLAXCNN_RUNS_DIR, or `runs`."""
    return Path(os.environ.get("FLAXCNN_RUNS_DIR", "runs")).expanduser()


def stamp() -> str:
    """The time as folders are named: 20261120-101500."""
    return datetime.now().strftime("%Y%m%d-%H%M%S")


def new_run(name: str, seed: int) -> Path:
    """The default folder of a new run: runs/NAME/20261120-101500-seed0, or with -2 after it."""
    return _unused(runs_folder() / name / f"{stamp()}-seed{seed}")


def new_plan(kind: str, name: str) -> Path:
    """The default folder of a new "study" or "search": runs/NAME/study-20261120-101500."""
    return _unused(runs_folder() / name / f"{kind}-{stamp()}")


def _unused(path: Path) -> Path:
    """The path, or with -2, -3, ... after it where there is something already."""
    own, number = path, 2
    while path.exists():
        path = own.with_name(f"{own.name}-{number}")
        number += 1
    return path


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
        self._lock: IO[str] | None = None

    # -- opening ---------------------------------------------------------------------------------

    def take(self, recipe: dict[str, Any], resume: bool) -> Self:
        """Create it, with `recipe` in the proof file, or resume it; returns self."""
        if not self.writes:
            return self
        try:
            self._check_place()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / "run.lock", "a+")  # noqa: SIM115
        except OSError as error:
            raise WriteError(f"{self.kind} directory {self.path}: {error.strerror}") from error
        self._hold(self._lock)
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
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._lock.flush()
        digests.remove(self.path)
        self.write_json(self.proof, recipe)
        return self

    def _hold(self, lock: IO[str]) -> None:
        """Take the lock; FolderInUseError where another process has it."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            lock.close()
            raise FolderInUseError(
                f"{self.kind} directory {self.path}: in use by {holder}"
            ) from None

    def check_unused(self) -> None:
        """FolderInUseError if a process is writing to it."""
        if (self.path / "run.lock").is_file():
            with open(self.path / "run.lock", encoding="utf-8") as lock:
                self._hold(lock)

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
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_place(self) -> None:
        """Refuse a folder of something else before anything is written."""
        if not self.path.is_dir() or (self.path / self.proof).exists():
            return
        ours = ("run.lock", f".{self.proof}.")  # the latter is left by a start that was killed
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
        if not self.writes:
            return
        try:
            with open(self.path / name, "a", encoding="utf-8") as file:
                file.write("".join(_line(row) for row in rows))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise WriteError(f"{self.path / name}: {error.strerror}") from error

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
        found = self.write_json("status.json", {"status": status, **more})
        if self.writes and status == "running":
            digests.remove(self.path)
        elif self.writes:
            digests.write(self.path)
        return found


def _line(row: dict[str, Any]) -> str:
    return json.dumps(plain(row), allow_nan=False) + "\n"
