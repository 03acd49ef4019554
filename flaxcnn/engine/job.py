"""A recipe and its data made ready to run: arrays on the device and the programs over them."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from flaxcnn.backend import cores
from flaxcnn.data import splits
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.batches import Resident, Scaling, resident, steps_per_epoch
from flaxcnn.data.datasets import require_resident, streams
from flaxcnn.engine import devices, sharding
from flaxcnn.engine import epoch as programs
from flaxcnn.engine.chunks import joined
from flaxcnn.engine.compiled import compiled, jitted
from flaxcnn.engine.step import Hypers, Plan, TrainState, init_state
from flaxcnn.engine.streaming import Streaming
from flaxcnn.model.cnn import CNN
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.optimizers import Cosine
from flaxcnn.recipe.traced import compiled_layers, compiled_optimizer, dropout_rates

PROGRAM_OF = ("normalize", "evaluate_train", "determinism")  # settings, beside the plan
# Of activations, by `precision`; parameters and logits are float32 always.
COMPUTED_IN = {"float32": "float32", "tensorfloat32": "float32", "bfloat16": "bfloat16"}
PROBE_ROWS = 2000  # training rows on which a unit must stay silent to be called dead


def products(precision: str, platform: str) -> str | None:
    """How exactly products of float32 numbers are computed, as jax.default_matmul_precision has it.

    Without a word a GPU rounds the factors to 10 bits (TF32) and a TPU to 7 (bfloat16). "high" is
    TF32 on a GPU and three products of bfloat16 parts on a TPU; a CPU knows float32 alone.
    """
    if platform == "cpu":
        return None
    return {"float32": "highest", "tensorfloat32": "high", "bfloat16": None}[precision]


def make_plan(
    config: Config, train_rows: int, devices: int | None = None, every: bool = False
) -> Plan:
    """The static part of a run over `train_rows` rows; `devices` and `every` as `choose` has them.

    With neither, over as many devices as do well.
    """
    steps = steps_per_epoch(train_rows, config.batch_size, config.drop_last)
    spread = sharding.choose_sharding(config, devices, every)
    axis = spread.axis if config.batch_norm == "global" else None
    return Plan(
        model=CNN(
            compiled_layers(config.layers),
            jnp.dtype(COMPUTED_IN[config.precision]),
            axis,
            config.remat,
            spread.platform,
            products(config.precision, spread.platform),
        ),
        optimizer=compiled_optimizer(config.optimizer),
        schedule=config.schedule,
        augment=config.augment,
        smooth=config.label_smoothing > 0,
        batch_size=config.batch_size,
        sharding=spread,
        drop_last=config.drop_last,
        train_rows=train_rows,
        steps_per_epoch=steps,
        total_steps=steps * config.epochs if isinstance(config.schedule, Cosine) else 0,
        exact=config.determinism == "exact",
    )


def make_hypers(config: Config) -> Hypers:
    """The traced numbers of a run."""
    return Hypers(
        learning_rate=jnp.float32(config.scaled_learning_rate()),
        weight_decay=jnp.float32(config.optimizer.weight_decay),
        label_smoothing=jnp.float32(config.label_smoothing),
        momentum=jnp.float32(getattr(config.optimizer, "momentum", 0.0)),
        dropout=jnp.asarray(dropout_rates(config.layers), jnp.float32),
    )


@dataclass
class Job:
    """Everything a run needs; programs are compiled once per set of rows, outside any clock."""

    config: Config
    dataset: Dataset
    rows: splits.Rows
    plan: Plan
    hypers: Hypers
    data: Resident  # without pixels and labels where they are streamed
    place: jax.sharding.Sharding  # where state, data and row numbers lie, whole on every device
    width: int = 0  # runs side by side, stacked along a first axis of state and hypers; 0: one run
    compile_seconds: float = 0.0
    streaming: Streaming | None = None  # None: the data lies on the device
    _compiled: dict[tuple[str, tuple[int, ...], int], jax.stages.Compiled] = field(
        default_factory=dict
    )

    def on(self, device: jax.Device) -> Job:
        """The same on another device, with programs of its own."""
        place = SingleDeviceSharding(device)
        hypers, data = jax.device_put((self.hypers, self.data), place)
        return dataclasses.replace(self, hypers=hypers, data=data, place=place, _compiled={})

    def for_plan(self, plan: Plan, config: Config) -> Job:
        """Another recipe on the same pixels and devices, with the same programs where they do."""
        found = self.on_rows_of(config)
        same = all(getattr(self.config, name) == getattr(config, name) for name in PROGRAM_OF)
        return found if same and self.plan == plan else dataclasses.replace(
            found, plan=plan, compile_seconds=0.0, _compiled={}
        )  # fmt: skip

    def on_rows_of(self, config: Config) -> Job:
        """The same programs and pixels with the rows that `config` chooses."""
        rows, scaling = _rows(config, self.dataset)
        data = dataclasses.replace(
            self.data, scaling=devices.device_put_global(scaling, self.place)
        )
        hypers = devices.device_put_global(make_hypers(config), self.place)
        return dataclasses.replace(self, config=config, rows=rows, hypers=hypers, data=data)

    def rows_of(self, split: str) -> np.ndarray:
        """Row numbers [N] int32 of "train", "validation" or "test", or of the "probe" rows."""
        found: np.ndarray = getattr(self.rows, "train" if split == "probe" else split)
        return found[:PROBE_ROWS] if split == "probe" else found

    def eval_shape(self) -> tuple[int, int]:
        """(S, B): batches of an evaluation program and rows of each, those of the validation rows.

        Other splits take several calls of the same program.
        """
        held = next(rows for rows in (self.rows.validation, self.rows.test, self.rows.train)
                    if len(rows))  # fmt: skip
        width = programs.eval_width(self.plan, len(held))
        return -(-len(held) // width), width

    def labels(self) -> np.ndarray:
        """Labels [N] int32 of the whole data set."""
        return np.concatenate([self.dataset.train.label, self.dataset.test.label])

    def init(self) -> TrainState:
        """The state before the first step."""
        seeds = np.asarray(self.config.seeds(), np.uint32)
        key = ("init", (), 0)
        if key not in self._compiled:
            make = functools.partial(init_state, self.plan, self.dataset.shape)
            placed = self.placement(jax.eval_shape(make, seeds))
            self._compiled[key] = jax.jit(make, out_shardings=placed).lower(seeds).compile()
        state: TrainState = self._compiled[key](seeds)
        return state

    def placement(self, state: TrainState) -> Any:
        """Where each array of the state lies."""
        whole = jax.tree.map(lambda _: self.place, state)
        if not self.plan.sharding.shard_optimizer:
            return whole
        parts = sharding.opt_state_sharding(self.plan.sharding, state.opt_state)
        return dataclasses.replace(whole, opt_state=parts)

    def run(
        self, program: str, state: TrainState, split: str,
        check: Callable[[], None] = lambda: None,
    ) -> Any:  # fmt: skip
        """A program over the rows of a split.

        Args:
            program: `train_epoch` (which uses `state` up) gives (state, sums [S]), `evaluate` sums
                [S], `predict` logits [N, K], `alive_units` bool [C] for each layer with relu.
            state: of the run, or of several side by side.
            split: as in `rows_of`.
            check: called while the device works, where a program takes several calls; may stop it
                by raising.
        """
        if self.streaming is not None:
            return self.streaming.run(program, state, self.hypers, self.data.scaling, split, check)
        ready = self.compile(program, state, split)
        if program == "train_epoch":
            rows = devices.device_put_global(self.rows_of(split), self.place)
            return ready(state, self.hypers, self.data, rows)
        found = []
        for *batches, count in programs.eval_parts(self.rows_of(split), *self.eval_shape()[::-1]):
            found.append(
                (ready(state, self.data, *devices.device_put_global(batches, self.place)), count)
            )
            check()
        if program == "evaluate" and len(found) == 1 and found[0][1] == self.eval_shape()[0]:
            return found[0][0][0]  # without waiting for it
        whole = joined(self.plan, program, found)
        return whole[: len(self.rows_of(split))] if program == "predict" else whole

    def compile(self, program: str, state: TrainState, split: str) -> jax.stages.Compiled:
        """The program for the rows of `split`, compiled on first use; its time is added up."""
        if self.streaming is not None:
            before = self.streaming.compile_seconds
            found = self.streaming.compile(program, state, self.hypers, self.data.scaling, split)
            self.compile_seconds += self.streaming.compile_seconds - before
            return found
        program = "evaluate" if program == "predict" else program  # which gives both
        shape = (len(self.rows.train),) if program == "train_epoch" else self.eval_shape()
        key = (program, shape, self.width)
        if key not in self._compiled:
            began = time.perf_counter()
            self._compiled[key] = compiled(self.traced(program, state).lower(), self.plan)
            self.compile_seconds += time.perf_counter() - began
        return self._compiled[key]

    def traced(self, program: str, state: TrainState) -> jax.stages.Traced:
        """A program over data that lies on the device, before it is lowered for a platform."""
        train = program == "train_epoch"
        if train:
            shapes = [jax.ShapeDtypeStruct((len(self.rows.train),), jnp.int32)]
        else:
            shapes = [jax.ShapeDtypeStruct(self.eval_shape(), kind) for kind in (jnp.int32, bool)]
        placed = [x.update(sharding=self.place) for x in shapes]
        args = (state, *((self.hypers,) if train else ()), self.data, *placed)
        along = (0,) * (2 if train else 1)  # runs side by side share data and rows
        stacked = (*along, *[None] * (len(args) - len(along))) if self.width else None
        each = devices.output_sharding(self.place)
        out = (self.placement(state), each) if train else each
        return jitted(self.plan, getattr(programs, program), stacked, train, out).trace(*args)

    def stalled(self) -> float | None:
        """Seconds since the last call that the device waited for rows; None: they lie on it."""
        if self.streaming is None:
            return None
        seconds, self.streaming.stalled = self.streaming.stalled, 0.0
        return seconds

    def close(self) -> None:
        """End the processes that read, where there are any."""
        if self.streaming is not None:
            self.streaming.close()


def make_job(config: Config, dataset: Dataset, device: jax.Device | None = None) -> Job:
    """Check the recipe against the data, choose the rows and put the data on the device.

    On `device` alone, where one is given; otherwise batches are spread over all of them, unless
    the run is to be exact. What is too large for `data_memory` is streamed instead.

    Raises:
        ConfigError: the model cannot be built on the data's shape, the split does not fit, or data
            to be streamed is asked for on `device` alone.
        DataError: a class with too few rows.
    """
    config.table(dataset.shape, dataset.num_classes)
    if device is not None:
        require_resident(config, dataset, "a study")
    rows, scaling = _rows(config, dataset)
    plan = make_plan(config, len(rows.train), None if device is None else 1)
    place = SingleDeviceSharding(device) if device else devices.replicated(plan.sharding.devices)
    hypers = devices.device_put_global(make_hypers(config), place)
    archives = (dataset.train, dataset.test)
    if streams(config, dataset, devices.pixel_memory() if device is None else None):
        pixels = np.zeros((0, *dataset.shape), np.uint8)
        data = devices.device_put_global(
            resident([pixels], [np.zeros(0, np.int32)], scaling), place
        )
        job = Job(config, dataset, rows, plan, hypers, data, place)
        job.streaming = Streaming(
            plan, [split.image for split in archives], job.labels(), job.rows_of,
            job.eval_shape()[1], place,
            config.seeds(), config.epochs, config.evaluate_train,
            cores() if config.workers is None else config.workers, config.data_memory,
        )  # fmt: skip
        return job
    host = resident([np.asarray(split.image) for split in archives],
                    [split.label for split in archives], scaling,
                    flat=plan.sharding.platform == "tpu")  # fmt: skip
    return Job(config, dataset, rows, plan, hypers, devices.device_put_global(host, place), place)


def _rows(config: Config, dataset: Dataset) -> tuple[splits.Rows, Scaling]:
    """The rows of a recipe, and the scaling that its training rows give."""
    rows = splits.choose(dataset, config)
    found = splits.standardisation(dataset.train.image, config.normalize, rows.train)
    return rows, Scaling(*found)  # type: ignore[arg-type]  # still on the host
