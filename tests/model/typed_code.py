"""Code as a user with a type checker writes it; mypy checks this file with the package."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

import flaxcnn
from flaxcnn.engine.saved import Result
from flaxcnn.model.protocol import Model, RowContext, Variables
from flaxcnn.records.read import StudyRecord
from flaxcnn.studies.compare import Comparison


@dataclass(frozen=True)
class Scaled:
    """A model by its protocol alone: one matrix, times a constant."""

    scale: float = 1.0
    platform: str = "cpu"

    def init(self, key: jax.Array, image: jax.Array) -> Variables:
        """A matrix from pixels to ten classes."""
        return {"params": {"w": jax.random.normal(key, (image[0].size, 10))}, "batch_stats": {}}

    def apply(
        self, variables: Variables, image: jax.Array, *, train: bool, rows: RowContext
    ) -> tuple[jax.Array, Any]:
        """Logits."""
        return self.scale * image.reshape(len(image), -1) @ variables["params"]["w"], {}

    def alive(self, variables: Variables, image: jax.Array) -> dict[str, jax.Array]:
        """It has no relu."""
        return {}

    def for_platform(self, platform: str) -> Scaled:
        """The same elsewhere."""
        return dataclasses.replace(self, platform=platform)


class Forgets(Scaled):
    """Not a model: `apply` lacks `rows`. mypy reports it, and an ignore without use as well."""

    def apply(  # type: ignore[override]
        self, variables: Variables, image: jax.Array, *, train: bool
    ) -> tuple[jax.Array, Any]:
        """Logits."""
        return jnp.zeros((len(image), 10)), {}


model: Model = Scaled(2.0)
wrong: Model = Forgets()  # type: ignore[assignment]
not_a_model: Model = object()  # type: ignore[assignment]


def calls() -> tuple[Result, StudyRecord, Comparison]:
    """What the functions of the package take and return."""
    result = flaxcnn.train("digits/quickstart", epochs=3, optimizer="sgd")
    study = flaxcnn.study(seeds=range(8), grid={"learning_rate": [0.1, 0.01]})
    flaxcnn.study(seeds="8")  # type: ignore[arg-type]
    for epoch in flaxcnn.epochs(epochs=2):
        number: int = epoch.number
        print(number, epoch.metrics["val_loss"], epoch.state.step)
    names: list[str] = result.predict(jnp.zeros((1, 8, 8, 1)))
    print(names)
    return result, study, flaxcnn.compare(study, "runs/other", metric="test_loss")
