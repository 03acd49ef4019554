"""A finished run taken up again: to evaluate it, or to classify images with it."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.backend import enough_memory, prepare
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.batches import Batch, Scaling
from flaxcnn.data.datasets import load_for
from flaxcnn.engine.checkpoint import Checkpoints
from flaxcnn.engine.job import SplitName, make_hypers, make_plan
from flaxcnn.engine.make_job import make_job
from flaxcnn.engine.metrics import finalize
from flaxcnn.engine.step import Plan, TrainState, eval_step, init_state
from flaxcnn.errors import CheckpointError, DataError
from flaxcnn.recipe.config import Config
from flaxcnn.records.run import RunDirectory


@dataclass(frozen=True)
class SavedRun:
    """Recipe, records and kept weights of a finished run."""

    config: Config
    summary: dict[str, Any]
    data: dict[str, Any]  # data.json
    plan: Plan
    state: TrainState


def open_run(path: Path) -> SavedRun:
    """Read a run directory and verify its kept checkpoint.

    Raises:
        CheckpointError: no finished run there, or its checkpoint is damaged.
    """
    prepare()
    run = RunDirectory(path)
    if not (run.path / "summary.json").is_file():
        raise CheckpointError(
            f"{path}: holds no finished run (no summary.json); "
            "`flaxcnn train --resume` finishes one"
        )
    config, summary, data = run.config(), run.read_json("summary.json"), run.read_json("data.json")
    plan = make_plan(config, data["rows"]["train"])
    like = jax.eval_shape(
        lambda: init_state(
            plan, tuple(data["shape"]), jnp.asarray(config.seeds(), jnp.uint32), make_hypers(config)
        )
    )
    with Checkpoints(run.checkpoint_folder()) as checkpoints:
        state, _ = checkpoints.restore(summary["kept_epoch"], like)
    return SavedRun(config, summary, data, plan, state)


@enough_memory("a device with more memory")
def evaluate_run(run: SavedRun, split: str = "test") -> dict[str, float]:
    """Loss and accuracy of the kept weights on "train", "validation" or "test" rows.

    Raises:
        DataError: the data is not the data of the run.
        OutOfMemoryError: the device has not what it takes.
    """
    dataset = load_for(run.config)
    check_data(dataset, run.data["digest"])
    with contextlib.closing(make_job(run.config, dataset)) as job:
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
def classify(run: SavedRun, images: np.ndarray) -> np.ndarray:
    """Class probabilities [N, K] float32 of images uint8 [N, H, W, C], by the run's own scaling.

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
    return np.asarray(_probabilities(run.plan, run.state, scaling, batch))


@functools.partial(jax.jit, static_argnums=0)
def _probabilities(plan: Plan, state: TrainState, scaling: Scaling, batch: Batch) -> jax.Array:
    """One program a number of images, kept as those of a training are; op by op it is dozens."""
    return jax.nn.softmax(eval_step(plan, state, scaling, batch))
