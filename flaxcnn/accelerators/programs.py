"""The package's own programs, and the plain ones beside them, with shapes in place of arrays.

What a run compiles is traced here as it is, for devices that need not be there.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.accelerators import plain
from flaxcnn.accelerators.cases import STEPS
from flaxcnn.data import splits
from flaxcnn.data.archives import PUBLISHED
from flaxcnn.data.arrays import Dataset, Split
from flaxcnn.data.batches import Scaling, resident
from flaxcnn.data.datasets import DIGITS_ROWS
from flaxcnn.data.sampling import class_weights
from flaxcnn.engine import epoch
from flaxcnn.engine.devices import platform, replicated
from flaxcnn.engine.job import COMPUTED_IN, eval_shape, make_hypers, make_plan, products
from flaxcnn.engine.programs import ProgramCache
from flaxcnn.engine.resident import ResidentJob
from flaxcnn.engine.step import TrainState, init_state
from flaxcnn.errors import ConfigError, one_of
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.data import KNOWN_DATA

PROGRAMS: dict[str, Callable[..., Any]] = {  # `evaluate` is what predicts too
    "train_epoch": epoch.train_epoch, "evaluate": epoch.evaluate, "alive_units": epoch.alive_units,
}  # fmt: skip
Tree = Any


def dataset_like(name: str) -> Dataset:
    """Blank images and balanced labels in the sizes of a built-in data set, without its memory.

    Raises:
        ConfigError: not a built-in data set: only its files tell how large it is.
    """
    if name not in KNOWN_DATA:
        raise ConfigError(
            f"--compile-for needs a data set of known shape, {one_of(KNOWN_DATA)} (got {name!r})"
        )
    shape, classes = KNOWN_DATA[name]
    train, test = PUBLISHED[name].rows if name in PUBLISHED else DIGITS_ROWS

    def rows(count: int) -> Split:
        # A scale of 0 has no inverse, so not all pixels are the same
        image = np.arange(math.prod(shape), dtype=np.uint8).reshape(1, *shape)
        label = np.arange(count, dtype=np.int32) % classes
        return Split(np.broadcast_to(image, (count, *shape)), label)

    return Dataset(name, rows(train), rows(test), tuple(map(str, range(classes))), digest="")


def shortened(config: Config, rows: splits.Rows, steps: int) -> splits.Rows:
    """Rows for `steps` batches at most, the last of them as incomplete as an epoch's last one."""
    size, whole = config.batch_size, len(rows.train)
    last = size if config.drop_last or whole % size == 0 else whole % size
    train = rows.train if whole <= steps * size else rows.train[: (steps - 1) * size + last]
    return dataclasses.replace(rows, train=train)


def abstract_job(
    config: Config, devices: int, width: int = 0, steps: int = STEPS
) -> tuple[ResidentJob, TrainState]:
    """A job and its state with shapes in place of arrays, for devices as `devices_used` says.

    Args:
        config: the recipe, on a built-in data set.
        devices: that share a batch.
        width: runs side by side; 0: one run.
        steps: of an epoch, at most.

    Raises:
        ConfigError: the recipe does not fit its data or these devices.
    """
    data = dataset_like(config.dataset)
    config.check_on(data.shape, data.num_classes)
    rows = shortened(config, splits.choose(data, config), steps)
    plan = make_plan(config, len(rows.train), devices, every=True)
    placement = replicated(plan.sharding.devices)
    mean, scale = splits.standardisation(data.train.image[:2], config.normalize)
    scaling = Scaling(mean, scale, class_weights(config, data, rows.train))  # type: ignore[arg-type]
    host = functools.partial(
        resident, [data.train.image[:1], data.test.image[:1]],
        [data.train.label, data.test.label], scaling, flat=plan.sharding.platform == "tpu",
    )  # fmt: skip
    small = host()
    count = len(data.train) + len(data.test)
    pixels = jax.ShapeDtypeStruct((count, *small.image.shape[1:]), small.image.dtype)
    held = shapes(dataclasses.replace(small, image=pixels), placement)  # type: ignore[arg-type]
    seeds = np.asarray(config.seeds(), np.uint32)
    state = jax.eval_shape(
        functools.partial(init_state, plan, data.shape), seeds, make_hypers(config)
    )
    hypers = shapes(make_hypers(config), placement)
    job = ResidentJob(config, data, rows, plan, hypers, held, placement, ProgramCache(), None)
    state = jax.tree.map(lambda x, to: x.update(sharding=to), state, job.state_placement(state))
    if not width:
        return job, state
    stack = functools.partial(stacked, width=width)
    return job.stacked(stack(job.hypers), width), stack(state)


def shapes(tree: Tree, place: jax.sharding.Sharding) -> Tree:
    """The shapes of a tree's arrays, each on `place`."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, jax.dtypes.canonicalize_dtype(x.dtype, True), sharding=place
        ),
        tree,
    )


def stacked(tree: Tree, width: int) -> Tree:
    """The shapes of `width` such trees, along a first axis."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((width, *x.shape), x.dtype, sharding=x.sharding), tree
    )


def plain_traced(config: Config, program: str, steps: int = STEPS) -> jax.stages.Traced:
    """The plain program over the same data and rows, on one device, with products as exact."""
    data = dataset_like(config.dataset)
    rows = shortened(config, splits.choose(data, config), steps)
    place = replicated(1)
    arrays = dataclasses.replace(config, precision=COMPUTED_IN[config.precision])  # type: ignore[arg-type]
    state = shapes(jax.eval_shape(lambda: plain.init_state(arrays, data.shape)), place)
    count = len(data.train) + len(data.test)
    image = jax.ShapeDtypeStruct((count, *data.shape), jnp.uint8, sharding=place)
    label = jax.ShapeDtypeStruct((count,), jnp.int32, sharding=place)
    if program == "train_epoch":
        shape: tuple[int, ...] = (len(rows.train),)
    else:
        shape = eval_shape(make_plan(config, len(rows.train), 1), rows)
    number = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=place)
    function = functools.partial(getattr(plain, program), arrays)
    donated = (0,) if program == "train_epoch" else ()
    with jax.default_matmul_precision(products(config.precision, platform())):
        return jax.jit(function, donate_argnums=donated).trace(state, image, label, number)
