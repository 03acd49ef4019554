"""A job whose data is on the device: an epoch is one call of one program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from flaxcnn.engine import epoch, share
from flaxcnn.engine.devices import device_put_global, output_sharding
from flaxcnn.engine.epoch import Alive
from flaxcnn.engine.job import (
    Check,
    Job,
    SplitName,
    choose_rows,
    make_hypers,
    no_check,
)
from flaxcnn.engine.metrics import MetricSums
from flaxcnn.engine.programs import ProgramCache, jitted
from flaxcnn.engine.step import Hypers, Plan, TrainState
from flaxcnn.engine.teacher import with_teacher, with_weights
from flaxcnn.engine.weights import start_of
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.fields import Role

Tree = Any


@dataclass(frozen=True)
class ResidentJob(Job):
    """Pixels, labels and row numbers are arguments of the programs, which share them.

    `width` runs are stacked along a first axis of state and hypers; 0: it is a single run.
    """

    width: int = 0

    @property
    def runs(self) -> int:
        """How many runs it trains at once."""
        return self.width or 1

    def train_epoch(
        self, state: TrainState, check: Check = no_check
    ) -> tuple[TrainState, MetricSums]:
        """One epoch -> (state, sums [S] of its steps); donates `state`; `check` is not called."""
        rows = device_put_global(self.rows.train, self.placement)
        result: tuple[TrainState, MetricSums] = self.train_program(state)(
            state, self.hypers, self.data, rows
        )
        return result

    def settled(self, state: TrainState) -> TrainState:
        """As of a job; a pass over the training rows where `average.batch_stats=estimate`."""
        if not self._estimates(state):
            return state
        rows = device_put_global(self.rows.train, self.placement)
        program = self._program(epoch.estimate, state)
        stats = program(state, self.hypers, self.data, rows)
        if self.plan.sharding.shard_optimizer:  # where training expects it
            place = self.state_placement(state).average["batch_stats"]
            stats = jax.device_put(stats, place)
        return dataclasses.replace(state, average={**state.average, "batch_stats": stats})

    def compile(self, state: TrainState) -> None:
        """Have the programs of an epoch ready before a clock starts."""
        super().compile(state)
        if self._estimates(state):
            self._program(epoch.estimate, state)

    def _estimates(self, state: TrainState) -> bool:
        average = self.plan.rules.average
        wanted = average is not None and average.batch_stats == "estimate"
        return wanted and bool(jax.tree.leaves(state.batch_stats))

    def _evaluate(
        self, state: TrainState, split: SplitName, check: Check
    ) -> Iterator[tuple[tuple[MetricSums, jax.Array], int]]:
        program = self.eval_program(state, split)
        for rows, mask, count in self._batches(split):
            yield program(state, self.data, rows, mask), count
            check()

    def _alive_units(self, state: TrainState, check: Check) -> Iterator[Alive]:
        program = self._program(epoch.alive_units, state)
        for rows, mask, _ in self._batches("probe"):
            yield program(state, self.data, rows, mask)
            check()

    def _batches(self, split: SplitName) -> Iterator[tuple[jax.Array, jax.Array, int]]:
        """Arguments of each call of an evaluation program, and its number of true batches."""
        steps, width = self._eval_shape(split)
        for rows, mask, count in epoch.eval_parts(self.split_rows(split), width, steps):
            yield *device_put_global((rows, mask), self.placement), count

    # -- programs --------------------------------------------------------------------------------

    def train_program(self, state: TrainState) -> jax.stages.Compiled:
        """The program behind `train_epoch`."""
        return self._program(epoch.train_epoch, state)

    def eval_program(self, state: TrainState, split: SplitName) -> jax.stages.Compiled:
        """The program behind `evaluate` and `predict`.

        The same for every split, but where a share of a split has several views: then it goes over
        the whole of it.
        """
        if share.shares(self.plan):
            return self._program(share.evaluate, state, self._eval_shape(split))
        return self._program(epoch.evaluate, state)

    def _eval_shape(self, split: SplitName) -> tuple[int, int]:
        """(S, B) of the program that goes over the rows of a split."""
        if split == "probe" or not share.shares(self.plan):
            return self.eval_shape()
        rows = len(self.split_rows(split))
        width = epoch.eval_width(self.plan, rows)
        return -(-rows // width), width

    def _program(
        self, function: Callable[..., object], state: TrainState,
        batches: tuple[int, int] | None = None,
    ) -> jax.stages.Compiled:  # fmt: skip
        """`function` compiled; `batches` are (S, B) of an evaluation, if not those of all."""
        batches = batches or self.eval_shape()
        shape = (len(self.rows.train),) if _of_training(function) else batches
        key = (function, shape, self.width)
        lower = lambda: self.traced(function, state, batches).lower()  # noqa: E731
        return self.programs.get(key, lower, self.plan)

    def traced(
        self, function: Callable[..., object], state: TrainState,
        batches: tuple[int, int] | None = None,
    ) -> jax.stages.Traced:  # fmt: skip
        """`train_epoch`, `evaluate` or `alive_units` of this job, before it is lowered."""
        each = output_sharding(self.placement)
        trains = function is epoch.train_epoch
        if _of_training(function):
            shapes = [jax.ShapeDtypeStruct((len(self.rows.train),), jnp.int32)]
            own: tuple[Tree, ...] = (state, self.hypers)
            out: Tree = (self.state_placement(state), each) if trains else each
        else:
            batches = batches or self.eval_shape()
            shapes = [jax.ShapeDtypeStruct(batches, kind) for kind in (jnp.int32, bool)]
            own, out = (state,), each
        shared = (self.data, *(shape.update(sharding=self.placement) for shape in shapes))
        stacked = (*[0] * len(own), *[None] * len(shared)) if self.width else None
        return jitted(self.plan, function, stacked, trains, out).trace(*own, *shared)

    # -- other runs on the same pixels -------------------------------------------------------------

    def on(self, device: jax.Device) -> ResidentJob:
        """The same on another device, with programs of its own."""
        placement = SingleDeviceSharding(device)
        hypers, data = jax.device_put((self.hypers, self.data), placement)
        return dataclasses.replace(
            self, hypers=hypers, data=data, placement=placement, programs=ProgramCache()
        )

    def with_plan(self, plan: Plan, config: Config) -> ResidentJob:
        """Another recipe on the same device, with the same programs where they still apply."""
        plan = with_teacher(config, plan)
        same = self.config.values(Role.PROGRAM) == config.values(Role.PROGRAM)
        programs = self.programs if same and self.plan == plan else ProgramCache()
        return dataclasses.replace(self, plan=plan, programs=programs).with_rows(config)

    def with_rows(self, config: Config) -> ResidentJob:
        """A recipe with the same programs on the rows that it chooses."""
        rows, scaling = choose_rows(config, self.dataset)
        scaling = with_weights(config, self.dataset, scaling)
        data = dataclasses.replace(self.data, scaling=device_put_global(scaling, self.placement))
        return dataclasses.replace(self, rows=rows, data=data).with_config(config)

    def with_config(self, config: Config) -> ResidentJob:
        """A recipe with the same programs on the same rows; its compile time starts at 0."""
        hypers = device_put_global(make_hypers(config), self.placement)
        start = start_of(config, self.plan, self.dataset, self.rows, self.data.scaling)
        return dataclasses.replace(
            self, config=config, hypers=hypers, programs=self.programs.restarted(), start=start
        )

    def stacked(self, hypers: Hypers, width: int) -> ResidentJob:
        """The job for `width` runs, whose hypers are stacked."""
        return dataclasses.replace(self, hypers=hypers, width=width)


def _of_training(function: Callable[..., object]) -> bool:
    """Whether a program goes over the training rows, in the order of an epoch."""
    return function in (epoch.train_epoch, epoch.estimate)
