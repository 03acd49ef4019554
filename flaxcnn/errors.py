"""Errors a user may meet, each with the exit code that the command line promises.

0 ok, 1 failure, 2 usage or configuration, 3 data missing or corrupt, 4 diverged (non-finite),
5 no usable checkpoint, 6 cannot write, 75 preempted and resumable (SIGTERM), 130 SIGINT.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FlaxcnnError(Exception):
    """Any failure with a message for the user; `exit_code` is what the process ends with."""

    exit_code = 1


class ConfigError(FlaxcnnError, ValueError):
    """The recipe or the command is wrong: nothing was started."""

    exit_code = 2


class DataError(FlaxcnnError):
    """Data is missing, corrupt, or not what the recipe needs."""

    exit_code = 3


class ReaderError(FlaxcnnError):
    """A process that reads images was killed; the run can be resumed."""


class OutOfMemoryError(FlaxcnnError, MemoryError):
    """The device, or the machine, has less memory than the work takes."""


class DivergedError(FlaxcnnError):
    """The loss stopped being a finite number."""

    exit_code = 4


class CheckpointError(FlaxcnnError):
    """No checkpoint can be used."""

    exit_code = 5


class WriteError(FlaxcnnError):
    """A run directory or a file in it cannot be written."""

    exit_code = 6


class FolderInUseError(WriteError):
    """Another process writes to the folder."""


class InterruptedRun(FlaxcnnError):
    """A signal stopped the run after its state was saved; `--resume` goes on from there."""

    def __init__(self, signal: str, message: str, exit_code: int):
        super().__init__(f"{signal}: {message}")
        self.signal = signal
        self.exit_code = exit_code


class PeerLostError(FlaxcnnError):
    """Another process of the run is gone; `--resume` goes on from the last checkpoint."""

    exit_code = 75


def near_miss(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known word nearest to `word`, or an empty string."""
    matches = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""
