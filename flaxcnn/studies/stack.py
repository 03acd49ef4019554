"""Runs side by side: parts of the arrays of one program, of which one that ends makes room."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.loop import EpochSums, epoch_metrics, one_epoch
from flaxcnn.engine.midway import BEGINNING, Midway
from flaxcnn.engine.resident import ResidentJob
from flaxcnn.engine.step import Hypers, TrainState
from flaxcnn.studies.events import Ledger
from flaxcnn.studies.groups import Queue
from flaxcnn.studies.plan import PlannedRun
from flaxcnn.studies.slot import Slot
from flaxcnn.studies.under_way import UnderWay, part, stacked

Tree = Any
_picked = jax.jit(part)
Begun = tuple[Slot, TrainState]  # a run, and its state before the first epoch


@dataclass
class Stack:
    """W runs, of which run i is part i of all arrays."""

    job: ResidentJob  # of one of them
    slots: list[Slot | None]  # None: no run is left for it, and its part is not used
    states: TrainState  # [W, ...]
    hypers: Hypers  # [W, ...]
    midway: Midway = BEGINNING  # of the epoch that all have begun

    @property
    def running(self) -> int:
        """How many runs have not ended."""
        return sum(slot is not None for slot in self.slots)

    @property
    def stacked(self) -> ResidentJob:
        """The job of all of them."""
        return self.job.stacked(self.hypers, len(self.slots))

    def put(self, index: int, slot: Slot, state: TrainState) -> None:
        """Have another run in a slot."""
        self.slots[index] = slot
        fresh, at = (state, slot.job.hypers), jnp.int32(index)
        self.states, self.hypers = _replaced((self.states, self.hypers), fresh, at)

    def picked(self, index: int) -> TrainState:
        """The state of one run."""
        state: TrainState = _picked(self.states, jnp.int32(index))
        return state

    def set_rate(self, index: int, rate: float) -> None:
        """Multiply the learning rate of one run."""
        slot = self.slots[index]
        assert slot is not None
        own = slot.job.at_rate(rate).hypers
        self.hypers = _replaced(self.hypers, own, jnp.int32(index))


def train_stack(
    begin: Callable[[PlannedRun], Begun],
    queue: Queue,
    width: int,
    ledger: Ledger,
    interrupt: Interrupt,
) -> None:
    """Train `width` runs side by side, all on the same rows, until the queue is empty.

    Raises:
        InterruptedRun: a signal came; the runs are saved.
    """
    under_way = UnderWay(ledger.folder.path)
    runs = _first_runs(queue, width, under_way)
    if not any(runs):
        return
    stack = _stacked([begin(run) if run else None for run in runs])
    stack.stacked.compile(stack.states)  # before the first clock starts
    _go_on(stack, under_way)

    def keep(states: TrainState, midway: Midway) -> None:
        own = [(slot.job, slot.run.key, slot.under_way) if slot else None for slot in stack.slots]
        under_way.save_stack(stack.stacked, own, states, midway)

    while stack.running:
        what = f"an epoch of {stack.running} runs side by side"
        midway, stack.midway = stack.midway, BEGINNING
        stack.states, sums = one_epoch(stack.stacked, stack.states, interrupt, what, midway, keep)
        together = stack.running
        for index, slot in enumerate(stack.slots):
            if slot is None:
                continue
            own, before = _own_sums(sums, index, together), slot.progress
            metrics, progress = epoch_metrics(own, before, slot.job.config)
            for outcome in slot.after(metrics, progress, functools.partial(stack.picked, index)):
                ledger.add(outcome)
            if not (slot.diverged or progress.done(slot.job.config)):
                if progress.rate != before.rate:
                    stack.set_rate(index, progress.rate)
            elif run := queue.take():
                stack.put(index, *begin(run))
            else:
                stack.slots[index] = None


def _first_runs(queue: Queue, width: int, under_way: UnderWay) -> list[PlannedRun | None]:
    """Those that were stopped side by side, or the next of the queue."""
    for keys in under_way.stacks():
        if len(keys) == width and (runs := queue.take_all([key for key in keys if key])):
            by_key = {run.key: run for run in runs}
            return [by_key[key] if key else None for key in keys]
    return [queue.take() for _ in range(width)]


def _stacked(begun: Sequence[Begun | None]) -> Stack:
    """With fewer runs than slots, the others repeat one, unused."""
    first = next(each for each in begun if each)
    starts = [(state, slot.job.hypers) for slot, state in (each or first for each in begun)]
    states, hypers = stacked(starts)
    return Stack(first[0].job, [each[0] if each else None for each in begun], states, hypers)


def _go_on(stack: Stack, under_way: UnderWay) -> None:
    """From where a signal had stopped these runs, if it has."""
    own = [(slot.job, slot.run.key) if slot else None for slot in stack.slots]
    found = under_way.restore_stack(stack.stacked, own, stack.states)
    if found is None:
        return
    runs, stack.states, stack.midway = found
    for index, (slot, run) in enumerate(zip(stack.slots, runs, strict=True)):
        if slot and run:
            slot.go_on(run)
            stack.set_rate(index, run.progress.rate)


def _own_sums(stack: EpochSums, index: int, runs: int) -> EpochSums:
    """One run's sums, and its share of the time: the `runs` of a stack take it together."""
    return EpochSums(part(stack.sums, index), stack.train_seconds / runs, stack.seconds / runs)


@jax.jit
def _replaced(stack: Tree, run: Tree, index: jax.Array) -> Tree:
    """The stack with another run at `index`."""
    return jax.tree.map(lambda x, y: x.at[index].set(y), stack, run)
