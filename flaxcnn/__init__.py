"""flaxcnn: CNN image classifiers in JAX and Flax, trained fast, with results one can trust."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["FlaxCNNClassifier", "sampled_search", "search", "study"]


def __getattr__(name: str) -> Any:
    """What brings jax along, imported when it is asked for."""
    if name == "FlaxCNNClassifier":
        from flaxcnn.estimator import FlaxCNNClassifier

        return FlaxCNNClassifier
    if name == "study":
        from flaxcnn.studies.study import study

        return study
    if name == "search":
        from flaxcnn.studies.search import search

        return search
    if name == "sampled_search":
        from flaxcnn.studies.sampled import sampled_search

        return sampled_search
    raise AttributeError(f"module 'flaxcnn' has no attribute {name!r}")
