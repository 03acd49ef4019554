"""The lock of a folder: the system's file lock, and a lease in the same file where that may lie.

Some network file systems have no file locks, and others keep them on each machine alone. So the
holder writes who it is into the locked file, with a count that goes up every few seconds. Another
machine takes the folder only once the count has stood still; no clocks are compared.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import Any

from flaxcnn.errors import FolderInUseError, WriteError
from flaxcnn.limits import read_bytes

log = logging.getLogger(__name__)

NAME = "run.lock"
BEAT_SECONDS = 5.0  # between two counts of the holder
QUIET_SECONDS = 15.0  # without one, after which a holder on another machine counts as gone
TAKEN = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)  # of flock: another process has it
AGAIN = "; what was trained since the last checkpoint is lost, the rest may be where it went"
LENGTH = 511  # bytes of a lease, always, so that one can be written over another


class Lease:
    """A folder that this process holds, until `release`, or until the process ends.

    Raises:
        FolderInUseError: another process holds it.
        OSError: the lock file cannot be opened.
    """

    def __init__(self, folder: Path, kind: str):
        self.path = folder / NAME
        self._where = f"{kind} directory {folder}"
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._about: dict[str, Any] = {
            "process": os.getpid(), "host": socket.gethostname(), "machine": _machine(),
            "started": _started(os.getpid()), "token": secrets.token_hex(8), "beat": 0,
        }  # fmt: skip
        self._ended = threading.Event()
        self._turn = threading.Lock()
        try:
            self._take()
            self._write()
        except BaseException:
            os.close(self._file)
            raise
        threading.Thread(target=self._beat, daemon=True, name="lease").start()

    def _take(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in TAKEN:
                raise self._in_use(_read(self.path)) from None
        holder = _read(self.path)
        if _alive(holder):
            raise self._in_use(holder)
        if _elsewhere(holder):
            log.warning(
                "%s: looking for %.0f s whether process %s on %s still runs",
                self._where, QUIET_SECONDS, holder.get("process"), holder.get("host"),
            )  # fmt: skip
        waited = time.monotonic() + QUIET_SECONDS
        while _elsewhere(holder) and time.monotonic() < waited:
            time.sleep(BEAT_SECONDS / 10)
            if (now := _read(self.path)) != holder and now:
                raise self._in_use(now)
            holder = now

    def _in_use(self, holder: dict[str, Any]) -> FolderInUseError:
        named = f"process {holder.get('process')} on {holder.get('host')}"
        return FolderInUseError(
            f"{self._where}: in use by {named if holder else 'another process'}"
        )

    def check(self) -> None:
        """Raise unless the folder is still there and still held by this process.

        Raises:
            WriteError: it was removed, moved, or its disk is gone.
            FolderInUseError: another process has taken it.
        """
        try:
            there, own = os.stat(self.path), os.fstat(self._file)
        except OSError as error:
            raise WriteError(f"{self._where}: is gone ({error.strerror}){AGAIN}") from None
        if (there.st_dev, there.st_ino) != (own.st_dev, own.st_ino):
            raise WriteError(f"{self._where}: is another one now{AGAIN}")
        holder = _read(self.path)
        if holder and holder.get("token") != self._about["token"]:
            raise self._in_use(holder)

    def release(self) -> None:
        """Give the folder up."""
        self._ended.set()
        with self._turn:
            try:
                if _read(self.path).get("token") == self._about["token"]:
                    os.ftruncate(self._file, 0)
            except OSError:
                pass  # a disk that is full or read-only: the file lock ends all the same
            os.close(self._file)

    def _write(self) -> None:
        """In place and in one call, so that nobody reads half of it."""
        named = f"process {self._about['process']} on {self._about['host']}"
        text = f"{named} {json.dumps(self._about)}"
        os.pwrite(self._file, text.encode().ljust(LENGTH) + b"\n", 0)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with self._turn:
                if self._ended.is_set():
                    return
                try:
                    if _read(self.path).get("token", self._about["token"]) != self._about["token"]:
                        return  # `check` will say so
                    self._about["beat"] += 1
                    self._write()
                except (OSError, ValueError):
                    continue


def _read(path: Path) -> dict[str, Any]:
    """What the holder says of itself; empty without one, or where a write is under way."""
    try:
        holder = json.loads(b"{" + read_bytes(path, 2 * LENGTH).partition(b"{")[2])
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _started(process: int) -> str | None:
    """When a process was started, in the system's ticks; None where that cannot be known."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[19]


def _alive(holder: dict[str, Any]) -> bool:
    """Whether the holder is another process of this machine that runs; its number may be reused."""
    number = holder.get("process")
    if holder.get("machine") != _machine() or type(number) is not int or number < 1:
        return False
    started = _started(number)
    return number != os.getpid() and started is not None and started == holder.get("started")


def _elsewhere(holder: dict[str, Any]) -> bool:
    return bool(holder) and holder.get("machine") != _machine()


def _machine() -> str:
    """The host, and which of its containers."""
    try:
        number = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        number = 0
    return f"{socket.gethostname()}/{number}"
