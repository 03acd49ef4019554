"""Recipes for rows that come as arrays: which settings they can have, and layers where none are."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flaxcnn.errors import ConfigError, near_miss
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Conv, Dense, Flatten, Layer, MaxPool, Shape
from flaxcnn.recipe.networks import spec_of

LEAST_SIDE = 8  # pixels of height and width from which on "auto" is a CNN
# Settings that mean nothing for arrays in memory, and what does the same there.
ELSEWHERE = {
    "dataset": "the data is X and y", "resize": "the data is X", "channels": "the data is X",
    "split": "the data is X and y", "validation": "use validation_fraction",
    "split_seed": "use random_state", "seed": "use random_state", "sampling": "use sample_weight",
    "class_weight": "use sample_weight (sklearn.utils.class_weight.compute_sample_weight)",
    "keep": "with validation_fraction above 0 the best epoch is kept, else the last",
    "calibrate": "use sklearn.calibration.CalibratedClassifierCV",
    "evaluate_train": "use score", "protocol": "use flaxcnn.train",
    "init_from": "use flaxcnn.train", "distill": "use flaxcnn.train",
    "save_every": "nothing is saved", "input": "the data is in memory",
    "workers": "the data is in memory", "data_memory": "the data is in memory",
}  # fmt: skip


def other_settings(
    given: Mapping[str, Any] | None, parameters: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of `Config` in `given`, which an estimator with `parameters` leaves to it.

    A network of one's own, `model`, may be whatever `flaxcnn.train` takes.

    Raises:
        ConfigError: an unknown setting, one that is a parameter, or one that arrays cannot have.
    """
    if not isinstance(given, Mapping | None):
        raise ConfigError(f"settings must be a dict of settings of a recipe (got {given!r})")
    settings = dict(given or {})
    for key in settings:
        if key in parameters:
            raise ConfigError(f"settings: {key} is a parameter; give it as {key}=")
        if key in ELSEWHERE:
            raise ConfigError(f"settings: {key} cannot be set for arrays: {ELSEWHERE[key]}")
        if key not in (known := Config.__dataclass_fields__):
            raise ConfigError(f"settings: unknown setting {key}{near_miss(key, known)}")
    if settings.get("model") is not None:
        settings["model"] = spec_of(settings["model"])
    return settings


def layers_for(asked: str, shape: Shape, classes: int) -> tuple[Layer, ...]:
    """Layers for images of `shape`: "auto", or those of an experiment, for so many classes.

    Raises:
        ConfigError: no such experiment, or one without a recipe.
    """
    if asked != "auto":
        experiment = catalog.find(asked)
        if experiment.config is None:
            raise ConfigError(f"layers: {asked} has none: {experiment.refusal}")
        *before, last = experiment.config.layers
        assert isinstance(last, Dense)  # since Config checked the experiment
        return (*before, replace(last, units=classes))
    hidden = (Flatten(), Dense(128, "relu"), Dense(classes))
    if min(shape[:2]) < LEAST_SIDE:
        return hidden
    conv = functools.partial(Conv, kernel=3, padding="same", activation="relu")
    return (conv(32), MaxPool(2), conv(64), MaxPool(2), *hidden)
