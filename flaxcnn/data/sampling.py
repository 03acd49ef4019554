"""Classes made equally frequent: rows drawn evenly from them, weights, and when to speak of it.

A row that is drawn several times in an epoch has a number for each copy, so that each draws its own
augmentation and dropout: copy k of row r is number r + k * R, of the R rows of the data set.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.data.arrays import Dataset
from flaxcnn.errors import ConfigError, near_miss
from flaxcnn.recipe.balance import ClassWeights
from flaxcnn.recipe.config import Config

IMBALANCED = 3  # rows of the largest class over those of the smallest, from which on it is told


def balanced(key: jax.Array, rows: jax.Array, label: jax.Array) -> jax.Array:
    """As many numbers as `rows`, drawn from them so that all classes are equally frequent.

    Of N rows in P classes, each class gives N / P, rounded down or up, at random. Within a class
    every row is drawn as often as any other, but for one time; who is, is random. They come in no
    order to rely on.

    Args:
        key: typed threefry key.
        rows: [N] int32 row numbers.
        label: [R] int32, of every row of the data set.

    Returns:
        [N] int32 row numbers; copies have numbers of their own.
    """
    within, first = jax.random.split(key)
    mixed = jax.random.permutation(within, rows)
    mixed = mixed[jnp.argsort(label[mixed], stable=True)]  # class by class
    own = label[mixed]
    slot = jnp.arange(len(rows), dtype=jnp.int32)
    # Classes that have rows, numbered 0 to P - 1; of each, where it starts and how many rows it has
    number = jnp.concatenate([slot[:1], jnp.cumsum(own[1:] != own[:-1], dtype=jnp.int32)])
    start, end = (
        jnp.searchsorted(number, slot, side=s).astype(jnp.int32) for s in ("left", "right")
    )
    classes = number[-1] + 1
    drawn = (slot + jax.random.randint(first, (), 0, classes)) % classes
    turn, size = slot // classes, (end - start)[drawn]
    return mixed[start[drawn] + turn % size] + turn // size * len(label)


def class_rows(dataset: Dataset, rows: np.ndarray) -> np.ndarray:
    """Rows of each class, [K] int64, among rows [n] of the train archive."""
    return np.bincount(dataset.train.label[rows], minlength=dataset.num_classes)


def check_sampling(config: Config, dataset: Dataset, rows: np.ndarray) -> None:
    """ConfigError where numbers of copies do not fit an int32."""
    if config.sampling is None:
        return
    count = class_rows(dataset, rows)
    present = count[count > 0]
    copies = -(-math.ceil(len(rows) / len(present)) // int(present.min()))
    if copies * (len(dataset.train) + len(dataset.test)) > np.iinfo(np.int32).max:
        rarest = dataset.classes[int(np.where(count > 0, count, len(rows) + 1).argmin())]
        raise ConfigError(
            f"sampling=balanced would draw each of the {present.min()} rows of class {rarest!r} "
            f"{copies} times an epoch, more than can be numbered; use class_weight"
        )


def class_weights(config: Config, dataset: Dataset, rows: np.ndarray) -> np.ndarray | None:
    """The factor of each class, [K] float32, by the training rows; None: there is none.

    "balanced" is n / (K * n_k) for n_k of n rows in K classes, as scikit-learn's
    `compute_class_weight`, so that its mean over the rows is 1.

    Raises:
        ConfigError: a class that the data does not have, all weights 0, or "balanced" with a class
            that has no training rows.
    """
    chosen = config.class_weight
    if chosen is None:
        return None
    if isinstance(chosen, ClassWeights):
        return _given(chosen, dataset)
    count = class_rows(dataset, rows)
    if not count.min():
        raise ConfigError(
            f"class_weight=balanced needs training rows of every class (none is of class "
            f"{dataset.classes[int(count.argmin())]!r})"
        )
    return (len(rows) / (len(count) * count)).astype(np.float32)


def _given(chosen: ClassWeights, dataset: Dataset) -> np.ndarray:
    weight = np.ones(dataset.num_classes, np.float32)
    numbers: dict[int, str] = {}
    for key, value in chosen.named.items():
        if key in dataset.classes:
            number = dataset.classes.index(key)
        elif key.isdecimal() and int(key) < dataset.num_classes:
            number = int(key)
        else:
            raise ConfigError(
                f"class_weight: {dataset.name} has no class {key!r}; give a name, or a number "
                f"below {dataset.num_classes}{near_miss(key, dataset.classes)}"
            )
        if number in numbers:
            raise ConfigError(f"class_weight: {numbers[number]!r} and {key!r} are one class")
        weight[number], numbers[number] = value, key
    if not weight.any():
        raise ConfigError("class_weight must be above 0 for some class (got only 0)")
    return weight


def imbalance(config: Config, dataset: Dataset, rows: np.ndarray) -> str | None:
    """A sentence, where the largest class has `IMBALANCED` times the training rows of the smallest.

    None where the recipe makes up for it.
    """
    count = class_rows(dataset, rows)
    if config.sampling or config.class_weight or count.max() < IMBALANCED * count.min():
        return None
    least, most = int(count.argmin()), int(count.argmax())
    return (
        f"classes are imbalanced: {dataset.classes[least]!r} has {count[least]:,} training rows, "
        f"{dataset.classes[most]!r} {count[most]:,}; class_weight=balanced or sampling=balanced "
        "makes up for it"
    )
