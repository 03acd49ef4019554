"""Epochs over data too large for the device: the same steps, over chunks of batches as they come.

A chunk is a few batches with their pixels. While the device works on one, the next is on it already
and a thread assembles the one after that from what the reader's processes decode:

    reader processes   decode and resize rows             submit() ... read()
    feed thread        assembles chunk k + 2              Feed
    device             holds chunk k + 1, computes k      Stream.chunks, StreamedJob

Rows, order and draws are those of a resident run: row numbers come from the same functions, so a
pass is known beforehand, and the next one is begun while the last chunks of this one are computed.
"""

from __future__ import annotations

import dataclasses
import functools
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.activity import moved
from flaxcnn.augment.chain import mixes
from flaxcnn.backend import cores
from flaxcnn.data import splits
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.batches import Batch, partners, shuffled
from flaxcnn.data.images import rows_at_once
from flaxcnn.data.resize import Draws
from flaxcnn.data.stream import RowReader, columns
from flaxcnn.engine import devices, epoch
from flaxcnn.engine.epoch import Alive
from flaxcnn.engine.feed import Feed, Part
from flaxcnn.engine.interrupt import POLL_SECONDS, wait_for
from flaxcnn.engine.job import Check, Job, SplitName, eval_shape, no_check, split_rows
from flaxcnn.engine.metrics import MetricSums
from flaxcnn.engine.programs import jitted
from flaxcnn.engine.sharding import batch_sharding
from flaxcnn.engine.step import Plan, TrainState
from flaxcnn.recipe.config import Config
from flaxcnn.rng import Purpose

CHUNK_BYTES = 16 * 2**20  # of pixels: large beside the cost of a call, small beside any memory
IN_FLIGHT = 8  # chunks that a budget must hold: two on the device, others waiting, made, copied
Tree = Any


class Pass(NamedTuple):
    """One way through the rows of a split: in an epoch's order, or as they come, to evaluate."""

    split: SplitName
    epoch: int | None
    first: int = 0  # batch


@dataclass(frozen=True)
class StreamedJob(Job):
    """Programs over chunks; `stream` reads them."""

    stream: Stream

    def train_parts(
        self, state: TrainState, done: int = 0, check: Check = no_check
    ) -> Iterator[tuple[TrainState, MetricSums, int]]:
        """The steps of an epoch after `done`, chunk by chunk: (state, sums [K], count)."""
        if done == self.plan.steps_per_epoch:
            return
        program = self.train_program(state)
        number = int(state.step) // self.plan.steps_per_epoch
        before: MetricSums | None = None  # of the chunk that the device is done with
        for chunk, count in self.stream.chunks(Pass("train", number, done), check):
            state, sums = program(state, self.hypers, self.data.scaling, self._count(count), chunk)
            self.stream.running(sums, check)
            moved(count * self.plan.batch_size, functools.partial(_mean_loss, before))
            before = sums
            yield state, sums, count

    def _evaluate(
        self, state: TrainState, split: SplitName, check: Check
    ) -> Iterator[tuple[tuple[MetricSums, jax.Array], int]]:
        program = self.eval_program(state, split)
        for chunk, count in self.stream.chunks(Pass(split, None), check):
            result = program(state, self.data.scaling, self._count(count), chunk)
            self.stream.running(result, check)
            yield result, count

    def _alive_units(self, state: TrainState, check: Check) -> Iterator[Alive]:
        program = self._eval_program(epoch.alive_units_chunk, state, "probe")
        for chunk, count in self.stream.chunks(Pass("probe", None), check):
            alive = program(state, self.data.scaling, self._count(count), chunk)
            self.stream.running(alive, check)
            yield alive

    def _count(self, count: int) -> jax.Array:
        number: jax.Array = devices.device_put_global(np.int32(count), self.placement)
        return number

    # -- programs --------------------------------------------------------------------------------

    def train_program(self, state: TrainState) -> jax.stages.Compiled:
        """The program behind `train_parts`: over a chunk of training batches."""
        length, width = self.stream.chunk_shape("train", training=True)

        def lower() -> jax.stages.Lowered:
            out = (self.state_placement(state), devices.output_sharding(self.placement))
            program = jitted(self.plan, epoch.train_chunk, donate=True, out=out)
            chunk = self._chunk_like(length, width, mixes(self.plan.augment))
            return program.lower(state, self.hypers, self.data.scaling, *chunk)

        return self.programs.get((epoch.train_chunk, length, width), lower, self.plan)

    def eval_program(self, state: TrainState, split: SplitName) -> jax.stages.Compiled:
        """The program behind `evaluate` and `predict`: over a chunk of a split."""
        return self._eval_program(epoch.evaluate_chunk, state, split)

    def _eval_program(
        self, function: Callable[..., object], state: TrainState, split: SplitName
    ) -> jax.stages.Compiled:
        length, width = self.stream.chunk_shape(split, training=False)

        def lower() -> jax.stages.Lowered:
            out = devices.output_sharding(self.placement)
            program = jitted(self.plan, function, out=out)
            return program.lower(state, self.data.scaling, *self._chunk_like(length, width))

        return self.programs.get((function, length, width), lower, self.plan)

    def _chunk_like(
        self, length: int, width: int, with_partners: bool = False
    ) -> tuple[Tree, Batch]:
        """Shapes of a chunk's count and batches."""
        columns_of = batch_sharding(self.plan.sharding)
        kinds = ((self.dataset.shape, jnp.uint8), ((), jnp.int32), ((), jnp.int32), ((), jnp.bool_))
        chunk = Batch(*(
            jax.ShapeDtypeStruct((length, width, *rest), dtype, sharding=columns_of)
            for rest, dtype in kinds
        ))  # type: ignore[arg-type]  # fmt: skip
        if with_partners:
            chunk = dataclasses.replace(chunk, partner=chunk)
        return jax.ShapeDtypeStruct((), jnp.int32, sharding=self.placement), chunk

    def stalled(self) -> float | None:
        """Seconds since the last call that the device waited for rows."""
        seconds, self.stream.stalled = self.stream.stalled, 0.0
        return seconds

    def close(self) -> None:
        """End the thread and the processes that read."""
        self.stream.close()


class Stream:
    """The chunks of one pass after the other, with the reader and the thread that feed it.

    Args:
        config: how much is read ahead, by how many processes, and for how many epochs.
        dataset: whose images are read.
        rows: of each split.
        plan: how they are divided into batches.
        placement: of arrays that every device holds whole.
    """

    def __init__(
        self, config: Config, dataset: Dataset, rows: splits.Rows, plan: Plan,
        placement: jax.sharding.Sharding,
    ):  # fmt: skip
        self.rows, self.plan, self.placement = rows, plan, placement
        self.label = np.concatenate([dataset.train.label, dataset.test.label])
        self.width = eval_shape(plan, rows)[1]
        self.seeds, self.epochs = config.seeds(), config.epochs
        self.evaluate_train = config.evaluate_train
        archives = [dataset.train.image, dataset.test.image]
        workers = cores() if config.workers is None else config.workers
        self.reader = RowReader(archives, workers)
        budget = min(CHUNK_BYTES, config.data_memory // IN_FLIGHT)
        self.chunk_rows = rows_at_once(archives[0].shape, budget)
        self.stalled = 0.0  # seconds in which the device had nothing to do for want of rows
        self._share = devices.process_share(plan.sharding.devices)
        self._begun: deque[tuple[Pass, int]] = deque()  # passes under way and their chunks left
        self._midway = False  # in a pass; left so by one that was stopped
        self._feed: Feed | None = None
        self._running: Tree = None  # what the chunk that the device works on will give
        self._order = jax.jit(shuffled, static_argnums=(3, 4, 5))
        self._partners = jax.jit(partners) if mixes(plan.augment) else None

    def chunks(self, wanted: Pass, check: Check) -> Iterator[tuple[Batch, int]]:
        """The chunks of a pass with their numbers of batches; the next pass is begun too."""
        self._running = None
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

    def running(self, result: Tree, check: Check) -> None:
        """Note what the device works on, and wait for what it worked on before.

        The device has the next chunk by then, so waiting costs nothing.
        """
        if self._running is not None:
            wait_for(self._running, check)
        self._running = result

    def _next(self, check: Check) -> tuple[Batch, int]:
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
            self._feed = Feed(self.reader, self._on_device)
        row, mask = (batches[planned.first :] for batches in self._batches(planned))
        length, _ = self.chunk_shape(planned.split, planned.epoch is not None)
        draws = None
        if planned.epoch is not None:
            draws = Draws(self.seeds[Purpose.AUGMENT], planned.epoch)
        starts = range(0, len(row), length)
        for start in starts:
            part = row[start : start + length]
            partner = None if planned.epoch is None else self._partners_of(part, planned.epoch)
            asked = [columns(x, *self._share) for x in (part, partner) if x is not None]
            reads = tuple(self.reader.submit(own.ravel(), draws) for own in asked)
            width = asked[0].shape[1]
            self._feed.add(Part(part, mask[start : start + length], partner, reads, width, length))
        self._begun.append((planned, len(starts)))

    def _batches(self, planned: Pass) -> tuple[np.ndarray, np.ndarray]:
        rows, plan = split_rows(self.rows, planned.split), self.plan
        if planned.epoch is None:
            return epoch.eval_batches(rows, self.width)
        now = (np.asarray(self.seeds, np.uint32), np.int32(planned.epoch), rows)
        sizes = (plan.batch_size, plan.drop_last, plan.sharding.parts)
        label = self.label if plan.balanced else None
        now, label = devices.device_put_global((now, label), self.placement)
        batches = self._order(*now, *sizes, label)
        return np.asarray(batches[0]), np.asarray(batches[1])

    def _partners_of(self, row: np.ndarray, epoch: int) -> np.ndarray | None:
        """The rows [k, B] that those of a chunk are mixed with; None: nothing mixes."""
        if self._partners is None:
            return None
        now = (np.asarray(self.seeds, np.uint32), np.int32(epoch), row, self.rows.train)
        return np.asarray(self._partners(*devices.device_put_global(now, self.placement)))

    def chunk_shape(self, split: SplitName, training: bool) -> tuple[int, int]:
        """(K, B) of the chunks of a pass."""
        if training:
            steps, width = self.plan.steps_per_epoch, self.plan.batch_size
            width += -width % self.plan.sharding.parts
        else:
            steps, width = -(-len(split_rows(self.rows, split)) // self.width), self.width
        return min(max(self.chunk_rows // width, 1), steps), width

    def _on_device(self, part: Part, pixels: list[np.ndarray]) -> tuple[Batch, int]:
        """A chunk on the device.

        `pixels` are those of this process's columns, [K, B', H, W, C], and of their partners.
        """
        missing = ((0, part.length - len(part.row)), (0, 0))
        whole = (x for x in (part.mask, part.row, part.partner) if x is not None)
        mask, *rows = (np.pad(columns(x, *self._share), missing) for x in whole)
        along = batch_sharding(self.plan.sharding)
        local = partner = None
        for image, row in reversed(list(zip(pixels, rows, strict=True))):
            label = self.label[row % len(self.label)]  # of copies too
            local = Batch(image, label, row, mask, partner=partner)  # type: ignore[arg-type]
            partner = local
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


def _mean_loss(sums: MetricSums | None) -> float | None:
    """Of a chunk that is computed; None where other processes have a part of it."""
    if sums is None or not (sums.loss.is_fully_addressable and sums.count.is_fully_addressable):
        return None
    return float(np.asarray(sums.loss).sum() / np.asarray(sums.count).sum())


def _ready(tree: Tree) -> bool:
    return tree is not None and all(leaf.is_ready() for leaf in jax.tree.leaves(tree))
