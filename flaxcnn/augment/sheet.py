"""What a chain makes of the first training rows, to be looked at."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.augment import own
from flaxcnn.augment.chain import augment, mixes, softens
from flaxcnn.data import splits
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.batches import Batch, partners
from flaxcnn.data.stream import Order, read_rows
from flaxcnn.recipe.augment import check_chain
from flaxcnn.recipe.config import Config


class Sheet(NamedTuple):
    """Rows as they are stored, and in each of the first epochs."""

    row: np.ndarray  # int32 [N]
    label: np.ndarray  # int32 [N]
    stored: np.ndarray  # uint8 [N, H, W, C]
    image: np.ndarray  # uint8 [E, N, H, W, C]
    target: np.ndarray | None  # float32 [E, N, K]; None: nothing changes targets


def sheet(config: Config, dataset: Dataset, rows: int, epochs: int) -> Sheet:
    """The first `rows` training rows in the first `epochs` epochs, as the step has them.

    Raises:
        ConfigError: the chain cannot be applied to these images.
    """
    check_chain(config.augment, dataset.shape)
    train = splits.choose(dataset, config).train
    row, blank = train[:rows], splits.standardisation(
        dataset.train.image, config.normalize, train
    )[0]  # fmt: skip
    read = functools.partial(_batch, dataset)
    batch = read(row)
    own.check(config.augment, np.asarray(batch.image)[:4], dataset.num_classes)
    classes = dataset.num_classes if softens(config.augment) else 0
    apply = jax.jit(augment, static_argnums=(0, 5))
    seeds = jnp.asarray(config.seeds(), jnp.uint32)
    images, targets = [], []
    for epoch in map(jnp.int32, range(epochs)):
        now = batch
        if mixes(config.augment):
            others = partners(seeds, epoch, batch.row, jnp.asarray(train))
            now = batch.replace(partner=read(np.asarray(others)))  # type: ignore[attr-defined]
        image, target = apply(config.augment, seeds, epoch, now, jnp.asarray(blank), classes)
        images.append(np.asarray(image, np.float32).round().clip(0, 255).astype(np.uint8))
        targets.append(target)
    return Sheet(
        row, np.asarray(batch.label), np.asarray(batch.image), np.stack(images),
        np.stack(targets) if classes else None,
    )  # fmt: skip


def _batch(dataset: Dataset, row: np.ndarray) -> Batch:
    """Rows numbered through both archives."""
    archives = dataset.train, dataset.test
    pixels = np.empty((len(row), *dataset.shape), np.uint8)
    read_rows([archive.image for archive in archives], Order(row, None), pixels)
    label = np.concatenate([archive.label for archive in archives])[row]
    every = jnp.ones(len(row), bool)
    return Batch(jnp.asarray(pixels), jnp.asarray(label), jnp.asarray(row), every)
