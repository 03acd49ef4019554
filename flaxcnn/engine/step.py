"""The heart: one training step in two halves, and one evaluation step.

`gradients` returns sums over the true rows of a batch; `update` divides them once and applies them.
One device, a sharded batch, pmap, gradient accumulation and many runs at once wrap these two: they
differ in how sums are added between the halves, never in what is computed.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from flaxcnn.augment.chain import augment, softens
from flaxcnn.data.batches import Batch, Scaling
from flaxcnn.data.standardize import standardize
from flaxcnn.engine.metrics import Metrics, MetricSums, batch_sums
from flaxcnn.engine.sharding import (
    ONE_DEVICE,
    BatchSharding,
    isolated,
    reduce_over_shards,
    shard_opt_state,
)
from flaxcnn.model import averages, rules
from flaxcnn.model.distillation import divergence
from flaxcnn.model.losses import RowFunction
from flaxcnn.model.protocol import Model, RowContext
from flaxcnn.model.schedules import scheduled_numbers, scheduled_rate
from flaxcnn.model.views import logits_of
from flaxcnn.recipe.augment import Augment
from flaxcnn.recipe.averages import Average
from flaxcnn.recipe.optimizers import Optimizer
from flaxcnn.recipe.rules import NO_RULES, Rules
from flaxcnn.recipe.schedules import Schedule
from flaxcnn.recipe.views import Views
from flaxcnn.rng import Purpose, row_keys, stream_key

Tree = Any  # a pytree of arrays


@dataclass(frozen=True)
class Plan:
    """What is compiled in: everything about a run that is not an array."""

    model: Model
    optimizer: Optimizer
    schedule: Schedule
    augment: tuple[Augment, ...]
    smooth: bool  # label smoothing is in the program
    batch_size: int
    drop_last: bool
    train_rows: int
    steps_per_epoch: int
    total_steps: int  # of the whole run, for a schedule that spans it; 0 for the others
    sharding: BatchSharding = ONE_DEVICE
    exact: bool = False  # the back end's deterministic operations
    loss: RowFunction | None = None  # None: softmax cross-entropy
    metrics: Metrics = ()  # beside loss and accuracy
    balanced: bool = False  # rows of an epoch are drawn evenly from the classes
    rules: Rules = NO_RULES  # of the update, beside the optimizer
    tta: Views | None = None  # of an image that is evaluated
    teacher: Model | None = None  # whose variables are in `Scaling`
    part_steps: int = 0  # most steps of a call, where an epoch takes several


@flax.struct.dataclass
class Hypers:
    """What may differ between runs of one compiled program; each [] float32, but for `dropout`."""

    learning_rate: jax.Array
    optimizer: dict[str, jax.Array]  # its traced numbers by name
    label_smoothing: jax.Array
    dropout: jax.Array  # [number of dropout layers]
    rules: dict[str, jax.Array] = flax.struct.field(default_factory=dict)  # numbers of Plan.rules


@flax.struct.dataclass
class TrainState:
    """Arrays only."""

    step: jax.Array  # [] int32, updates done
    seeds: jax.Array  # [4] uint32, one for each Purpose: the only source of randomness
    params: Tree
    batch_stats: Tree  # {} for a model without batch normalisation
    opt_state: Tree
    average: Tree = flax.struct.field(default_factory=dict)  # of weights; {} where there is none


@flax.struct.dataclass
class Sums:
    """Everything a batch contributes to an update, summed over its true rows."""

    grads: Tree  # gradient of the summed loss
    batch_stats: Tree  # new moving statistics times the count
    metrics: MetricSums


def init_state(plan: Plan, shape: tuple[int, ...], seeds: jax.Array, hypers: Hypers) -> TrainState:
    """A fresh state for images of `shape` (H, W, C); `seeds` is [4] uint32."""
    key = stream_key(seeds, Purpose.INIT)
    variables = plan.model.init(key, jnp.zeros((1, *shape), jnp.float32))
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    opt_state = rules.initial(
        plan.optimizer, plan.rules, hypers.learning_rate, hypers.optimizer, params
    )
    return TrainState(
        step=jnp.int32(0),
        seeds=seeds,
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        average=averages.initial(plan.rules.average, params, batch_stats, opt_state),
    )


def gradients(
    plan: Plan, state: TrainState, hypers: Hypers, scaling: Scaling, batch: Batch
) -> Sums:
    """First half: the sums of one batch, or of a part of it."""
    sums = _of_whole(plan, state, hypers, scaling, batch)
    weighted = jax.tree.map(lambda s: s * sums.metrics.count, sums.batch_stats)
    return dataclasses.replace(sums, batch_stats=weighted)


def _of_whole(
    plan: Plan, state: TrainState, hypers: Hypers, scaling: Scaling, batch: Batch
) -> Sums:
    """As `gradients` of a batch to which nothing is added: the moving statistics are no sums."""
    epoch = state.step // plan.steps_per_epoch
    classes = _classes(plan, state, batch.image) if softens(plan.augment) else 0
    pixels, target = augment(
        plan.augment, state.seeds, epoch, batch, scaling.mean, classes, plan.sharding.platform
    )
    image = standardize(pixels, scaling.mean, scaling.scale)
    taught = None if plan.teacher is None else _taught(plan.teacher, scaling, pixels)
    key = stream_key(state.seeds, Purpose.DROPOUT, state.step)
    padded = plan.steps_per_epoch * plan.batch_size > plan.train_rows or (
        plan.batch_size % plan.sharding.parts > 0
    )
    mask = batch.mask if padded else None
    rows = RowContext(mask, row_keys(key, batch.row), hypers.dropout, key)

    def loss_fn(params: Tree) -> tuple[jax.Array, tuple[MetricSums, Tree]]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, batch_stats = plan.model.apply(variables, image, train=True, rows=rows)
        smoothing = hypers.label_smoothing if plan.smooth else None
        sums = batch_sums(
            logits, batch.label, batch.mask, smoothing, batch.weight, plan.sharding.platform,
            target, plan.loss, plan.metrics, scaling.class_weight,
        )  # fmt: skip
        if taught is not None:
            sums = _distilled(hypers, sums, logits, taught, batch)
        return sums.loss, (sums, batch_stats)

    grads, (metrics, batch_stats) = jax.grad(loss_fn, has_aux=True)(state.params)
    return Sums(grads, batch_stats, metrics)


def _taught(teacher: Model, scaling: Scaling, pixels: jax.Array) -> jax.Array:
    """Logits [B, K] of the teacher for what the network sees, by its own standardisation."""
    assert scaling.teacher is not None
    image = standardize(pixels, scaling.teacher["mean"], scaling.teacher["scale"])
    return teacher.apply(scaling.teacher["variables"], image, train=False, rows=RowContext())[0]


def _distilled(
    hypers: Hypers, sums: MetricSums, logits: jax.Array, taught: jax.Array, batch: Batch
) -> MetricSums:
    """The sums with the loss of a distilled network."""
    rows = divergence(logits, taught, hypers.rules["distill.temperature"])
    rows = rows if batch.weight is None else rows * batch.weight
    share = hypers.rules["distill.weight"]
    loss = (1.0 - share) * sums.loss + share * rows.sum(where=batch.mask)
    return dataclasses.replace(sums, loss=loss)


def _classes(plan: Plan, state: TrainState, image: jax.Array) -> int:
    """How many classes the network tells apart."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    like = jax.ShapeDtypeStruct(image.shape, jnp.float32)
    apply = functools.partial(plan.model.apply, train=False, rows=RowContext())
    return int(jax.eval_shape(apply, variables, like)[0].shape[-1])


def update(plan: Plan, state: TrainState, hypers: Hypers, sums: Sums) -> TrainState:
    """Second half: divide once, apply once."""
    mean = functools.partial(jax.tree.map, lambda x: x / sums.metrics.count)
    grads = mean(sums.grads)
    batch_stats = mean(sums.batch_stats) if plan.sharding.adds else sums.batch_stats
    rate = scheduled_rate(
        plan.schedule, hypers.learning_rate, state.step, plan.steps_per_epoch, plan.total_steps
    )
    of_params: Callable[..., Tree] = functools.partial(rules.update, plan.optimizer, plan.rules)
    # Its sums over all parameters must not depend on fusions.
    if rules.reduces(plan.optimizer, plan.rules):
        of_params = isolated(plan.sharding, of_params)
    now = state.step.astype(jnp.float32)
    own = rules.at(
        plan.rules, hypers.rules, now / plan.steps_per_epoch, now / max(plan.total_steps, 1)
    )
    numbers = scheduled_numbers(plan.schedule, hypers.optimizer, state.step, plan.total_steps)
    updates, opt_state = of_params(rate, numbers, own, grads, state.opt_state, state.params)
    new = dataclasses.replace(
        state,
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=shard_opt_state(plan.sharding, opt_state),
    )
    return new if plan.rules.average is None else _averaging(plan, hypers, plan.rules.average, new)


def _averaging(plan: Plan, hypers: Hypers, average: Average, state: TrainState) -> TrainState:
    """The state after an update with its average."""
    new = averages.after(
        average, hypers.rules.get("average"), state.average,
        {"params": state.params, "batch_stats": state.batch_stats}, state.opt_state, state.step,
        plan.steps_per_epoch,
    )  # fmt: skip
    return dataclasses.replace(state, average=shard_opt_state(plan.sharding, new))


def train_step(
    plan: Plan, state: TrainState, hypers: Hypers, scaling: Scaling, batch: Batch
) -> tuple[TrainState, MetricSums]:
    """One update of one run; the metrics are those of the weights before it."""
    of_rows = functools.partial(gradients if plan.sharding.adds else _of_whole, plan)
    sums = reduce_over_shards(plan.sharding, of_rows, (state, hypers, scaling), batch)
    if plan.rules.sam:  # the gradients of weights a step uphill, everything else as it was
        uphill = _uphill(plan, state, hypers, sums)
        again = reduce_over_shards(plan.sharding, of_rows, (uphill, hypers, scaling), batch)
        sums = dataclasses.replace(sums, grads=again.grads)
    return update(plan, state, hypers, sums), sums.metrics


def _uphill(plan: Plan, state: TrainState, hypers: Hypers, sums: Sums) -> TrainState:
    """The state whose gradients SAM takes."""
    grads = jax.tree.map(lambda g: g / sums.metrics.count, sums.grads)
    climb = isolated(plan.sharding, functools.partial(rules.ascent, plan.rules))
    params = climb(hypers.rules["sam"], grads, state.params)
    return dataclasses.replace(state, params=params)


def eval_step(plan: Plan, state: TrainState, scaling: Scaling, batch: Batch) -> jax.Array:
    """Logits [B, K] float32 in inference mode."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    image = standardize(batch.image, scaling.mean, scaling.scale)

    def forward(image: jax.Array) -> jax.Array:
        return plan.model.apply(variables, image, train=False, rows=RowContext())[0]

    return logits_of(forward, image, plan.tta)
