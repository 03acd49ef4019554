"""Signals as a flag that the loop reads where it can stop without losing anything."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

import jax

from flaxcnn.engine.hosts import any_of, several
from flaxcnn.errors import InterruptedRun
from flaxcnn.signals import EXIT_CODES, GRACE_SECONDS, Handlers

POLL_SECONDS = 0.002  # between looks at whether the device is done; far below one epoch
# Of the grace, that the device may take to finish what it does; the rest is for writing.
TO_FINISH = 0.5


class Interrupt:
    """While in use, the first signal is noted and a second one has its usual effect at once.

    A process that is one of several goes on until all of them can stop at the same step: `check`
    and `wait` say nothing there; `coming` asks them all.

    Args:
        grace: seconds from the signal on in which all must be written.
    """

    def __init__(self, grace: float = GRACE_SECONDS) -> None:
        self.received: signal.Signals | None = None
        self.grace = grace
        self._alone = not several()
        self._deadline = float("inf")
        self._handlers = Handlers(self._note)

    def __enter__(self) -> Interrupt:
        self._handlers.install()
        return self

    def __exit__(self, *_: object) -> None:
        self._handlers.remove()

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Inside, signals have their usual effect: other code than ours is at work."""
        self._handlers.remove()
        try:
            yield
        finally:
            self._handlers.install()

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self._deadline = time.monotonic() + TO_FINISH * self.grace
        self.received = signal.Signals(number)

    @property
    def stops(self) -> bool:
        """Whether a signal has come, and this process may stop by itself."""
        return self.received is not None and self._alone

    def check(self) -> None:
        """Raise InterruptedRun if a signal has come."""
        if self.stops:
            self.stop()

    def overdue(self) -> None:
        """Raise InterruptedRun if a signal came so long ago that what it waits for is given up."""
        if time.monotonic() > self._deadline:
            self.check()

    def coming(self) -> bool:
        """Whether a signal has come to any process; all ask at the same step."""
        return any_of(self.received is not None)

    def stop(self, where: str = "stopped after the last checkpoint") -> NoReturn:
        """Raise InterruptedRun; the signal may have come to another process."""
        received = self.received or signal.SIGTERM
        raise InterruptedRun(
            received.name,
            f"{where}; the same command with --resume goes on from there",
            EXIT_CODES[received],
        )

    def wait(self, tree: Any) -> None:
        """Until every array of `tree` is computed; a signal is heard meanwhile."""
        wait_for(tree, self.check)


def is_ready(tree: Any) -> bool:
    """Whether every array of `tree` is computed."""
    return all(leaf.is_ready() for leaf in jax.tree.leaves(tree) if hasattr(leaf, "is_ready"))


def wait_for(tree: Any, check: Callable[[], None]) -> None:
    """Until every array of `tree` is computed; `check` is called meanwhile and after."""
    while not is_ready(tree):
        check()
        time.sleep(POLL_SECONDS)
    check()
