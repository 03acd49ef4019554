"""Output of all commands: text or one JSON document, and errors as one line with an exit code."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import logging
import os
import shutil
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

import typer

from flaxcnn.errors import FlaxcnnError, InterruptedRun
from flaxcnn.records.folder import remove_unused
from flaxcnn.records.tables import aligned, fitted

Command = TypeVar("Command", bound=Callable[..., None])
SIGINT_EXIT = 130
_at_once = False  # see leave_at_once


def emit_json(value: Any) -> None:
    """The one JSON document of a command."""
    _print(json.dumps(value, indent=1, allow_nan=False), sys.stdout)


def say(text: str, as_json: bool = False) -> None:
    """A line for a person: on stdout, or on stderr where stdout is for JSON."""
    _print(printable(text), sys.stderr if as_json else sys.stdout)


def _print(text: str, file: TextIO) -> None:
    """Where nobody reads any more, as after `flaxcnn train | head`, the work goes on in silence."""
    try:
        print(text, file=file, flush=True)
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def printable(text: str) -> str:
    """The text without what would move the cursor or change colours: names come from elsewhere."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


def short(path: Path) -> Path:
    """The path as one would type it here: relative where it lies below this folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def columns() -> int | None:
    """Of the terminal; None where stdout is none, so that lines may be as long as they are."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def hanging(start: str, text: str) -> str:
    """A line that goes on below `text` where a terminal is too narrow, between words."""
    width = columns()
    if width is None or len(start) + len(text) <= width:
        return start + text
    return textwrap.fill(
        text, max(width, len(start) + 20), initial_indent=start, break_long_words=False,
        subsequent_indent=" " * len(start), break_on_hyphens=False,
    )  # fmt: skip


def table(
    lines: list[list[str]], as_json: bool = False, wide: Sequence[str] | None = None,
    less: Sequence[str] = (),
) -> None:  # fmt: skip
    """Cells in aligned columns that fit the terminal; where there is room, the lines `wide`.

    Columns named in `less` are left out, the first one first, where others do not fit.
    """
    whole, width = wide or aligned(lines), columns()
    if width is not None and max(map(len, whole)) > width:
        whole = fitted(lines, width, less)
    for line in whole:
        say(line, as_json)


def note(text: str) -> None:
    """A warning, on stderr."""
    _print(f"warning: {printable(text)}", sys.stderr)


def quiet() -> None:
    """Silence the logs of Orbax and gcsfs: they print tracebacks of errors that they raise as well,
    and a failed read leaves tasks behind that warn in threads.
    """
    if not os.environ.get("FLAXCNN_DEBUG"):
        for library in ("absl", "gcsfs"):
            logging.getLogger(library).setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        sys.unraisablehook = lambda _: None


def print_error(message: str, code: int, as_json: bool) -> None:
    """An error as one line on stderr, and with --json as the JSON document."""
    message = printable(" ".join(message.split()))
    _print(f"error: {message}", sys.stderr)
    if as_json:
        emit_json({"error": message, "exit_code": code})


def leave_at_once() -> None:
    """From now on an error ends the process at once, without a barrier with the other processes.

    Each would wait for the other forever.
    """
    global _at_once
    _at_once = True


def leaves_at_once() -> bool:
    """Whether `leave_at_once` was called."""
    return _at_once


def _fail(message: str, code: int, as_json: bool) -> NoReturn:
    print_error(message, code, as_json)
    if _at_once:
        os._exit(code)
    raise typer.Exit(code)


def command(function: Command) -> Command:
    """Turn the errors of a command into one line and an exit code; FLAXCNN_DEBUG=1 shows more."""

    signature = inspect.signature(function)

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        as_json = bool(signature.bind(*args, **kwargs).arguments.get("as_json"))
        try:
            function(*args, **kwargs)
        except InterruptedRun as error:
            _print(f"interrupted: {error}", sys.stderr)
            # Do not wait for an epoch that the device may still compute.
            os._exit(error.exit_code)
        except FlaxcnnError as error:
            if os.environ.get("FLAXCNN_DEBUG"):
                traceback.print_exc()
            _fail(str(error), error.exit_code, as_json)
        except KeyboardInterrupt:
            _fail("interrupted", SIGINT_EXIT, as_json)
        except typer.Exit:
            raise
        except Exception as error:
            if os.environ.get("FLAXCNN_DEBUG"):
                raise
            text = f"{type(error).__name__}: {error}"[:300]
            _fail(f"unexpected {text} (FLAXCNN_DEBUG=1 shows where)", 1, as_json)
        finally:
            remove_unused()

    return guarded  # type: ignore[return-value]
