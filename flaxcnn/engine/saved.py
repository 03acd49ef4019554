"""A finished run and its kept weights: to evaluate it, or to classify images with it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

import flaxcnn
from flaxcnn.backend import enough_memory, prepare
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.batches import Batch, Scaling
from flaxcnn.data.datasets import load_for
from flaxcnn.engine.job import SplitName, make_plan
from flaxcnn.engine.make_job import make_job
from flaxcnn.engine.metrics import finalize
from flaxcnn.engine.step import Plan, TrainState, eval_step
from flaxcnn.engine.weights import kept_state
from flaxcnn.errors import CheckpointError, DataError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.references import SOURCES, copies_in
from flaxcnn.records.read import NOWHERE, RunRecord, read_run

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Result(RunRecord):
    """A finished run: its record and the kept weights."""

    recipe: Config = field(repr=False)
    state: TrainState = field(repr=False)

    @property
    def plan(self) -> Plan:
        """What its programs are compiled from."""
        with self.code():
            return make_plan(self.recipe, self.data["rows"]["train"])

    def code(self) -> contextlib.AbstractContextManager[None]:
        """Inside, code of one's own is that of the run, also where the original has changed."""
        return copies_in(self.path / SOURCES)

    def predict(self, images: Any) -> list[str]:
        """The name of the most probable class of each image, uint8 or float [N, H, W, C].

        For more than one call, `flaxcnn.load(result)` keeps its compiled program.

        Raises:
            DataError: images of another shape or type.
        """
        return flaxcnn.load(self).predict(images)


@enough_memory()
def open_run(path: Path) -> Result:
    """Read a run directory and verify its kept checkpoint.

    Raises:
        CheckpointError: no finished run there, or its checkpoint is damaged.
        ConfigError: its recipe is of another version.
    """
    prepare()
    if not (path.expanduser() / "summary.json").is_file():
        what = "`flaxcnn train --resume` finishes one" if path.expanduser().exists() else NOWHERE
        raise CheckpointError(f"{path}: holds no finished run (no summary.json); {what}")
    record = read_run(path)
    if (diverged := record.summary.get("diverged_epoch")) is not None:
        log.warning(
            "%s: this run diverged in epoch %s; these are its weights of epoch %s",
            path, diverged, record.summary["kept_epoch"],
        )  # fmt: skip
    with copies_in(path.expanduser() / SOURCES):
        return Result(**vars(record), state=kept_state(path, record))


@enough_memory("a device with more memory")
def evaluate_run(run: Result, split: str = "test") -> dict[str, float]:
    """Loss and accuracy of the kept weights on "train", "validation" or "test" rows.

    Raises:
        DataError: the data is not the data of the run.
        OutOfMemoryError: it does not fit the memory of the device.
    """
    dataset = load_for(run.recipe)
    check_data(dataset, run.data["digest"])
    # Its weights are those of the run, which has learnt.
    recipe = dataclasses.replace(run.recipe, init_from=None, distill=None)
    with run.code(), contextlib.closing(make_job(recipe, dataset)) as job:
        state = jax.device_put(run.state, job.placement)
        return finalize(jax.device_get(job.evaluate(state, cast("SplitName", split))))


def check_data(dataset: Dataset, digest: str) -> None:
    """DataError unless the data has the digest of a record."""
    if dataset.digest != digest:
        raise DataError(
            f"{dataset.name}: its digest is {dataset.digest[:12]}..., "
            f"but the run was made on {digest[:12]}...: this is other data"
        )


@enough_memory("fewer images at a time")
def classify(run: Result, images: np.ndarray) -> np.ndarray:
    """Class probabilities [N, K] float32 of images uint8 [N, H, W, C], by the run's own scaling.

    Its logits are divided by its temperature first, where it has one (`calibrate`).

    Raises:
        OutOfMemoryError: there are too many images.
    """
    scaling = Scaling(
        jnp.asarray(run.data["mean"], jnp.float32), jnp.asarray(run.data["scale"], jnp.float32)
    )
    count = len(images)
    batch = Batch(
        image=jnp.asarray(images), label=jnp.zeros(count, jnp.int32),
        row=jnp.zeros(count, jnp.int32), mask=jnp.ones(count, bool),
    )  # fmt: skip
    temperature = float(run.summary.get("temperature", 1.0))
    return np.asarray(_probabilities(run.plan, run.state, scaling, batch, temperature))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _probabilities(
    plan: Plan, state: TrainState, scaling: Scaling, batch: Batch, temperature: float
) -> jax.Array:
    """One program per number of images, cached like those of a training; op by op it is dozens."""
    return jax.nn.softmax(eval_step(plan, state, scaling, batch) / temperature)
