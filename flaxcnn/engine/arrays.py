"""Arrays that Python gives, ready to run: the caller's rows and weights, at any scale of pixels."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.data.arrays import Dataset, Split
from flaxcnn.data.batches import Batch, Resident, Scaling
from flaxcnn.data.splits import Rows, standardisation
from flaxcnn.data.stratified import hold_out
from flaxcnn.engine.devices import device_put_global, replicated
from flaxcnn.engine.epoch import eval_batch
from flaxcnn.engine.job import make_hypers, make_plan
from flaxcnn.engine.programs import ProgramCache
from flaxcnn.engine.resident import ResidentJob
from flaxcnn.engine.step import Plan, TrainState, eval_step
from flaxcnn.errors import ConfigError
from flaxcnn.recipe.config import Config

Normalize = Literal["unit", "per_pixel", "per_channel"] | None
# Config wants a data set by name; nothing is read from this one.
DATASET = "npz:arrays"
KEPT_PROGRAMS = 64  # sets of shapes whose compiled programs are kept for the next fit
ROWS_AT_ONCE = 4096  # of float64 while standardising


@dataclass(frozen=True, eq=False)
class Standardizer:
    """x = (pixel - mean) / scale, by the training rows; float32 or float64, as `[H, W, C]`."""

    mean: np.ndarray
    scale: np.ndarray

    def apply(self, image: np.ndarray) -> tuple[np.ndarray, Scaling]:
        """Images [N, H, W, C] as the device holds them, with what the step still does to them.

        uint8 stays uint8, a quarter of the memory, and is scaled inside the step, as everywhere in
        the package. Other numbers are scaled here, in float64: features far from 0 would lose their
        digits in float32. They come out as float32.
        """
        if image.dtype == np.uint8:
            return image, _scaling(self.mean, self.scale)
        scaled = np.empty(image.shape, np.float32)
        for start in range(0, len(image), ROWS_AT_ONCE):
            part = slice(start, start + ROWS_AT_ONCE)
            scaled[part] = (image[part].astype(np.float64) - self.mean) / self.scale
        return scaled, _scaling(np.zeros((1, 1, 1)), np.ones((1, 1, 1)))


def _scaling(mean: np.ndarray, scale: np.ndarray) -> Scaling:
    return Scaling(mean.astype(np.float32), scale.astype(np.float32))  # type: ignore[arg-type]


def standardizer(
    image: np.ndarray, how: Normalize, rows: np.ndarray, weight: np.ndarray | None = None
) -> Standardizer:
    """Mean and scale of the training rows.

    Args:
        image: [N, H, W, C], any real numbers.
        how: None leaves numbers as they are, "unit" divides by 255, the others take mean and
            standard deviation of each pixel or channel.
        rows: [n], the training rows.
        weight: [N] float32; a row counts as often as it says.
    """
    if how is None:
        return Standardizer(np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    if how == "unit" or (image.dtype == np.uint8 and weight is None):
        return Standardizer(*standardisation(image, how, rows))
    from sklearn.preprocessing import StandardScaler  # seconds to import

    shape = image.shape[1:] if how == "per_pixel" else (1, 1, image.shape[-1])
    table = image[rows].reshape(-1, math.prod(shape))
    each = None if weight is None else np.repeat(weight[rows], len(table) // len(rows))
    # Its scale of a feature that never changes is 1, with the rounding of its mean considered.
    scaler = StandardScaler().fit(table.astype(np.float64), sample_weight=each)
    return Standardizer(scaler.mean_.reshape(shape), scaler.scale_.reshape(shape))


def image_shape(
    asked: Sequence[int] | None, shape: tuple[int, ...] | None, features: int
) -> tuple[int, ...]:
    """(H, W, C) of images that came in shape `shape`, or None for rows of `features` numbers.

    Features are an image of one pixel with a channel for each, unless `asked`, (H, W) or (H, W, C),
    says otherwise.

    Raises:
        ConfigError: `asked` is no such shape, or not that of the data.
    """
    if asked is None:
        return shape or (1, 1, features)
    given = (*map(int, asked), 1)[:3]
    sound = len(asked) in (2, 3) and min(given) > 0 and math.prod(given) == features
    if not sound or (shape or given) != given:
        size = f"images {shape}" if shape else f"rows of {features} features"
        raise ConfigError(
            f"image_shape must be (H, W) or (H, W, C) and match the {size} in X (got {asked!r})"
        )
    return given


def choose(label: np.ndarray, fraction: float, seed: int) -> Rows:
    """All rows to train, or `fraction` of them, stratified by class, held out to validate.

    Raises:
        ConfigError: not a fraction, or one that leaves a class on one side only.
    """
    rows, none = np.arange(len(label), dtype=np.int32), np.zeros(0, np.int32)
    if fraction == 0:
        return Rows(rows, none, none)
    if not 0 < fraction < 1:
        raise ConfigError(f"validation_fraction must be at least 0 and below 1 (got {fraction!r})")
    count, members = max(1, round(fraction * len(label))), np.bincount(label)
    members = members[members > 0]
    if members.min() < 2 or not len(members) <= count <= len(label) - len(members):
        raise ConfigError(
            f"validation_fraction must leave each class on both sides (got {fraction!r}, {count} "
            f"of {len(label)} rows; the rarest of {len(members)} classes has {members.min()})"
        )
    train, held = hold_out(label, count, seed)
    return Rows(rows[train], rows[held], none)


def relative(weight: np.ndarray) -> np.ndarray | None:
    """Weights [N] above 0 in float32, or None where all are equal: nothing is weighted then.

    They are brought near 1, so that float32 holds their sums, and by a power of 2, so that integers
    stay exact. One too small for float32 becomes its smallest number: a batch may have no others.

    Raises:
        ValueError: no weights.
    """
    if not len(weight):
        raise ValueError("sample_weight must have a weight above 0 (got only zeros)")
    if (weight == weight[0]).all():
        return None
    near = weight / 2.0 ** np.round(np.log2(weight.mean()))
    return near.clip(np.finfo(np.float32).tiny).astype(np.float32)


@functools.lru_cache(KEPT_PROGRAMS)
def _programs(*_: Any) -> dict[Hashable, jax.stages.Compiled]:
    """A dictionary for the programs of one plan and one set of shapes; the same at every call."""
    return {}


def make_array_job(
    config: Config, data: Resident, rows: Rows, classes: int, devices: int | None
) -> ResidentJob:
    """A Job over arrays on the host; those of one shape share their compiled programs.

    Args:
        config: the recipe; its `dataset`, `split`, `validation` and `normalize` play no part.
        data: pixels, labels, scaling and weights, as numpy arrays.
        rows: to train and to validate, which may be none.
        classes: number of classes.
        devices: that share a batch, where it is large enough; None: as many as do well.

    Raises:
        ConfigError: the model cannot be built on the shape of the images, or there are not as many
            devices.
    """
    if devices is not None and not 1 <= devices <= jax.device_count():
        raise ConfigError(
            f"devices must be from 1 to {jax.device_count()}, or None (got {devices!r})"
        )
    # A larger batch would be padded, and its padding computed.
    config = dataclasses.replace(config, batch_size=min(config.batch_size, len(rows.train)))
    shape = data.image.shape[1:]
    config.check_on(shape, classes)
    if config.whitens:
        raise ConfigError(
            "init=whiten takes the pixels of a data set; use flaxcnn.train(data=(images, labels))"
        )
    plan = make_plan(config, len(rows.train), devices)
    placement = replicated(plan.sharding.devices)
    nothing = Split(np.zeros((0, *shape), np.uint8), np.zeros(0, np.int32))  # `data` has the rows
    names = tuple(map(str, range(classes)))
    like = jax.tree.map(lambda x: (x.shape, str(x.dtype)), data)
    programs = _programs(plan, placement, len(rows.train), *jax.tree.leaves(like))
    return ResidentJob(
        config, Dataset(config.dataset, nothing, nothing, names, digest=""), rows, plan,
        device_put_global(make_hypers(config), placement), device_put_global(data, placement),
        placement, ProgramCache(programs), None,
    )  # fmt: skip


def logits(config: Config, state: TrainState, standard: Standardizer, image: np.ndarray) -> Any:
    """Logits [N, K] float32 of images [N, H, W, C], on one device.

    All batches have one size, the last one made up by padding, so a row has the same logits
    whatever rows come with it, and a model is compiled once for any number of them.
    """
    plan = make_plan(config, 1, devices=1)  # of one row: the same plan whatever it was trained on
    size = eval_batch(1)
    image, scaling = standard.apply(image)
    state, scaling = jax.device_put((state, scaling), replicated(1))
    parts = []
    for start in range(0, len(image), size):
        part = image[start : start + size]
        padded = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)])
        parts.append(_logits(plan, state, scaling, padded))
    return np.concatenate([np.asarray(part) for part in parts])[: len(image)]


@functools.partial(jax.jit, static_argnums=0)
def _logits(plan: Plan, state: TrainState, scaling: Scaling, image: jax.Array) -> jax.Array:
    nothing = jnp.zeros(len(image), jnp.int32)
    return eval_step(
        plan, state, scaling, Batch(image, nothing, nothing, jnp.ones(len(image), bool))
    )
