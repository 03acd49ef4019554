"""A recipe and its data made ready to run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from flaxcnn.augment import own
from flaxcnn.augment.chain import softens
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.batches import resident
from flaxcnn.data.datasets import require_resident, streams
from flaxcnn.engine import devices
from flaxcnn.engine.job import Job, choose_rows, make_hypers, make_plan
from flaxcnn.engine.programs import ProgramCache
from flaxcnn.engine.resident import ResidentJob
from flaxcnn.engine.streaming import Stream, StreamedJob
from flaxcnn.engine.teacher import with_teacher, with_weights
from flaxcnn.engine.weights import start_of
from flaxcnn.errors import ConfigError
from flaxcnn.model.losses import build_loss, row_loss
from flaxcnn.recipe.augment import Augmentation, each_kind
from flaxcnn.recipe.config import Config

SAMPLE = 4  # training images on which augmentation of one's own is tried


def make_job(config: Config, dataset: Dataset) -> Job:
    """Check the recipe against the data, choose the rows and put the data on the device.

    Batches are spread over all devices, unless the run is to be exact. What is too large for
    `data_memory` is streamed instead.

    Raises:
        ConfigError: the model cannot be built on the data's shape, or the split does not fit.
        DataError: a class with too few rows.
    """
    _check(config, dataset)
    if not streams(config, dataset, devices.pixel_memory()):
        return make_resident_job(config, dataset)
    if config.average and config.average.batch_stats == "estimate" and config.may_have_batch_norm:
        raise ConfigError(
            "average.batch_stats=estimate takes a second pass over rows on the device, and these "
            "are streamed; use average.batch_stats=average"
        )
    if config.tta and config.tta.share < 1:
        raise ConfigError(
            "tta.share ranks all rows of a split, and these are streamed; use tta.unsure"
        )
    rows, scaling = choose_rows(config, dataset)
    scaling = with_weights(config, dataset, scaling)
    plan = with_teacher(config, make_plan(config, len(rows.train)))
    placement = devices.replicated(plan.sharding.devices)
    no_pixels = np.zeros((0, *dataset.shape), np.uint8)
    host = resident([no_pixels], [np.zeros(0, np.int32)], scaling)
    hypers, data = devices.device_put_global((make_hypers(config), host), placement)
    stream = Stream(config, dataset, rows, plan, placement)
    start = start_of(config, plan, dataset, rows, scaling)
    return StreamedJob(
        config, dataset, rows, plan, hypers, data, placement, ProgramCache(), start, stream
    )


def _check(config: Config, dataset: Dataset) -> None:
    """Whether the model and the augmentation of a recipe fit the images."""
    config.check_on(dataset.shape, dataset.num_classes)
    if any(isinstance(kind, Augmentation) for kind in each_kind(config.augment)):
        sample = np.asarray(dataset.train.image[np.arange(min(SAMPLE, len(dataset.train)))])
        own.check(config.augment, sample, dataset.num_classes)
    if softens(config.augment):
        soft = jnp.zeros((1, dataset.num_classes), jnp.float32)
        row_loss(build_loss(config.loss), soft, jnp.zeros(1, jnp.int32), None, None, None, soft)


def make_resident_job(
    config: Config, dataset: Dataset, device: jax.Device | None = None
) -> ResidentJob:
    """The same with the data on the device in any case; on `device` alone, where one is given.

    Raises:
        ConfigError: as `make_job`; or the data is to be streamed, with `device` given.
        DataError: a class with too few rows.
    """
    _check(config, dataset)
    if device is not None:
        require_resident(config, dataset, "a study")
    rows, scaling = choose_rows(config, dataset)
    scaling = with_weights(config, dataset, scaling)
    plan = make_plan(config, len(rows.train), None if device is None else 1)
    plan = with_teacher(config, plan)
    placement = (
        SingleDeviceSharding(device) if device else devices.replicated(plan.sharding.devices)
    )
    archives = (dataset.train, dataset.test)
    host = resident(
        [np.asarray(split.image) for split in archives], [split.label for split in archives],
        scaling, flat=plan.sharding.platform == "tpu",
    )  # fmt: skip
    hypers, data = devices.device_put_global((make_hypers(config), host), placement)
    start = start_of(config, plan, dataset, rows, scaling)
    return ResidentJob(config, dataset, rows, plan, hypers, data, placement, ProgramCache(), start)
