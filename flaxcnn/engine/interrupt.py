"""SIGTERM and SIGINT as a flag that the loop reads where it can stop without losing anything."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

import jax

from flaxcnn.engine.hosts import any_of, several
from flaxcnn.errors import InterruptedRun

EXIT_CODES = {signal.SIGTERM: 75, signal.SIGINT: 130}
POLL_SECONDS = 0.002  # between looks at whether the device is done; far below one epoch


class Interrupt:
    """While in use, the first signal is noted and a second one has its usual effect at once.

    A process that is one of several goes on until all of them can stop at the same step: `check`
    and `wait` say nothing there; `coming` asks them all.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._alone = not several()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before.clear()

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Inside, signals have their usual effect: other code than ours is at work."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = signal.Signals(number)

    def check(self) -> None:
        """Raise InterruptedRun if a signal has come."""
        if self.received is not None and self._alone:
            raise _interrupted(self.received)

    def coming(self) -> bool:
        """Whether a signal has come to any process; all ask at the same step."""
        return any_of(self.received is not None)

    def stop(self) -> NoReturn:
        """Raise InterruptedRun; the signal may have come to another process."""
        raise _interrupted(self.received or signal.SIGTERM)

    def wait(self, tree: Any) -> None:
        """Until every array of `tree` is computed; a signal is heard meanwhile."""
        leaves = jax.tree.leaves(tree)
        while not all(leaf.is_ready() for leaf in leaves):
            self.check()
            time.sleep(POLL_SECONDS)
        self.check()


def _interrupted(received: signal.Signals) -> InterruptedRun:
    return InterruptedRun(
        received.name,
        "stopped after the last checkpoint; the same command with --resume goes on from it",
        EXIT_CODES[received],
    )
