"""What commands share: JSON on stdout or text, and errors as one line with the right exit code."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import typer

from flaxcnn.errors import FlaxcnnError, InterruptedRun

Command = TypeVar("Command", bound=Callable[..., None])
SIGINT_EXIT = 130
_at_once = False  # see leave_at_once


def emit_json(value: Any) -> None:
    """The one JSON document of a command."""
    print(json.dumps(value, indent=1, allow_nan=False), flush=True)


def say(text: str, as_json: bool = False) -> None:
    """A line for a person: on stdout, or on stderr where stdout is for JSON."""
    print(text, file=sys.stderr if as_json else sys.stdout, flush=True)


def table(lines: list[list[str]], as_json: bool = False) -> None:
    """Cells in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for cells in lines:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        say("  ".join(padded).rstrip(), as_json)


def note(text: str) -> None:
    """A warning, on stderr."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def quiet() -> None:
    """Silence what Orbax prints of its own, once it is imported: what it reports, it raises too.

    It logs with tracebacks, and a read that fails leaves others behind that complain in threads.
    """
    if not os.environ.get("FLAXCNN_DEBUG"):
        for library in ("absl", "gcsfs"):
            logging.getLogger(library).setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        sys.unraisablehook = lambda _: None


def report(message: str, code: int, as_json: bool) -> None:
    """An error as one line on stderr, and as the JSON document where one was asked for."""
    message = " ".join(message.split())
    print(f"error: {message}", file=sys.stderr, flush=True)
    if as_json:
        try:
            emit_json({"error": message, "exit_code": code})
        except BrokenPipeError:
            _nobody_reads()


def _nobody_reads() -> None:
    """`flaxcnn ... | head`: the reader has enough, and python must not complain at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def leave_at_once() -> None:
    """From now on an error ends the process without goodbye to the processes it has joined.

    They would be waited for, and wait in turn for what this one was to compute.
    """
    global _at_once
    _at_once = True


def _fail(message: str, code: int, as_json: bool) -> NoReturn:
    report(message, code, as_json)
    if _at_once:
        os._exit(code)
    raise typer.Exit(code)


def command(function: Command) -> Command:
    """Turn what a command raises into one line and an exit code; FLAXCNN_DEBUG=1 shows more."""

    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        as_json = bool(kwargs.get("as_json"))
        try:
            function(*args, **kwargs)
        except InterruptedRun as error:
            print(f"interrupted: {error}", file=sys.stderr, flush=True)
            # The device may still be busy with an epoch nobody waits for: do not wait for it.
            os._exit(error.exit_code)
        except FlaxcnnError as error:
            if os.environ.get("FLAXCNN_DEBUG"):
                traceback.print_exc()
            _fail(str(error), error.exit_code, as_json)
        except KeyboardInterrupt:
            _fail("interrupted", SIGINT_EXIT, as_json)
        except BrokenPipeError:
            _nobody_reads()
            raise typer.Exit(0) from None
        except typer.Exit:
            raise
        except Exception as error:
            if os.environ.get("FLAXCNN_DEBUG"):
                raise
            text = f"{type(error).__name__}: {error}"[:300]
            _fail(f"unexpected {text} (FLAXCNN_DEBUG=1 shows where)", 1, as_json)

    return guarded  # type: ignore[return-value]
