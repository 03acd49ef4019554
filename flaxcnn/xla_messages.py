"""Messages of XLA and Orbax that mean nothing here, kept from the terminal and from notebooks.

On each load of a cached program for CPU, XLA logs as an error that the processor lacks features,
which are tuning hints (jax issue 38445). It reads how much to log once, when jaxlib is imported.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import sys
import threading
from collections.abc import Iterator

LEVEL = "TF_CPP_MIN_LOG_LEVEL"  # 0: XLA logs everything; 3: nothing but what ends the process
NOISE = b"cpu_aot_loader.cc"  # the source file that a line names
MAY_BE_NOISE = re.compile(rb"[EWI]?$|[EWI]\d")  # how a line of XLA's begins: E1130 04:51:25.59
STDERR = 2
_speaks = False  # XLA logs what this package cannot turn off any more
_lock = threading.Lock()
_inside = 0  # blocks of `hushed` under way
_filter: _Filter | None = None


def choose_level() -> None:
    """Have XLA log nothing, if jaxlib is not imported yet and the user has not said otherwise."""
    global _speaks
    if "jaxlib" in sys.modules:  # jax has set the level to 1 if nobody had
        _speaks = os.environ.get(LEVEL, "1") == "1" and not os.environ.get("FLAXCNN_DEBUG")
    else:
        os.environ.setdefault(LEVEL, "0" if os.environ.get("FLAXCNN_DEBUG") else "3")


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Inside, where jaxlib was imported first, the lines of `NOISE` do not reach stderr.

    All other lines do, at once. Blocks may be nested and overlap in threads.
    """
    global _inside, _filter
    if not _speaks:
        yield
        return
    with _lock:
        _inside += 1
        if _inside == 1:
            with contextlib.suppress(OSError):  # the process has no stderr
                _filter = _Filter()
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside and _filter is not None:
                _filter.close()
                _filter = None


class _Filter:
    """A pipe in place of stderr, and a thread that passes on what comes through it."""

    def __init__(self) -> None:
        self.stderr = os.dup(STDERR)
        self.reading, writing = os.pipe()
        self.waiting, self.ending = os.pipe()
        os.set_blocking(self.reading, False)
        os.dup2(writing, STDERR)
        os.close(writing)
        self.thread = threading.Thread(target=self._pass_on, daemon=True)
        self.thread.start()

    def _pass_on(self) -> None:
        rest = b""
        while True:
            # The pipe may have no end: a process that was started inside may hold it.
            ready, _, _ = select.select([self.reading, self.waiting], [], [])
            part = os.read(self.reading, 65536) if self.reading in ready else b""
            if not part:
                break
            *lines, rest = (rest + part).split(b"\n")
            self._write(b"".join(line + b"\n" for line in lines if NOISE not in line))
            if not MAY_BE_NOISE.match(rest):  # such as a question, which waits for no end of line
                self._write(rest)
                rest = b""
        self._write(b"" if NOISE in rest else rest)

    def _write(self, text: bytes) -> None:
        with contextlib.suppress(OSError):
            while text:
                text = text[os.write(self.stderr, text) :]

    def close(self) -> None:
        """Give stderr back, after all that was written to it."""
        os.dup2(self.stderr, STDERR)
        os.close(self.ending)
        self.thread.join()
        for end in (self.reading, self.waiting, self.stderr):
            os.close(end)


@contextlib.contextmanager
def without_warnings(logger: str) -> Iterator[None]:
    """What `logger` logs inside is kept back, unless it is an error."""
    level = (own := logging.getLogger(logger)).level  # Orbax's asks no filter
    own.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        own.setLevel(level)
