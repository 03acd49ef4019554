"""Named places where tests make something go wrong; they do nothing unless FLAXCNN_FAULT is set.

`FLAXCNN_FAULT=POINT:ACTION[:N]` does ACTION the N-th time (1 if left out) that POINT is passed;
several are separated by commas.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable

from flaxcnn.errors import ConfigError, one_of

POINTS = (
    "record.write",  # before a record is renamed to its name
    "record.append",  # before a line is added to a record
    "checkpoint.save",  # before a checkpoint is handed to the thread that writes it
    "checkpoint.wait",  # before that thread is waited for
)
JUMP = 400 * 24 * 3600.0  # seconds that the clock goes back


def _fail(number: int) -> Callable[[], None]:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    return fail


def _clock() -> None:
    """Four hundred days back, from now on."""
    now = time.time
    time.time = lambda: now() - JUMP


ACTIONS: dict[str, Callable[[], None]] = {
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "term": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "enospc": _fail(errno.ENOSPC),
    "erofs": _fail(errno.EROFS),
    "eio": _fail(errno.EIO),
    "clock": _clock,
}


def planned(text: str) -> dict[str, list[tuple[int, str]]]:
    """Point -> (which time it is passed, action).

    >>> planned("record.append:kill:3,checkpoint.save:enospc")
    {'record.append': [(3, 'kill')], 'checkpoint.save': [(1, 'enospc')]}

    Raises:
        ConfigError: no such point or action.
    """
    plan: dict[str, list[tuple[int, str]]] = {}
    for each in filter(None, text.split(",")):
        name, _, rest = each.partition(":")
        action, _, number = rest.partition(":")
        if name not in POINTS or action not in ACTIONS or not (number or "1").isdecimal():
            raise ConfigError(
                f"FLAXCNN_FAULT must be POINT:ACTION[:N], POINT {one_of(POINTS)}, ACTION "
                f"{one_of(ACTIONS)} (got {each!r})"
            )
        plan.setdefault(name, []).append((int(number or 1), action))
    return plan


_text = os.environ.get("FLAXCNN_FAULT")
_plan = planned(_text) if _text else None
_passed: dict[str, int] = {}


def passing(point: str) -> None:
    """Tell that a point is passed."""
    if _plan is None:
        return
    _passed[point] = _passed.get(point, 0) + 1
    for number, action in _plan.get(point, ()):
        if number == _passed[point]:
            ACTIONS[action]()
