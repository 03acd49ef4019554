"""flaxcnn: CNN image classifiers in JAX and Flax, trained fast, with results one can trust."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from flaxcnn.xla_messages import choose_level

if TYPE_CHECKING:  # for editors; when the program runs, `_LAZY` is what counts
    from flaxcnn.api.check import check
    from flaxcnn.api.epochs import epochs
    from flaxcnn.api.figures import figures
    from flaxcnn.api.lr_range import lr_range
    from flaxcnn.api.report import report
    from flaxcnn.api.search import search
    from flaxcnn.api.study import study
    from flaxcnn.api.train import train
    from flaxcnn.estimator import FlaxCNNClassifier
    from flaxcnn.recipe import layers
    from flaxcnn.recipe.config import Config
    from flaxcnn.recipe.losses import Loss, Metric
    from flaxcnn.recipe.networks import NNX, Linen, Pure
    from flaxcnn.recipe.optimizers import Optax
    from flaxcnn.recipe.own_layers import Own
    from flaxcnn.recipe.schedules import OptaxSchedule
    from flaxcnn.recipe.weights import Weights
    from flaxcnn.records.history import history
    from flaxcnn.records.index import runs
    from flaxcnn.studies.compare import compare
    from flaxcnn.studies.power import power
    from flaxcnn.studies.reproduce import reproduce
    from flaxcnn.trained import load

choose_level()
__version__ = "0.1.0"
__all__ = [
    "NNX", "Config", "FlaxCNNClassifier", "Linen", "Loss", "Metric", "Optax", "OptaxSchedule",
    "Own", "Pure", "Weights", "check", "compare", "epochs", "figures", "history", "layers", "load",
    "lr_range", "power", "report", "reproduce", "runs", "search", "study", "train",
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
    "Own": "flaxcnn.recipe.own_layers",
    "Pure": "flaxcnn.recipe.networks",
    "Weights": "flaxcnn.recipe.weights",
    "FlaxCNNClassifier": "flaxcnn.estimator",
    "check": "flaxcnn.api.check",
    "compare": "flaxcnn.studies.compare",
    "epochs": "flaxcnn.api.epochs",
    "figures": "flaxcnn.api.figures",
    "history": "flaxcnn.records.history",
    "load": "flaxcnn.trained",
    "lr_range": "flaxcnn.api.lr_range",
    "power": "flaxcnn.studies.power",
    "report": "flaxcnn.api.report",
    "reproduce": "flaxcnn.studies.reproduce",
    "runs": "flaxcnn.records.index",
    "search": "flaxcnn.api.search",
    "study": "flaxcnn.api.study",
    "train": "flaxcnn.api.train",
}


_MODULES = {"layers": "flaxcnn.recipe.layers"}


def _notebook_html(record: Any) -> str | None:
    """How a notebook shows a record; drawing is imported when something is to be seen."""
    from flaxcnn.reports.report import fragment

    return fragment(record)


def _learning_curves(record: Any, metric: str) -> Any:
    """The picture of a run's epochs."""
    from flaxcnn.reports.curves import learning

    return learning(record.history, metric, record.summary["best_epoch"])


def __getattr__(name: str) -> Any:
    """What `_LAZY` tells of."""
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _LAZY:
        raise AttributeError(f"module 'flaxcnn' has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    """The public names, for completion."""
    return sorted([*__all__, "__version__"])
