"""What code of one's own keeps of this package's promises, tried out before the first epoch.

A network that draws random numbers for a batch as a whole, or takes statistics of all rows, gives
gradients that depend on the order of rows, on padding, or on how a batch is divided over devices.
The recipe's own layers, and the modules of `flaxcnn.nn`, do not.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.augment.chain import mixes
from flaxcnn.data.batches import Batch, Scaling
from flaxcnn.engine.job import Job, make_plan
from flaxcnn.engine.sharding import ONE_DEVICE
from flaxcnn.engine.step import Hypers, Plan, Sums, TrainState, gradients, train_step
from flaxcnn.engine.weights import state_like
from flaxcnn.errors import ConfigError, FlaxcnnError, first_line
from flaxcnn.recipe.networks import own_code
from flaxcnn.recipe.references import TakesArguments

ROWS = 8  # that the trial takes; 6 of them true where there is padding
# Of the largest gradient: float32 sums of a few rows in another order differ by less, and what is
# broken differs by far more.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Promises:
    """Whether the sums of a batch stay what they are under three changes that count for nothing."""

    order: bool = True  # the same rows in another order
    padding: bool = True  # rows that do not count, beside those that do
    division: bool = True  # two halves of a batch, added

    def broken(self) -> list[str]:
        """A sentence for each that the network does not keep."""
        sentences = {
            "order": "its gradients depend on the order of rows in a batch: it draws random "
            "numbers for the batch as a whole, where flaxcnn.nn.Dropout draws for each row",
            "padding": "rows of padding change its gradients: it takes statistics of all rows, "
            "where flaxcnn.nn.BatchNorm leaves padding out; use a batch_size that divides the "
            "training rows, or drop_last=true",
            "division": "its gradients depend on how a batch is divided: results differ with the "
            "number of devices and with accumulate",
        }
        return [text for name, text in sentences.items() if not getattr(self, name)]


def of_job(job: Job) -> Promises | None:
    """What a job keeps; None for one without code of one's own, which keeps everything.

    Raises:
        ConfigError: it breaks a promise that determinism=exact relies on, or gives logits that are
            not finite.
    """
    _check_update(job)
    if not (name := own_code(job.config)):
        return None
    numbers = np.resize(job.rows.train, ROWS)  # of a tiny split, some twice
    image = np.asarray(job.dataset.train.image[numbers])
    scaling, state, hypers = jax.device_get((job.data.scaling, job.init(), job.hypers))
    plan = make_plan(job.config, len(job.rows.train), devices=1)
    try:
        promises = try_out(plan, state, hypers, scaling, image, name)
    except (FlaxcnnError, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:  # whatever the code raises in training
        raise ConfigError(
            f"{name} fails in training: {type(error).__name__}: {first_line(error)}"
        ) from error
    if job.config.has_batch_norm:  # whose statistics are those of a shard by rule
        promises = dataclasses.replace(promises, division=True)
    if job.config.determinism == "exact" and (broken := promises.broken()):
        raise ConfigError(f"determinism=exact cannot be kept by {name}: {'; '.join(broken)}")
    return promises


def _check_update(job: Job) -> None:
    """Trace one step where code of others makes the optimizer or the schedule.

    Raises:
        ConfigError: what it makes cannot be used.
    """
    config = job.config
    specs = (config.optimizer, config.schedule)
    if not (named := [spec.code[0] for spec in specs if isinstance(spec, TakesArguments)]):
        return
    plan = make_plan(config, len(job.rows.train), devices=1)
    shape, rows = job.dataset.shape, (plan.batch_size,)
    like: Any = jax.ShapeDtypeStruct
    weight = None if job.data.weight is None else like(rows, jnp.float32)
    batch = Batch(
        like((*rows, *shape), job.data.image.dtype), like(rows, jnp.int32), like(rows, jnp.int32),
        like(rows, bool), weight,
    )  # fmt: skip
    if mixes(plan.augment):
        batch = dataclasses.replace(batch, partner=batch)
    step = functools.partial(train_step, plan)
    try:
        state = state_like(plan, config, shape)
        jax.eval_shape(step, state, job.hypers, job.data.scaling, batch)
    except FlaxcnnError:
        raise
    except Exception as error:  # whatever it raises
        raise ConfigError(
            f"{', '.join(named)}: the first step fails: {type(error).__name__}: {first_line(error)}"
        ) from error


def try_out(
    plan: Plan, state: TrainState, hypers: Hypers, scaling: Scaling, image: np.ndarray,
    name: str = "the model",
) -> Promises:  # fmt: skip
    """Try a network on ROWS rows.

    Args:
        plan: of the run; the trial is on one device.
        state: the initial one.
        hypers: of the run.
        scaling: of the pixels.
        image: [ROWS, H, W, C] training images.
        name: of the network, in errors.

    Raises:
        ConfigError: the loss is not finite.
    """
    count = np.arange(ROWS, dtype=np.int32)
    rows = Batch(jnp.asarray(image), jnp.zeros(ROWS, jnp.int32), count, jnp.ones(ROWS, bool))  # type: ignore[arg-type]
    # A plan whose batches have padding: the mask is in the program.
    plan = dataclasses.replace(
        plan, sharding=ONE_DEVICE, batch_size=ROWS, train_rows=ROWS - 1, steps_per_epoch=1,
        augment=(),  # it works on each row alone
    )  # fmt: skip

    @jax.jit
    def sums(batch: Batch) -> Sums:
        return gradients(plan, state, hypers, scaling, batch)

    def pick(numbers: np.ndarray, true: int = ROWS) -> Batch:
        part: Batch = jax.tree.map(lambda x: x[numbers], rows)
        return dataclasses.replace(part, mask=jnp.arange(len(numbers)) < true)

    whole, few = sums(rows), sums(pick(count[: ROWS - 2]))
    if not np.isfinite(loss := float(whole.metrics.loss)):
        raise ConfigError(f"the loss of {name} is {loss} before the first step")
    halves = [sums(pick(half)) for half in np.split(count, 2)]
    return Promises(
        order=_alike(whole, sums(pick(count[::-1]))),
        padding=_alike(few, sums(pick(count, ROWS - 2))),
        division=_alike(whole, jax.tree.map(jnp.add, *halves)),
    )


def _alike(a: Sums, b: Sums) -> bool:
    """Whether all gradients agree but for rounding."""
    pairs = zip(jax.tree.leaves(a.grads), jax.tree.leaves(b.grads), strict=True)
    differences = [(np.abs(x - y).max(), np.abs(x).max()) for x, y in jax.device_get(list(pairs))]
    largest = max(size for _, size in differences)
    return bool(max(away for away, _ in differences) <= TOLERANCE * largest)
