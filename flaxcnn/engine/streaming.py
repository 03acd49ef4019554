"""Epochs over data too large for the device: the same steps, over chunks of batches as they come.

A chunk is a few batches with their pixels. While the device works on one, the next lies on it and
the one after that is put together by a thread, from what the reader's processes decode. Rows, order
and draws are those of the resident loop: row numbers come from the same functions, so a pass is
known beforehand, and the next one is begun while the last chunks of this one are computed.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.data.batches import Batch, Scaling, shuffled
from flaxcnn.data.images import Pixels, rows_at_once
from flaxcnn.data.resize import Draws
from flaxcnn.data.stream import RowReader, columns
from flaxcnn.engine import devices, sharding
from flaxcnn.engine.chunks import eval_chunk, joined, train_chunk
from flaxcnn.engine.compiled import compiled, jitted
from flaxcnn.engine.epoch import eval_batches
from flaxcnn.engine.interrupt import POLL_SECONDS
from flaxcnn.engine.step import Hypers, Plan, TrainState
from flaxcnn.rng import Purpose

CHUNK_BYTES = 16 * 2**20  # of pixels: large beside the cost of a call, small beside any memory
IN_FLIGHT = 8  # chunks that a budget must hold: two on the device, others waiting, made, copied
Tree = Any


class Pass(NamedTuple):
    """One way through the rows of a split: in an epoch's order, or as they come, to evaluate."""

    split: str
    epoch: int | None


class Part(NamedTuple):
    """A chunk before it has pixels."""

    row: np.ndarray  # int32 [k, B]
    mask: np.ndarray  # bool [k, B]
    reads: int  # calls of the reader that give this process's columns
    width: int  # B' of them
    length: int  # K: chunks of a pass have one shape, and the last is made up to it


class Streaming:
    """The loop over chunks, with the reader and the thread that feed it.

    Args:
        plan: of the run.
        archives: images of train and test.
        label: int32 [N], of both.
        rows: split -> row numbers.
        width: rows of an evaluation batch.
        place: where arrays lie that every device holds whole.
        seeds: of the run, by Purpose.
        epochs: of the run, so that none beyond is begun.
        evaluate_train: whether an epoch ends with a pass over the training rows.
        workers: processes that decode.
        memory: bytes of pixels that may be held.
    """

    def __init__(
        self, plan: Plan, archives: list[Pixels], label: np.ndarray,
        rows: Callable[[str], np.ndarray], width: int, place: jax.sharding.Sharding,
        seeds: list[int], epochs: int, evaluate_train: bool, workers: int, memory: int,
    ):  # fmt: skip
        self.plan, self.shape, self.label = plan, archives[0].shape[1:], label
        self.rows, self.width, self.place, self.seeds = rows, width, place, seeds
        self.epochs, self.evaluate_train = epochs, evaluate_train
        self.reader = RowReader(archives, workers)
        self.chunk_rows = rows_at_once(archives[0].shape, min(CHUNK_BYTES, memory // IN_FLIGHT))
        self.stalled = 0.0  # seconds in which the device had nothing to do for want of rows
        self.compile_seconds = 0.0
        self._share = devices.process_share(plan.sharding.devices)
        self._compiled: dict[tuple[str, int, int], jax.stages.Compiled] = {}
        self._begun: deque[tuple[Pass, int]] = deque()  # passes under way and their chunks left
        self._midway = False  # in a pass; left so by one that was stopped
        self._feed: Feed | None = None
        self._running: Tree = None  # what the chunk that the device works on will give
        self._order = jax.jit(shuffled, static_argnums=(3, 4, 5))

    # -- programs --------------------------------------------------------------------------------

    def run(
        self, program: str, state: TrainState, hypers: Hypers, scaling: Scaling, split: str,
        check: Callable[[], None],
    ) -> Any:  # fmt: skip
        """As `Job.run`; `check` may stop it between chunks."""
        training = program == "train_epoch"
        epoch = int(state.step) // self.plan.steps_per_epoch if training else None
        ready = self.compile(program, state, hypers, scaling, split)
        results: list[tuple[Tree, int]] = []
        self._running = None
        for chunk, count in self._chunks(Pass(split, epoch), check):
            number = devices.device_put_global(np.int32(count), self.place)
            if training:
                state, found = ready(state, hypers, scaling, number, chunk)
            else:
                found = ready(state, scaling, number, chunk)
            results.append((found, count))
            if self._running is not None:  # the device has the next chunk: waiting costs nothing
                _wait(self._running, check)
            self._running = found
        whole = joined(self.plan, program, results)
        if program == "predict":
            return whole[: len(self.rows(split))]
        return (state, whole) if training else whole

    def compile(
        self, program: str, state: TrainState, hypers: Hypers, scaling: Scaling, split: str
    ) -> jax.stages.Compiled:
        """The program over the chunks of that pass, compiled on first use; its time is added up."""
        training = program == "train_epoch"
        length, width = self._chunk_shape(split, training)
        program = "evaluate" if program == "predict" else program  # which gives both
        key = (program, length, width)
        if key not in self._compiled:
            began = time.perf_counter()
            along = sharding.batch_sharding(self.plan.sharding)
            kinds = ((self.shape, jnp.uint8), ((), jnp.int32), ((), jnp.int32), ((), jnp.bool_))
            like: Any = Batch(*(
                jax.ShapeDtypeStruct((length, width, *rest), dtype, sharding=along)
                for rest, dtype in kinds
            ))  # type: ignore[arg-type]  # fmt: skip
            count = jax.ShapeDtypeStruct((), jnp.int32, sharding=self.place)
            if training:
                out: Tree = (
                    jax.tree.map(lambda x: x.sharding, state),
                    devices.output_sharding(self.place),
                )
                program_ = jitted(self.plan, train_chunk, donate=True, out=out)
                lowered = program_.lower(state, hypers, scaling, count, like)
            else:
                on_chunk = lambda plan, *args: eval_chunk(plan, program, *args)  # noqa: E731
                program_ = jitted(self.plan, on_chunk, out=devices.output_sharding(self.place))
                lowered = program_.lower(state, scaling, count, like)
            self._compiled[key] = compiled(lowered, self.plan)
            self.compile_seconds += time.perf_counter() - began
        return self._compiled[key]

    # -- rows ------------------------------------------------------------------------------------

    def _chunks(self, wanted: Pass, check: Callable[[], None]) -> Iterator[tuple[Batch, int]]:
        """The chunks of a pass with their numbers of batches; the next pass is begun too."""
        if self._midway or not self._begun or self._begun[0][0] != wanted:
            self._restart()
            self._begin(wanted)
        if wanted.epoch is not None:
            self._begin(Pass("validation", None))
            if self.evaluate_train:
                self._begin(Pass("train", None))
            if wanted.epoch + 1 < self.epochs:
                self._begin(Pass("train", wanted.epoch + 1))
        _, count = self._begun.popleft()
        self._midway = True
        for _ in range(count):
            yield self._next(check)
        self._midway = False

    def _next(self, check: Callable[[], None]) -> tuple[Batch, int]:
        """The next chunk; the time in which the device has none is added up."""
        assert self._feed is not None
        idle = time.perf_counter() if self._running is None else None
        while True:
            try:
                chunk = self._feed.get(POLL_SECONDS)
            except queue.Empty:
                check()
                if idle is None and _ready(self._running):
                    idle = time.perf_counter()
            else:
                self.stalled += 0.0 if idle is None else time.perf_counter() - idle
                return chunk

    def _begin(self, planned: Pass) -> None:
        """Have the rows of a pass read after those already asked for."""
        if self._feed is None:
            self._feed = Feed(self.reader, self._place)
        row, mask = self._batches(planned)
        length, _ = self._chunk_shape(planned.split, planned.epoch is not None)
        draws = None
        if planned.epoch is not None:
            draws = Draws(self.seeds[Purpose.AUGMENT], planned.epoch)
        starts = range(0, len(row), length)
        for start in starts:
            part = row[start : start + length]
            own = columns(part, *self._share)
            reads = self.reader.submit(own.ravel(), draws)
            self._feed.add(Part(part, mask[start : start + length], reads, own.shape[1], length))
        self._begun.append((planned, len(starts)))

    def _batches(self, planned: Pass) -> tuple[np.ndarray, np.ndarray]:
        rows, plan = self.rows(planned.split), self.plan
        if planned.epoch is None:
            return eval_batches(rows, self.width)
        now = (np.asarray(self.seeds, np.uint32), np.int32(planned.epoch), rows)
        sizes = (plan.batch_size, plan.drop_last, plan.sharding.parts)
        found = self._order(*devices.device_put_global(now, self.place), *sizes)
        return np.asarray(found[0]), np.asarray(found[1])

    def _chunk_shape(self, split: str, training: bool) -> tuple[int, int]:
        """(K, B) of the chunks of a pass."""
        if training:
            steps, width = self.plan.steps_per_epoch, self.plan.batch_size
            width += -width % self.plan.sharding.parts
        else:
            steps, width = -(-len(self.rows(split)) // self.width), self.width
        return min(max(self.chunk_rows // width, 1), steps), width

    def _place(self, part: Part, pixels: np.ndarray) -> tuple[Batch, int]:
        """A chunk on the device; `pixels` are those of this process's columns, [K, B', H, W, C]."""
        missing = ((0, part.length - len(part.row)), (0, 0))
        row, mask = (np.pad(columns(x, *self._share), missing) for x in (part.row, part.mask))
        along = sharding.batch_sharding(self.plan.sharding)
        local = Batch(pixels, self.label[row], row, mask)  # type: ignore[arg-type]
        if self._share[1] == 1:
            return jax.device_put(local, along), len(part.row)
        chunk = jax.tree.map(lambda x: jax.make_array_from_process_local_data(along, x), local)
        return chunk, len(part.row)

    def _restart(self) -> None:
        """Drop what was begun and is not wanted."""
        if self._feed is not None:
            self._feed.stop()
            self._feed = None
            self.reader.forget()
        self._begun.clear()

    def close(self) -> None:
        """End the thread and the processes."""
        if self._feed is not None:
            self._feed.stop()
            self._feed = None
        self._begun.clear()
        self.reader.close()


class Feed:
    """A thread that puts chunks together, one ahead of the one that waits to be taken."""

    def __init__(
        self, reader: RowReader, place: Callable[[Part, np.ndarray], tuple[Batch, int]]
    ):  # fmt: skip
        self._reader, self._place = reader, place
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
        found = self._ready.get(timeout=seconds)
        if isinstance(found, BaseException):
            raise found
        return found

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
        shape = (part.length, part.width, *self._reader.archives[0].shape[1:])
        pixels = np.empty(shape, np.uint8)
        flat, filled = pixels.reshape(-1, *shape[2:]), 0
        for _ in range(part.reads):
            if self._stopped.is_set():
                break
            found = self._reader.read()
            flat[filled : filled + len(found)] = found
            filled += len(found)
        return self._place(part, pixels)


def _ready(tree: Tree) -> bool:
    return tree is not None and all(leaf.is_ready() for leaf in jax.tree.leaves(tree))


def _wait(tree: Tree, check: Callable[[], None]) -> None:
    while not _ready(tree):
        check()
        time.sleep(POLL_SECONDS)
    check()
