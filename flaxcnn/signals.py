"""Which signals stop the program, with which exit code, and who hears them."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], None]

# Schedulers send SIGTERM, or what one asks them to send before it, as Slurm's --signal; a terminal
# that is closed sends SIGHUP.
EXIT_CODES = {
    signal.SIGTERM: 75, signal.SIGINT: 130, signal.SIGHUP: 75, signal.SIGUSR1: 75,
    signal.SIGUSR2: 75,
}  # fmt: skip
# Between a scheduler's signal and SIGKILL, unless told otherwise: of Slurm and Kubernetes
GRACE_SECONDS = 30.0
ALWAYS = (signal.SIGTERM, signal.SIGINT)  # the others may have a use of the user's own


class Handlers:
    """A handler of all signals that stop the program, and what was there before it.

    SIGHUP, SIGUSR1 and SIGUSR2 stay with a handler of the user's own, and are ignored where they
    are, as below nohup. Outside the main thread nothing is done: Python handles no signal there.

    >>> heard = []
    >>> handlers = Handlers(lambda number, _: heard.append(signal.Signals(number).name))
    >>> handlers.install()
    >>> signal.raise_signal(signal.SIGUSR1)
    >>> handlers.remove()
    >>> heard
    ['SIGUSR1']
    """

    _ours: list[Handler] = []  # noqa: RUF012 - of all instances

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Have the handler called."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._ours.append(self.handler)
        for number in EXIT_CODES:
            before = signal.getsignal(number)
            free = before == signal.SIG_DFL or before in self._ours
            if free or (number in ALWAYS and before is not None):
                self._before[number] = signal.signal(number, self.handler)

    def remove(self) -> None:
        """Give each signal back to whom it belonged."""
        if threading.current_thread() is not threading.main_thread() or not self._before:
            return
        self._ours.remove(self.handler)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


def leave(number: int, _: FrameType | None) -> None:
    """End the process at once: nothing is under way that would be lost."""
    name = signal.Signals(number).name
    os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, (
        f"interrupted: {name}: ended at once; what is saved stays, and --resume goes on from it\n"
    ).encode())  # fmt: skip
    os._exit(EXIT_CODES[signal.Signals(number)])
