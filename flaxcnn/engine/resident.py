"""A job whose data is on the device: an epoch is a few calls of one program."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from flaxcnn.engine import epoch, share
from flaxcnn.engine.devices import device_put_global, output_sharding
from flaxcnn.engine.epoch import Alive, Span
from flaxcnn.engine.hosts import slowest
from flaxcnn.engine.interrupt import wait_for
from flaxcnn.engine.job import (
    Check,
    Job,
    SplitName,
    choose_rows,
    make_hypers,
    no_check,
)
from flaxcnn.engine.metrics import MetricSums
from flaxcnn.engine.parts import next_steps, part_seconds, part_steps, until_check
from flaxcnn.engine.programs import ProgramCache, jitted
from flaxcnn.engine.step import Hypers, Plan, TrainState
from flaxcnn.engine.teacher import with_teacher, with_weights
from flaxcnn.engine.weights import start_of
from flaxcnn.errors import FlaxcnnError
from flaxcnn.model.layout import on_cpu
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
        """One epoch in one call, where a call may be so long; `check` is not called."""
        if self.part_steps not in (0, self.plan.steps_per_epoch):
            return super().train_epoch(state, check)
        state, sums, _ = self._train(state, 0, self.plan.steps_per_epoch, None)
        return state, sums

    def train_parts(
        self, state: TrainState, done: int = 0, check: Check = no_check
    ) -> Iterator[tuple[TrainState, MetricSums, int]]:
        """The steps of an epoch after `done`, in parts that are computed when they are yielded."""
        total, known, order = self.plan.steps_per_epoch, self.programs.step_seconds, None
        whole = not self.part_steps
        every = self.config.sdc_check
        while done < total:
            count = total - done
            if every and not (ahead := until_check(done, every)):
                state, sums, order = self._twice(state, done, order)
                done += 1
                yield state, sums, 1
                continue
            if every:
                count = min(count, ahead)
            if not whole or every:
                most, before = self.part_steps, known.get(self._training)
                count = next_steps(count, most, part_seconds(self.config), before)
            began = time.perf_counter()
            state, sums, order = self._train(state, done, count, order)
            wait_for(sums, check)
            # The same on all processes, which must do the same steps in a call
            known[self._training] = slowest((time.perf_counter() - began) / count)
            done += count
            yield state, sums, count

    def _twice(
        self, state: TrainState, done: int, order: Tree
    ) -> tuple[TrainState, MetricSums, Tree]:
        """A step that is computed twice.

        Raises:
            FlaxcnnError: to other bits.
        """
        again = jax.tree.map(jnp.copy, state)
        state, sums, order = self._train(state, done, 1, order, most=1)
        again, other, _ = self._train(again, done, 1, order, most=1)
        if not bool(_same_bits((state, sums), (again, other))):
            steps = int(np.ravel(state.step)[0])  # of any run of a stack
            epoch_number = (steps - 1) // self.plan.steps_per_epoch + 1
            raise FlaxcnnError(
                f"sdc_check: epoch {epoch_number}, step {done + 1}, computed twice, gave different "
                f"bits: {jax.devices()[0].device_kind} corrupts data silently; go on with --resume "
                "on another device"
            )
        return state, sums, order

    def _train(
        self, state: TrainState, done: int, count: int, order: Tree, most: int = 0
    ) -> tuple[TrainState, MetricSums, Tree]:
        """`count` steps after `done` -> (state, sums [K], order of the epoch's rows).

        `most` steps are compiled in; 0, and on CPU: those of the usual program.

        `order` is that of the steps before, None: of the first ones in this process.
        """
        if not self.part_steps and count == self.plan.steps_per_epoch:
            program = self._program(epoch.train_epoch, state)
            return *program(state, self.hypers, self.data, self._train_rows), None
        which = np.array([done, count, order is None], np.int32)
        order = self._no_order if order is None else order
        span = Span(order, device_put_global(which, self.placement))
        program = self._program(epoch.train_part, state, most=most)
        state, sums, order = program(state, self.hypers, self.data, self._train_rows, span)
        return state, sums, order

    @functools.cached_property
    def part_steps(self) -> int:
        """Most steps of a call of the training program; 0: an epoch is a call of another one."""
        return part_steps(self.plan, self.config, self.dataset.shape, self.dataset.num_classes)

    @functools.cached_property
    def _train_rows(self) -> jax.Array:
        """Row numbers [N] int32 on the device."""
        rows: jax.Array = device_put_global(self.rows.train, self.placement)
        return rows

    @functools.cached_property
    def _no_order(self) -> Tree:
        """In place of the order of an epoch where it is yet to be drawn."""
        plan = self.plan
        width = plan.batch_size + -plan.batch_size % plan.sharding.parts
        shape = (*([self.width] if self.width else []), plan.steps_per_epoch, width)
        nothing = (np.zeros(shape, np.int32), np.zeros(shape, bool))
        return device_put_global(nothing, self.placement)

    def settled(self, state: TrainState) -> TrainState:
        """As of a job; a pass over the training rows where `average.batch_stats=estimate`."""
        if not self._estimates(state):
            return state
        program = self._program(epoch.estimate, state)
        stats = program(state, self.hypers, self.data, self._train_rows)
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
        """The program behind `train_epoch` and `train_parts`."""
        return self._program(epoch.train_part if self.part_steps else epoch.train_epoch, state)

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
        batches: tuple[int, int] | None = None, most: int = 0,
    ) -> jax.stages.Compiled:  # fmt: skip
        """`function` compiled.

        `batches` are (S, B) of an evaluation, if not those of all; `most` as of `_most`.
        """
        key = self._key(function, batches, most)
        lower = lambda: self.traced(function, state, batches, most).lower()  # noqa: E731
        return self.programs.get(key, lower, self.plan)

    def _key(
        self, function: Callable[..., object], batches: tuple[int, int] | None = None, most: int = 0
    ) -> tuple[Any, ...]:
        batches = batches or self.eval_shape()
        shape = (len(self.rows.train),) if _of_training(function) else batches
        # The steps follow from the grace, which a plan does not know.
        return (function, shape, self.width, self._most(function, most))

    @property
    def _training(self) -> tuple[Any, ...]:
        """Names the training program where its speed is kept."""
        return self._key(epoch.train_part)

    def _most(self, function: Callable[..., object], most: int = 0) -> int:
        """Steps that are compiled into a program: `most`, or 0: as many as the job's calls do.

        On CPU any number is a matter of arguments. Where an epoch is a call, the rest of one is.
        """
        if function is not epoch.train_part:
            return 0
        if most and not on_cpu(self.plan.sharding.platform):
            return most
        return self.part_steps or self.plan.steps_per_epoch

    def traced(
        self, function: Callable[..., object], state: TrainState,
        batches: tuple[int, int] | None = None, most: int = 0,
    ) -> jax.stages.Traced:  # fmt: skip
        """A program of `flaxcnn.engine.epoch` for this job, before it is lowered."""
        each = output_sharding(self.placement)
        plan = dataclasses.replace(self.plan, part_steps=self._most(function, most))
        trains, in_parts = function is epoch.train_epoch, function is epoch.train_part
        if _of_training(function):
            shapes = [jax.ShapeDtypeStruct((len(self.rows.train),), jnp.int32)]
            own: tuple[Tree, ...] = (state, self.hypers)
            out: Tree = (self.state_placement(state), each) if trains or in_parts else each
        else:
            batches = batches or self.eval_shape()
            shapes = [jax.ShapeDtypeStruct(batches, kind) for kind in (jnp.int32, bool)]
            own, out = (state,), each
        shared = (self.data, *(shape.update(sharding=self.placement) for shape in shapes))
        stacked: tuple[Tree, ...] = (*[0] * len(own), *[None] * len(shared))
        if in_parts:
            which = jax.ShapeDtypeStruct((3,), jnp.int32, sharding=self.placement)
            shared, stacked = (*shared, Span(self._no_order, which)), (*stacked, Span(0, None))
            out = (*out, self.placement)
        axes = stacked if self.width else None
        return jitted(plan, function, axes, trains or in_parts, out).trace(*own, *shared)

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


@jax.jit
def _same_bits(one: Tree, other: Tree) -> jax.Array:
    """Whether all arrays of two trees are equal, NaN and -0.0 included."""

    def same(x: jax.Array, y: jax.Array) -> jax.Array:
        if jnp.issubdtype(x.dtype, jnp.floating):
            x, y = (jax.lax.bitcast_convert_type(v, f"uint{8 * x.dtype.itemsize}") for v in (x, y))
        return (x == y).all()

    return jnp.stack(jax.tree.leaves(jax.tree.map(same, one, other))).all()


def _of_training(function: Callable[..., object]) -> bool:
    """Whether a program goes over the training rows, in the order of an epoch."""
    return function in (epoch.train_epoch, epoch.train_part, epoch.estimate)
