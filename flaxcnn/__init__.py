"""flaxcnn: CNN image classifiers in JAX and Flax, trained fast, with results one can trust."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["FlaxCNNClassifier", "study"]


def __getattr__(name: str) -> Any:
    """What brings jax along, imported when it is asked for."""
    if name == "FlaxCNNClassifier":
        from flaxcnn.estimator import FlaxCNNClassifier

        return FlaxCNNClassifier
    if name == "study":
        from flaxcnn.studies.study import study

        return study
    raise AttributeError(f"module 'flaxcnn' has no attribute {name!r}")
