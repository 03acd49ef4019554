"""The teacher of a distilled network: its model compiled in, its weights beside the data."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from flaxcnn.data.arrays import Dataset
from flaxcnn.data.batches import Scaling
from flaxcnn.engine.job import make_plan
from flaxcnn.engine.step import Plan
from flaxcnn.engine.weights import kept_state
from flaxcnn.errors import CheckpointError, ConfigError
from flaxcnn.model.protocol import Model
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.references import SOURCES, copies_in
from flaxcnn.recipe.teachers import Distill
from flaxcnn.records.read import RunRecord, read_run


def with_teacher(config: Config, plan: Plan) -> Plan:
    """The plan with the model of the recipe's teacher, if it has one.

    Raises:
        ConfigError: the teacher is gone, has changed, or cannot be read.
    """
    if config.distill is None:
        return dataclasses.replace(plan, teacher=None)
    return dataclasses.replace(plan, teacher=_read(config.distill.run, config.distill.digest)[1])


def with_weights(config: Config, dataset: Dataset, scaling: Scaling) -> Scaling:
    """The scaling with the variables of the recipe's teacher, if it has one.

    Raises:
        ConfigError: as `with_teacher`; or it was trained on other images or classes.
    """
    if config.distill is None:
        return scaling
    record, _, variables = _read(config.distill.run, config.distill.digest)
    there = (tuple(record.data["shape"]), len(record.data["classes"]))
    if there != (dataset.shape, dataset.num_classes):
        raise ConfigError(
            f"distill: {config.distill.run} was trained on images {list(there[0])} of {there[1]} "
            f"classes, and these are {list(dataset.shape)} of {dataset.num_classes}"
        )
    return dataclasses.replace(scaling, teacher=variables)


@functools.lru_cache(2)
def _read(run: str, digest: str) -> tuple[RunRecord, Model, dict[str, Any]]:
    """The record of a teacher, its model, and its variables and scaling on the host."""
    distill = Distill(run)
    if distill.digest != digest:
        raise ConfigError(f"distill: {run} has changed since the recipe was made")
    try:
        record = read_run(distill.folder)
        with copies_in(distill.folder / SOURCES):
            state = jax.device_get(kept_state(distill.folder, record))
            model = make_plan(Config.from_dict(record.config), 1, devices=1).model
    except CheckpointError as error:
        raise ConfigError(f"distill: {error}") from error
    variables = {
        "variables": {"params": state.params, "batch_stats": state.batch_stats},
        "mean": np.asarray(record.data["mean"], np.float32),
        "scale": np.asarray(record.data["scale"], np.float32),
    }  # fmt: skip
    return record, model, variables
