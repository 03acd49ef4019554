"""flaxcnn: CNN image classifiers in JAX and Flax, trained fast, with results one can trust."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["FlaxCNNClassifier", "history", "study", "train"]


def __getattr__(name: str) -> Any:
    """What is imported when it is asked for: nearly all of it brings jax along."""
    if name == "FlaxCNNClassifier":
        from flaxcnn.estimator import FlaxCNNClassifier

        return FlaxCNNClassifier
    if name == "history":
        from flaxcnn.report.history import history

        return history
    if name == "study":
        from flaxcnn.studies.study import study

        return study
    if name == "train":
        from flaxcnn.engine.start import train

        return train
    raise AttributeError(f"module 'flaxcnn' has no attribute {name!r}")
