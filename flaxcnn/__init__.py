"""flaxcnn: CNN image classifiers in JAX and Flax, trained fast, with results one can trust."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors; when the program runs, `_LAZY` is what counts
    from flaxcnn.api import train
    from flaxcnn.estimator import FlaxCNNClassifier
    from flaxcnn.recipe.config import Config
    from flaxcnn.recipe.losses import Loss, Metric
    from flaxcnn.recipe.networks import NNX, Linen, Pure
    from flaxcnn.recipe.optimizers import Optax
    from flaxcnn.recipe.schedules import OptaxSchedule
    from flaxcnn.recipe.weights import Weights
    from flaxcnn.records.history import history
    from flaxcnn.studies.sampled import sampled_search
    from flaxcnn.studies.search import search
    from flaxcnn.studies.study import study
    from flaxcnn.trained import load

__version__ = "0.1.0"
__all__ = [
    "NNX", "Config", "FlaxCNNClassifier", "Linen", "Loss", "Metric", "Optax", "OptaxSchedule",
    "Pure", "Weights", "history", "load", "sampled_search", "search", "study", "train",
]  # fmt: skip
# Name -> its module: imported when it is asked for, since nearly all of it brings jax along.
_LAZY = {
    "Config": "flaxcnn.recipe.config",
    "Linen": "flaxcnn.recipe.networks",
    "Loss": "flaxcnn.recipe.losses",
    "Metric": "flaxcnn.recipe.losses",
    "NNX": "flaxcnn.recipe.networks",
    "Optax": "flaxcnn.recipe.optimizers",
    "OptaxSchedule": "flaxcnn.recipe.schedules",
    "Pure": "flaxcnn.recipe.networks",
    "Weights": "flaxcnn.recipe.weights",
    "load": "flaxcnn.trained",
    "FlaxCNNClassifier": "flaxcnn.estimator",
    "history": "flaxcnn.records.history",
    "sampled_search": "flaxcnn.studies.sampled",
    "search": "flaxcnn.studies.search",
    "study": "flaxcnn.studies.study",
    "train": "flaxcnn.api",
}


def _notebook_html(record: Any) -> str | None:
    """How a notebook shows a record; drawing is imported when something is to be seen."""
    from flaxcnn.report.report import fragment

    return fragment(record)


def __getattr__(name: str) -> Any:
    """What `_LAZY` tells of."""
    if name not in _LAZY:
        raise AttributeError(f"module 'flaxcnn' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted([*__all__, "__version__"])
