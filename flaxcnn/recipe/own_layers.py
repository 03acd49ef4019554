"""Specification of a layer of one's own; `flaxcnn.model.own_layers` makes and tries it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.references import Json, TakesArguments, name_of, remember
from flaxcnn.recipe.shapes import Shape


@dataclass(frozen=True, init=False)
class Own(TakesArguments):
    """A layer of one's own: `Own("my_layers.py:Gate", ratio=4)` is `Gate(ratio=4)`.

    The class has `apply(params, x)`, which may take `train` and `rows` as well, and where it has
    weights `init(key, shape)`, a dict of them. `out(shape)`, `params(shape)` and `macs(shape)` are
    found by tracing where the class has none. `docs/howto/own-layer.md` has an example.
    """

    target: str
    source: str = ""  # SHA-256 of its file
    arguments: tuple[tuple[str, Json], ...] = ()

    def __init__(self, target: str | Callable[..., Any], *, source: str = "", **arguments: Any):
        name, source = name_of(target, source, "layers")
        self._set("layers", {"target": name, "source": source}, arguments)

    @property
    def label(self) -> str:
        """The name of its class in lower case."""
        return self.target.rpartition(":" if ":" in self.target else ".")[2].lower()

    def out(self, shape: Shape) -> Shape:
        found: Shape = self._traced(shape)[0]
        return found

    def params(self, shape: Shape) -> tuple[int, int]:
        return self._traced(shape)[1], 0

    def macs(self, shape: Shape) -> int:
        found: int = self._traced(shape)[2]
        return found

    def _traced(self, shape: Shape) -> Any:
        """(output shape, parameters, multiply-adds); jax is imported."""
        return importlib.import_module("flaxcnn.model.own_layers").traced(self, shape)


def own_layer(given: Any) -> Own:
    """The specification of a layer of one's own given in Python, an instance of a dataclass.

    Raises:
        ConfigError: it is something else, its source is not known, or JSON cannot hold a field.
    """
    if (
        isinstance(given, type)
        or not dataclasses.is_dataclass(given)
        or not hasattr(given, "apply")
    ):
        raise ConfigError(
            "layers: each must be a layer of flaxcnn.recipe.layers, or an instance of a dataclass "
            f"with apply(params, x) (got {given!r})"
        )
    name, source = remember(type(given), "layers")
    fields = [field.name for field in dataclasses.fields(given) if field.init]
    return Own(name, source=source, **{field: getattr(given, field) for field in fields})
