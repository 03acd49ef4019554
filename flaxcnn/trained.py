"""A trained network taken out of its run: a function of images, and its weights."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.data.standardize import standardize
from flaxcnn.engine.job import make_plan
from flaxcnn.engine.saved import Result, open_run
from flaxcnn.engine.step import TrainState
from flaxcnn.errors import DataError
from flaxcnn.model.protocol import Model, RowContext, Variables
from flaxcnn.model.views import least_sure, logits_of_all
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.references import SOURCES, copies_in
from flaxcnn.recipe.views import Views
from flaxcnn.xla_messages import hushed

MOST_ROWS = 256  # of one call of the compiled program; more are done in parts


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A trained network: `model(images)` gives logits, `model.predict(images)` classes.

    The pixels of an image are scaled as in training; nothing needs to be done to them before.
    """

    path: Path  # of the run
    config: Config = field(repr=False)
    classes: tuple[str, ...]
    shape: tuple[int, int, int]  # (H, W, C) of an image
    variables: Variables = field(repr=False)  # "params" and "batch_stats", float32 arrays
    mean: np.ndarray = field(repr=False)  # an image is (pixels - mean) / scale
    scale: np.ndarray = field(repr=False)
    model: Model = field(repr=False)

    def apply(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Logits [B, K] float32 as a pure function, to be traced, differentiated or compiled.

        With the recipe's test-time augmentation, if it has any.

        Args:
            variables: such as `self.variables`.
            images: [B, H, W, C], uint8 or float, pixels from 0 to 255.
        """
        return self._seen(variables, images, self.config.tta)

    def _seen(self, variables: Variables, images: jax.Array, views: Views | None) -> jax.Array:
        """The same by these views."""
        image = standardize(images, jnp.asarray(self.mean), jnp.asarray(self.scale))

        def forward(image: jax.Array) -> jax.Array:
            return self.model.apply(variables, image, train=False, rows=RowContext())[0]

        return logits_of_all(forward, image, views)

    @hushed()
    def __call__(self, images: Any) -> np.ndarray:
        """Logits [N, K] float32 of images [N, H, W, C], or [N, H, W] where C is 1.

        Raises:
            DataError: images of another shape or type.
        """
        array, views = self._checked(images), self.config.tta
        if views is None or views.share == 1.0:
            return self._of_all(array, views)
        logits = self._of_all(array, None)
        rows = np.asarray(least_sure(jnp.asarray(logits), views.count(len(array))))
        logits[rows] = self._of_all(array[rows], views.of_all)
        return logits

    def predict(self, images: Any) -> list[str]:
        """The name of the most probable class of each image.

        Raises:
            DataError: images of another shape or type.
        """
        return [self.classes[k] for k in self(images).argmax(axis=1)]

    def for_platform(self, platform: str) -> TrainedModel:
        """The same network in the forms that are fast on "cpu", "gpu" or "tpu"."""
        return dataclasses.replace(self, model=self.model.for_platform(platform))

    def _of_all(self, images: np.ndarray, views: Views | None) -> np.ndarray:
        """Logits [N, K] of images [N, H, W, C], all by these views."""
        parts = [
            self._logits(images[i : i + MOST_ROWS], views) for i in range(0, len(images), MOST_ROWS)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.classes)), np.float32)

    def _logits(self, images: np.ndarray, views: Views | None) -> np.ndarray:
        """Of at most MOST_ROWS images, padded to a power of two: few programs for any number."""
        count = len(images)
        size = 1 << (count - 1).bit_length()
        padded = np.concatenate([images, np.zeros((size - count, *self.shape), images.dtype)])
        return np.asarray(self._compiled(self.variables, padded, views))[:count]

    @functools.cached_property
    def _compiled(self) -> Any:
        return jax.jit(self._seen, static_argnums=2)

    def _checked(self, images: Any) -> np.ndarray:
        array = np.asarray(images)
        if self.shape[2] == 1 and array.ndim == 3:
            array = array[..., np.newaxis]
        if array.shape[1:] != self.shape or array.ndim != 4:
            size = ", ".join(map(str, self.shape))
            raise DataError(f"images must be [N, {size}] (got {list(np.shape(images))})")
        if array.dtype != np.uint8:
            if array.dtype.kind not in "iuf":
                raise DataError(f"images must be uint8 or float (got {array.dtype})")
            array = array.astype(np.float32)
        return array


def load(run: Path | str | Result) -> TrainedModel:
    """The kept network of a finished run.

    Args:
        run: its directory, or what `flaxcnn.train` returned.

    Raises:
        CheckpointError: no finished run there, or its checkpoint is damaged.
        ConfigError: its recipe is of another version, or names code that has changed.
    """
    run = run if isinstance(run, Result) else open_run(Path(run))
    return trained(run.path, run.recipe, run.data, run.state)


def trained(path: Path, config: Config, data: Mapping[str, Any], state: TrainState) -> TrainedModel:
    """The network of a state.

    Args:
        path: of its run.
        config: the recipe.
        data: data.json of the run: classes, shape and scaling of an image.
        state: its arrays are copied.
    """
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    height, width, channels = data["shape"]
    with copies_in(path / SOURCES):  # its code may have changed since
        model = make_plan(config, 1, devices=1).model
    return TrainedModel(
        path, config, tuple(data["classes"]), (height, width, channels),
        jax.tree.map(np.array, jax.device_get(variables)),  # a copy: training donates the arrays
        np.asarray(data["mean"], np.float32), np.asarray(data["scale"], np.float32),
        model,
    )  # fmt: skip
