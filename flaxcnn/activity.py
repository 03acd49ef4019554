"""What this process is doing at the moment, noted where it is done, for whoever shows it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field


@dataclass(eq=False)
class Activity:
    """Something that takes a while, under way since `began` (of time.monotonic)."""

    what: str  # such as "compiling the training step"
    images: int = 0  # that it goes through; 0: they are not what counts
    expected: float | None = None  # seconds that the last one of its kind took
    done: int | None = None  # images so far; None: the device does not tell
    loss: Callable[[], float | None] = lambda: None  # mean of the images that are done last
    thread: int = field(default_factory=threading.get_ident)
    began: float = field(default_factory=lambda: time.monotonic())

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.began

    def share(self) -> tuple[float | None, bool]:
        """(how much of it is done, of 1; whether that is an estimate by `expected`)."""
        if self.images and self.done is not None:
            return min(self.done / self.images, 1.0), False
        if self.expected:
            return min(self.seconds / self.expected, 0.99), True
        return None, False


_lock = threading.Lock()
_under_way: list[Activity] = []
_took: dict[Hashable, float] = {}  # seconds by kind
_listener: Callable[[Activity], None] | None = None


def under_way() -> list[Activity]:
    """All that is being done, the latest last."""
    with _lock:
        return list(_under_way)


@contextlib.contextmanager
def doing(what: str, images: int = 0, kind: Hashable = None) -> Iterator[Activity]:
    """Note that the block does something.

    Args:
        what: in words, in the form "compiling the training step".
        images: that it goes through.
        kind: equal for blocks that take equally long; None: no other does.
    """
    activity = Activity(what, images, _took.get(kind))
    with _lock:
        _under_way.append(activity)
        listener = _listener
    if listener is not None:
        listener(activity)
    try:
        yield activity
        if kind is not None:
            _took[kind] = activity.seconds
    finally:
        with _lock:
            _under_way.remove(activity)


def moved(images: int, loss: Callable[[], float | None]) -> None:
    """The activity of this thread that goes through images has done more of them."""
    mine = [a for a in under_way() if a.images and a.thread == threading.get_ident()]
    if mine:
        mine[-1].done = (mine[-1].done or 0) + images
        mine[-1].loss = loss


@contextlib.contextmanager
def listening(listener: Callable[[Activity], None]) -> Iterator[None]:
    """Inside, `listener` is called with each activity as it begins, in the thread that does it."""
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before
