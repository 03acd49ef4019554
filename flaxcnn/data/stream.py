"""Rows of a data set too large to hold, read in the requested order by worker processes.

The caller submits row numbers, so there is no iterator state to save. grain runs the workers, moves
their pixels through shared memory and returns them in order:

    submit(rows) -> slip file i: row numbers, seed, epoch -> worker: __getitem__(i) decodes them
    read()       <- pixels i through shared memory        <-

Worker items are numbered, and a slip, a small file, tells the worker what rows item i has; it is
written before the item is needed. So the workers live as long as the reader, over all epochs and
evaluations.
"""

from __future__ import annotations

import contextlib
import gc
import math
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flaxcnn.data.images import Images, Pixels, rows_at_once
from flaxcnn.data.resize import Draws
from flaxcnn.errors import ConfigError, FlaxcnnError, ReaderError, first_line

ITEM_BYTES = 2 * 2**20  # of pixels per item: much work compared with handing it over
AHEAD = 6  # items per worker that may be decoded before they are read
POLL_SECONDS = 0.002  # between a worker's checks for its next slip
LAST = "end"  # the slip that ends a worker
WORKER = "worker-"  # with its process number: a file that says it is there
READ_SECONDS = 300.0  # for 2 MiB of pixels, after which the workers count as blocked


def read_seconds() -> float:
    """FLAXCNN_READ_SECONDS, or its default; ConfigError where that is no number of seconds."""
    given = os.environ.get("FLAXCNN_READ_SECONDS") or str(READ_SECONDS)
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ConfigError(f"FLAXCNN_READ_SECONDS must be a number of seconds (got {given!r})")
    return seconds


class Order(NamedTuple):
    """Rows to read at once, and what their random crops depend on; None: as for evaluation."""

    rows: np.ndarray  # int32 [n]
    draws: Draws | None


def columns(rows: np.ndarray, process_index: int, process_count: int) -> np.ndarray:
    """The part of batches [S, B] that one of several processes reads: consecutive columns.

    `process_count` divides B; the parts of all processes, side by side, are the batches.
    """
    width, left = divmod(rows.shape[1], process_count)
    assert not left, f"batches of {rows.shape[1]} rows over {process_count} processes"
    return rows[:, process_index * width : (process_index + 1) * width]


def read_rows(archives: Sequence[Pixels], order: Order, pixels: np.ndarray) -> None:
    """Read rows [n], numbered through the archives, to `pixels`, uint8 [n, H, W, C].

    Numbers past the last row are copies, as `flaxcnn.data.sampling` has them.
    """
    copy, number = np.divmod(order.rows, sum(map(len, archives)))
    for draw in np.unique(copy):
        draws = order.draws and order.draws._replace(copy=int(draw))
        first = 0
        for image in archives:
            own = (copy == draw) & (number >= first) & (number < first + len(image))
            if own.any():
                rows = number[own] - first
                if not isinstance(image, Images):
                    pixels[own] = image[rows]
                elif own.all():
                    image.read_into(pixels, rows, draws)
                else:
                    pixels[own] = image.read(rows, draws)
            first += len(image)


class RowReader:
    """Reads rows in the order of `submit`; `read` returns the pixels of each order in turn.

    Args:
        archives: images [N, H, W, C], numbered through. Where all are arrays, there is nothing to
            decode, and this process reads them whatever `workers` is.
        workers: number of processes; 0: read in this one.

    Raises:
        ReaderError: from `read`, a worker was killed; the reader is closed then.
        DataError: from `read`, an image cannot be decoded.
    """

    def __init__(self, archives: Sequence[Pixels], workers: int):
        undecoded = any(isinstance(image, Images) for image in archives)
        self.archives = archives
        self.workers = workers if undecoded else 0
        self.item_rows = rows_at_once(archives[0].shape, ITEM_BYTES)
        self._waiting: deque[Order] = deque()  # submitted, no slip yet
        self._ahead = self._read = 0  # slips written, items read
        self._lock = threading.Lock()
        self._folder: Path | None = None  # of slips; None: there are no workers (any more)
        self._items: Any = None
        self._failure: FlaxcnnError | None = None  # of a worker; then there is nothing to read
        self._since: float | None = None  # when the read under way began
        self._blocked = False  # a read took too long, and the workers were ended
        self.patience = read_seconds()  # with a read

    def submit(self, rows: np.ndarray, draws: Draws | None = None) -> int:
        """Request rows [n] int32 -> how many times to call `read` for them."""
        parts = [rows[start : start + self.item_rows]
                 for start in range(0, len(rows), self.item_rows)]  # fmt: skip
        with self._lock:
            self._waiting.extend(Order(part, draws) for part in parts)
        if self.workers:
            self._start()
            self._hand_out()
        return len(parts)

    def read(self) -> np.ndarray:
        """The next requested rows, uint8 [n, H, W, C], n at most `item_rows`."""
        if not self.workers:
            with self._lock:
                order = self._waiting.popleft()
            pixels = np.empty((len(order.rows), *self.archives[0].shape[1:]), np.uint8)
            read_rows(self.archives, order, pixels)
            return pixels
        if self._failure is not None:
            raise self._failure
        try:
            self._since = time.monotonic()
            pixels = next(self._items)
            self._since = None
        except Exception as error:
            self._since = None
            self._failure = error if isinstance(error, FlaxcnnError) else self._killed(error)
            self._end()
            raise self._failure from None
        assert self._folder is not None
        (self._folder / str(self._read)).unlink()
        self._read += 1
        self._hand_out()
        return pixels

    def _watch(self, folder: Path) -> None:
        """End the workers if a read takes too long: a disk does not answer, or one was stopped."""
        while self._folder == folder:
            since = self._since
            if since is not None and time.monotonic() - since > self.patience:
                self._blocked = True
                for file in folder.glob(f"{WORKER}*"):
                    with contextlib.suppress(OSError, ValueError):
                        os.kill(int(file.name.removeprefix(WORKER)), signal.SIGKILL)
                return
            time.sleep(min(1.0, self.patience / 4))

    def _killed(self, error: Exception) -> ReaderError:
        if self._blocked:
            return ReaderError(
                f"no image was decoded for {self.patience:g} s: a process that decodes was "
                "stopped, or its disk does not answer; resume with --resume, or set "
                "FLAXCNN_READ_SECONDS"
            )
        code = re.search(r"exit code (-?\d+)", str(error))
        return ReaderError(
            f"one of {self.workers} processes that decode images was killed "
            f"({f'exit code {code[1]}' if code else first_line(error)}); resume with --resume, "
            "with fewer workers if memory is short"
        )

    def forget(self) -> None:
        """Drop all submitted rows that are not read yet."""
        with self._lock:
            self._waiting.clear()
        while self._folder is not None and self._read < self._ahead:
            self.read()

    def close(self) -> None:
        """End the workers."""
        with contextlib.suppress(FlaxcnnError):
            self.forget()  # unread shared memory would be left behind
        self._end()

    def _end(self) -> None:
        if self._folder is None:
            return
        folder, self._folder = self._folder, None
        (folder / LAST).touch()
        self._items.close()
        self._items = None
        gc.collect()  # exceptions of grain's threads still refer to the last shared memory
        shutil.rmtree(folder, ignore_errors=True)

    def _start(self) -> None:
        if self._folder is not None or self._failure is not None:
            return
        # Takes seconds to import, and resident data does not need it
        import grain
        from absl import flags

        self._folder = Path(tempfile.mkdtemp(prefix="flaxcnn-stream-"))
        threading.Thread(target=self._watch, args=(self._folder,), daemon=True).start()
        source: Any = grain.MapDataset.source(_Source(self.archives, str(self._folder)))
        unbuffered = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        processes = grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=2)
        if (
            not flags.FLAGS.is_parsed()
        ):  # grain reads absl's flags, which a program without absl never parses
            flags.FLAGS.mark_as_parsed()
        ready = source.to_iter_dataset(unbuffered).mp_prefetch(processes, _begin(self._folder))
        self._items = iter(ready)

    def _hand_out(self) -> None:
        """Write slips as far ahead as the workers may read."""
        with self._lock:
            while (
                self._folder is not None
                and self._waiting
                and self._ahead < self._read + AHEAD * self.workers
            ):
                rows, draws = self._waiting.popleft()
                head = np.array([-1, -1] if draws is None else [draws.seed, draws.epoch], np.int64)
                new = self._folder / f".{self._ahead}"
                new.write_bytes(head.tobytes() + np.asarray(rows, np.int32).tobytes())
                new.rename(self._folder / str(self._ahead))
                self._ahead += 1


class _Ended(Exception):
    """Raised by a worker once the reader is closed, since grain waits for an answer."""


@dataclass(frozen=True)
class _Source:
    """Item i has the rows of slip i."""

    archives: Sequence[Pixels]
    folder: str

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, number: int) -> np.ndarray:
        from grain.multiprocessing import SharedMemoryArray

        slip, last = f"{self.folder}/{number}", f"{self.folder}/{LAST}"
        while True:
            with contextlib.suppress(FileNotFoundError):
                data = Path(slip).read_bytes()
                break
            if os.path.exists(last):
                raise _Ended
            time.sleep(POLL_SECONDS)
        seed, epoch = np.frombuffer(data, np.int64, 2).tolist()
        rows = np.frombuffer(data, np.int32, offset=16)
        order = Order(rows, None if seed < 0 else Draws(seed, epoch))
        # Memory that grain hands over without a copy
        pixels = SharedMemoryArray((len(rows), *self.archives[0].shape[1:]), np.uint8)
        try:
            read_rows(self.archives, order, pixels)
        except BaseException:
            pixels.metadata.close_and_unlink_shm()
            raise
        return pixels


@dataclass(frozen=True)
class _begin:
    """First step of a worker: leave signals to the main process, and end when it ends."""

    folder: Path

    def __call__(self, index: int, count: int) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        (self.folder / f"{WORKER}{os.getpid()}").touch()
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        shutil.rmtree(self.folder, ignore_errors=True)
        os._exit(0)
