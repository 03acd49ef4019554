"""Job: a recipe on its data, ready to run, wherever the pixels are.

A job is a value: what differs for another run is replaced, and compiled programs are shared. There
are two kinds. `flaxcnn.engine.resident` has the data on the device, `flaxcnn.engine.streaming`
reads it as it is needed; `flaxcnn.engine.make_job` chooses.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.data import splits
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.batches import Resident, Scaling
from flaxcnn.data.sampling import check_sampling, class_weights
from flaxcnn.data.splits import steps_per_epoch
from flaxcnn.engine import sharding
from flaxcnn.engine.devices import device_put_global
from flaxcnn.engine.epoch import Alive, eval_width
from flaxcnn.engine.initial import Start
from flaxcnn.engine.metrics import MetricSums, joined_sums
from flaxcnn.engine.programs import ProgramCache
from flaxcnn.engine.step import Hypers, Plan, TrainState, init_state
from flaxcnn.model.cnn import CNN, Network
from flaxcnn.model.foreign import Compiled, build
from flaxcnn.model.losses import build_loss, build_metrics
from flaxcnn.model.protocol import Model
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.traced import (
    compiled_layers,
    compiled_optimizer,
    compiled_rules,
    dropout_rates,
    optimizer_numbers,
    rule_numbers,
)

# Of activations, by `precision`; parameters and logits are float32 always.
COMPUTED_IN = {"float32": "float32", "tensorfloat32": "float32", "bfloat16": "bfloat16"}
PROBE_ROWS = 2000  # training rows on which a unit must stay silent to be called dead
SplitName = Literal["train", "validation", "test", "probe"]
Check = Callable[[], None]  # called while the device works; may stop a pass by raising
Tree = Any


def no_check() -> None:
    """Nothing can stop a pass."""


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
    """The static part of a run over `train_rows` rows.

    `devices` and `every` as in `choose_sharding`; with neither, as many devices as do well.
    """
    steps = steps_per_epoch(train_rows, config.batch_size, config.drop_last)
    batch = sharding.choose_sharding(config, devices, every)
    return Plan(
        model=_model(config, batch),
        optimizer=compiled_optimizer(config.optimizer),
        schedule=config.schedule,
        augment=config.augment,
        smooth=config.label_smoothing > 0,
        batch_size=config.batch_size,
        sharding=batch,
        drop_last=config.drop_last,
        train_rows=train_rows,
        steps_per_epoch=steps,
        total_steps=steps * config.epochs if config.spans_run else 0,
        exact=config.determinism == "exact",
        loss=build_loss(config.loss),
        metrics=build_metrics(config.metrics),
        balanced=config.sampling == "balanced",
        rules=compiled_rules(config),
        tta=config.tta,
        skip=config.on_nonfinite == "skip",
    )


def _model(config: Config, batch: sharding.BatchSharding) -> Model:
    """The network of a recipe, for the devices that share its batches."""
    dtype, axis = jnp.dtype(COMPUTED_IN[config.precision]), batch.axis
    precision = products(config.precision, batch.platform)
    if config.batch_norm == "per_shard":
        axis = None
    if config.model is not None:
        return build(config.model, Compiled(axis, batch.platform, precision, dtype))
    layers = compiled_layers(config.layers)
    return Network(CNN(layers, dtype, axis, config.remat, batch.platform, precision))


def make_hypers(config: Config) -> Hypers:
    """The traced numbers of a run."""
    return Hypers(
        learning_rate=jnp.float32(config.scaled_learning_rate()),
        optimizer=jax.tree.map(jnp.float32, optimizer_numbers(config.optimizer)),
        label_smoothing=jnp.float32(config.label_smoothing),
        rules=jax.tree.map(jnp.float32, rule_numbers(config)),
        dropout=jnp.asarray(dropout_rates(config.layers), jnp.float32),
    )


def choose_rows(config: Config, dataset: Dataset) -> tuple[splits.Rows, Scaling]:
    """The rows of a recipe, and what its training rows give, on the host."""
    rows = splits.choose(dataset, config)
    check_sampling(config, dataset, rows.train)
    weight = class_weights(config, dataset, rows.train)
    mean, scale = splits.standardisation(dataset.train.image, config.normalize, rows.train)
    return rows, Scaling(mean, scale, weight)  # type: ignore[arg-type]


def split_rows(rows: splits.Rows, split: SplitName) -> np.ndarray:
    """Row numbers [N] int32 of a split; "probe" is the first training rows."""
    numbers: np.ndarray = getattr(rows, "train" if split == "probe" else split)
    return numbers[:PROBE_ROWS] if split == "probe" else numbers


def eval_shape(plan: Plan, rows: splits.Rows) -> tuple[int, int]:
    """(S, B): batches of an evaluation program and rows of each, those of the validation rows.

    Other splits take several calls of the same program.
    """
    held = next(held for held in (rows.validation, rows.test, rows.train) if len(held))
    width = eval_width(plan, len(held))
    return -(-len(held) // width), width


@dataclass(frozen=True)
class Job(abc.ABC):
    """A recipe on its data, ready to run.

    `state` is a `TrainState` as `init` gives it, or several stacked where the job is; training
    donates it. Programs are compiled on first use.
    """

    config: Config
    dataset: Dataset
    rows: splits.Rows
    plan: Plan
    hypers: Hypers
    data: Resident  # without pixels and labels where they are streamed
    placement: jax.sharding.Sharding  # of arrays that every device holds whole
    programs: ProgramCache
    start: Start | None  # what takes the place of random weights

    @property
    def runs(self) -> int:
        """How many runs it trains at once."""
        return 1

    # -- what a run does -------------------------------------------------------------------------

    def init(self) -> TrainState:
        """The state before the first step."""
        seeds = np.asarray(self.config.seeds(), np.uint32)
        make = functools.partial(init_state, self.plan, self.dataset.shape)

        def lower() -> jax.stages.Lowered:
            placement = self.state_placement(jax.eval_shape(make, seeds, self.hypers))
            return jax.jit(make, out_shardings=placement).lower(seeds, self.hypers)

        state: TrainState = self.programs.get("init", lower, self.plan)(seeds, self.hypers)
        return state if self.start is None else self.start.into(state)

    def train_epoch(
        self, state: TrainState, check: Check = no_check
    ) -> tuple[TrainState, MetricSums]:
        """One epoch -> (state, sums [S] of its steps); donates `state`."""
        parts: list[tuple[MetricSums, int]] = []
        after = state
        for after, sums, count in self.train_parts(state, 0, check):  # noqa: B007
            parts.append((sums, count))
        return after, joined_sums(parts, 1)  # all devices have the same

    @abc.abstractmethod
    def train_parts(
        self, state: TrainState, done: int = 0, check: Check = no_check
    ) -> Iterator[tuple[TrainState, MetricSums, int]]:
        """The steps of an epoch after `done`, in parts; after each of them a run may stop.

        Yields:
            the state, sums [K], and how many steps were done; the sums of these come first. They
            may still be computed. The next part donates the state.
        """

    def settled(self, state: TrainState) -> TrainState:
        """The state after an epoch, with batch statistics estimated for its average if need be."""
        return state

    def evaluate(self, state: TrainState, split: SplitName, check: Check = no_check) -> MetricSums:
        """Sums [S] over the batches of a split, in no order to rely on."""
        parts = [(sums, count) for (sums, _), count in self._evaluate(state, split, check)]
        # Where each device has sums of its own, it is their batches that are stacked.
        each = self.plan.sharding.devices if self.plan.sharding.axis else 1
        if len(parts) == 1 and parts[0][0].loss.shape[-1] == parts[0][1] * each:
            return parts[0][0]  # without waiting for it
        return joined_sums(parts, each)

    def predict(self, state: TrainState, split: SplitName, check: Check = no_check) -> np.ndarray:
        """Logits [N, K] float32 of the rows of a split, on the host."""
        parts = [
            np.asarray(jax.device_get(logits))[:count]
            for (_, logits), count in self._evaluate(state, split, check)
        ]
        flat = np.concatenate([part.reshape(-1, part.shape[-1]) for part in parts])
        return flat[: len(self.split_rows(split))]

    def alive_units(self, state: TrainState, check: Check = no_check) -> dict[str, np.ndarray]:
        """For each layer with relu: which units [C] bool are above 0 for any of the probe rows."""
        parts: list[Alive] = [jax.device_get(alive) for alive in self._alive_units(state, check)]
        return {name: np.any([part[name] for part in parts], axis=0) for name in parts[0]}

    # -- what each kind does in its own way --------------------------------------------------------

    @abc.abstractmethod
    def _evaluate(
        self, state: TrainState, split: SplitName, check: Check
    ) -> Iterator[tuple[tuple[MetricSums, jax.Array], int]]:
        """((sums, logits [S, B, K]), true batches) of each call of the evaluation program."""

    @abc.abstractmethod
    def _alive_units(self, state: TrainState, check: Check) -> Iterator[Alive]:
        """What each call of the program over the probe rows gives."""

    @abc.abstractmethod
    def train_program(self, state: TrainState) -> jax.stages.Compiled:
        """The program behind `train_epoch` and `train_parts`."""

    @abc.abstractmethod
    def eval_program(self, state: TrainState, split: SplitName) -> jax.stages.Compiled:
        """The program behind `evaluate` and `predict`."""

    def at_rate(self, factor: float) -> Self:
        """The job with the recipe's learning rate times `factor`, by the schedule `Plateau`."""
        if factor == 1.0:
            return self
        rate = np.float32(self.config.scaled_learning_rate() * factor)
        hypers = dataclasses.replace(
            self.hypers, learning_rate=device_put_global(rate, self.placement)
        )
        return dataclasses.replace(self, hypers=hypers)

    def compile(self, state: TrainState) -> None:
        """Have the programs of an epoch ready before a clock starts."""
        self.train_program(state)
        if len(self.rows.validation):
            self.eval_program(state, "validation")

    def stalled(self) -> float | None:
        """Seconds since the last call that the device waited for rows; None: it never does."""
        return None

    def close(self) -> None:  # noqa: B027 - there may be none
        """End the processes that read, where there are any."""

    # -- rows and placements ---------------------------------------------------------------------

    def split_rows(self, split: SplitName) -> np.ndarray:
        """As the function of that name."""
        return split_rows(self.rows, split)

    def eval_shape(self) -> tuple[int, int]:
        """As the function of that name."""
        return eval_shape(self.plan, self.rows)

    def labels(self) -> np.ndarray:
        """Labels [N] int32 of the whole data set."""
        return np.concatenate([self.dataset.train.label, self.dataset.test.label])

    def state_placement(self, state: TrainState) -> Any:
        """The sharding of each array of `state`, in its place."""
        whole = jax.tree.map(lambda _: self.placement, state)
        if not self.plan.sharding.shard_optimizer:
            return whole
        parts = functools.partial(sharding.opt_state_sharding, self.plan.sharding)
        return dataclasses.replace(
            whole, opt_state=parts(state.opt_state), average=parts(state.average)
        )
