"""flaxcnn: CNN image classifiers in JAX and Flax, trained fast, with results one can trust."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"
__all__ = ["study"]


def __getattr__(name: str) -> Any:
    """`flaxcnn.study`, imported when it is asked for: it brings jax along."""
    if name == "study":
        from flaxcnn.studies.study import study

        return study
    raise AttributeError(f"module 'flaxcnn' has no attribute {name!r}")
