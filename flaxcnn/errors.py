"""Errors a user may meet, each with the exit code that the command line promises.

0 ok, 1 failure, 2 usage or configuration, 3 data missing or corrupt, 4 diverged (non-finite),
5 no usable checkpoint, 6 cannot write, 75 preempted and resumable (`flaxcnn.signals`), 130 SIGINT.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from tokenize import TokenError

# What numpy raises for an array's file that is missing or damaged; a TokenError since Python 3.12.
DAMAGED_ARRAY = (OSError, ValueError, EOFError, TokenError)
LONGEST = 4000  # characters of a message


class FlaxcnnError(Exception):
    """Any failure with a message for the user; `exit_code` is what the process ends with."""

    exit_code = 1

    def __str__(self) -> str:
        """The message; of a very long one, such as a name of a megabyte gives, both ends."""
        text = super().__str__()
        if len(text) <= LONGEST:
            return text
        return f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


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
    """`; did you mean 'x'?` for the known word nearest to `word`, or an empty string.

    >>> near_miss("adm", ["sgd", "adam"])
    "; did you mean 'adam'?"
    """
    matches = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def one_of(words: Iterable[str]) -> str:
    """Alternatives in words.

    >>> one_of(["sgd", "adam", "nadam"])
    'sgd, adam or nadam'
    """
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def check_choice(name: str, value: str, known: Collection[str]) -> None:
    """Check that an option or argument is one of the known words.

    Raises:
        ConfigError: it is not; the nearest word is named.
    """
    if value not in known:
        raise ConfigError(
            f"{name} must be {one_of(known)} (got {value!r}){near_miss(value, known)}"
        )


def first_line(error: Exception) -> str:
    """The message of an exception of another library, in one line."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__
