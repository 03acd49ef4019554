"""A thread that assembles chunks of a stream, one ahead of the one that waits to be taken."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from flaxcnn.data.batches import Batch
from flaxcnn.data.stream import RowReader
from flaxcnn.engine.interrupt import POLL_SECONDS


class Part(NamedTuple):
    """A chunk before it has pixels."""

    row: np.ndarray  # int32 [k, B]
    mask: np.ndarray  # bool [k, B]
    partner: np.ndarray | None  # int32 [k, B]: a row to be mixed with each, read after all of them
    reads: tuple[int, ...]  # calls of the reader that give this process's columns, and partners
    width: int  # B' of them
    length: int  # K: chunks of a pass have one shape, and the last is padded to it


class Feed:
    """A thread that puts chunks together, one ahead of the one that waits to be taken."""

    def __init__(
        self, reader: RowReader, on_device: Callable[[Part, list[np.ndarray]], tuple[Batch, int]]
    ):  # fmt: skip
        self._reader, self._on_device = reader, on_device
        self._parts: queue.SimpleQueue[Part | None] = queue.SimpleQueue()
        self._ready: queue.Queue[tuple[Batch, int] | BaseException] = queue.Queue(1)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="flaxcnn-feed", daemon=True)
        self._thread.start()

    def add(self, part: Part) -> None:
        """A chunk whose rows are submitted to the reader."""
        self._parts.put(part)

    def get(self, seconds: float) -> tuple[Batch, int]:
        """The next chunk and its number of batches, or queue.Empty; raises what reading raised."""
        chunk = self._ready.get(timeout=seconds)
        if isinstance(chunk, BaseException):
            raise chunk
        return chunk

    def stop(self) -> None:
        """End the thread; chunks that were not taken are lost."""
        self._stopped.set()
        self._parts.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (part := self._parts.get()) is not None and not self._stopped.is_set():
            try:
                made: tuple[Batch, int] | BaseException = self._make(part)
            except BaseException as error:  # raised where the chunk is asked for
                made = error
            while not self._stopped.is_set():
                with contextlib.suppress(queue.Full):
                    self._ready.put(made, timeout=POLL_SECONDS)
                    break

    def _make(self, part: Part) -> tuple[Batch, int]:
        return self._on_device(part, [self._pixels(part, reads) for reads in part.reads])

    def _pixels(self, part: Part, reads: int) -> np.ndarray:
        """uint8 [K, B', H, W, C] of the next calls of the reader."""
        shape = (part.length, part.width, *self._reader.archives[0].shape[1:])
        pixels = np.empty(shape, np.uint8)
        flat, filled = pixels.reshape(-1, *shape[2:]), 0
        for _ in range(reads):
            if self._stopped.is_set():
                break
            rows = self._reader.read()
            flat[filled : filled + len(rows)] = rows
            filled += len(rows)
        return pixels
