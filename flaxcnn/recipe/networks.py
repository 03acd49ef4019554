"""Networks of one's own in a recipe: a linen module, an NNX module, or a pair of functions.

Each names its code as `FILE.py:NAME` or `package.module:NAME`, with its arguments and the SHA-256
of the file. `flaxcnn.model.foreign` makes a model of it.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.augment import each_kind
from flaxcnn.recipe.layers import Row, Shape, every
from flaxcnn.recipe.references import (
    Json,
    TakesArguments,
    copy_name,
    in_notebook,
    name_of,
    source_file,
    source_text,
)


@dataclass(frozen=True)
class Traced:
    """A part of a network of one's own, as tracing shows it."""

    kind: str


@dataclass(frozen=True, init=False)
class _Named(TakesArguments):
    """A network whose code is one object."""

    target: str
    source: str = ""  # SHA-256 of its file; empty for a library's
    arguments: tuple[tuple[str, Json], ...] = ()

    def __init__(self, target: str | Callable[..., Any], *, source: str = "", **arguments: Any):
        check_kind(type(self), target)
        name, source = name_of(target, source, "model")
        self._set("model", {"target": name, "source": source}, arguments)

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of its objects."""
        return (self.target,)


@dataclass(frozen=True, init=False)
class Linen(_Named):
    """A Flax linen module: `Linen("my_models.py:Net", width=64)` is `Net(width=64)`.

    It is called on images [B, H, W, C] and returns logits [B, K]. It may take `train`, `training`,
    `is_training`, `deterministic` or `use_running_average`.
    """


@dataclass(frozen=True, init=False)
class NNX(_Named):
    """A Flax NNX module: `NNX("my_models.py:Net", width=64)` is `Net(width=64, rngs=...)`."""


@dataclass(frozen=True, init=False)
class Pure(TakesArguments):
    """Two functions: `init(key, image) -> params` and `apply(params, image) -> logits`.

    `image` is [B, H, W, C] float32; in `init`, B is 1. Both get the arguments by name.
    """

    init: str
    apply: str
    source: str = ""  # SHA-256 of the file of `init`, and after a + that of `apply`
    arguments: tuple[tuple[str, Json], ...] = ()

    def __init__(
        self, init: str | Callable[..., Any], apply: str | Callable[..., Any], *,
        source: str = "", **arguments: Any,
    ):  # fmt: skip
        shas = source.partition("+")
        first, then = name_of(init, shas[0], "model"), name_of(apply, shas[2], "model")
        fields = {"init": first[0], "apply": then[0], "source": f"{first[1]}+{then[1]}"}
        self._set("model", fields, arguments)

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of its objects."""
        return (self.init, self.apply)


ForeignModel = Linen | NNX | Pure


def sources(model: ForeignModel) -> list[tuple[str, str]]:
    """(name, SHA-256 of its file) of each object of a network."""
    return list(zip(model.targets, model.source.split("+"), strict=False))


def own_objects(*configs: Any) -> list[tuple[str, str]]:
    """(name, SHA-256 of its file) of all code of one's own that recipes name."""
    objects: list[tuple[str, str]] = []
    for config in configs:
        objects += sources(config.model) if config.model else []
        objects += [spec.code for spec in _own_specs(config)]
    return [each for each in dict.fromkeys(objects) if each[1]]


def own_sources(*configs: Any) -> dict[str, str]:
    """File name -> text of all code of one's own that recipes name.

    Raises:
        ConfigError: a file has changed since the recipe was made, or is gone.
    """
    files: dict[str, str] = {}
    for name, sha in own_objects(*configs):
        path, text = source_file(name), source_text(name, sha)
        file = path.name if path else f"{name.partition(':')[2]}.py"
        files[file if files.get(file, text) == text else copy_name(file, sha)] = text
    return files


def _own_specs(config: Any) -> list[TakesArguments]:
    """All specifications of a recipe, but for the network's, that name code."""
    specs = (
        config.optimizer, config.schedule, config.loss, *config.metrics, *every(config.layers),
        *each_kind(config.augment),
    )  # fmt: skip
    return [spec for spec in specs if isinstance(spec, TakesArguments)]


def own_code(config: Any) -> str:
    """The names of all code of one's own that a step runs, but for optimizers; empty for none."""
    specs = [*every(config.layers), config.loss]  # a metric changes nothing
    named = [spec.code[0] for spec in specs if isinstance(spec, TakesArguments)]
    return ", ".join([*(config.model.targets[-1:] if config.model else ()), *named])


def only_here(config: Any) -> str | None:
    """A warning where a recipe names what was defined in a notebook."""
    for name, _ in own_objects(config):
        if in_notebook(name):
            return (
                f"{name.partition(':')[2]} was defined in a notebook, so only this process can "
                "resume or load the run; write it to a file with %%writefile my_models.py"
            )
    return None


def spec_of(model: Any) -> ForeignModel:
    """The specification of a network given in Python.

    Args:
        model: one already; a linen module (an instance, or a class without required fields); an
            NNX module class; or a pair of functions (init, apply).

    Raises:
        ConfigError: something else, or an argument that JSON cannot hold.
    """
    if isinstance(model, ForeignModel):
        return model
    if isinstance(model, tuple) and len(model) == 2 and all(map(callable, model)):
        return Pure(*model)
    kind = _kind(model)
    if kind == "linen":
        cls = model if isinstance(model, type) else type(model)
        fields = () if isinstance(model, type) else dataclasses.fields(model)
        given = {f.name: getattr(model, f.name) for f in fields
                 if f.init and f.name not in ("name", "parent")}  # fmt: skip
        return Linen(cls, **given)
    if kind == "nnx" and isinstance(model, type):
        return NNX(model)
    hint = ": give the class, and its arguments by flaxcnn.NNX" if kind == "nnx" else ""
    raise ConfigError(
        "model must be a linen module, an NNX module class, a pair of functions (init, apply) or "
        f"one of Linen, NNX and Pure (got {type(model).__name__}){hint}"
    )


def check_kind(wrapper: type, target: Any) -> None:
    """ConfigError where `Linen` got an NNX module or its class, or `NNX` one of linen."""
    kind = _kind(target)
    if kind and kind != wrapper.__name__.lower():
        right = Linen if kind == "linen" else NNX
        raise ConfigError(
            f"model: {getattr(target, '__name__', type(target).__name__)} is a module of "
            f"flax.{kind}: use flaxcnn.{right.__name__}, in a recipe type={kind}"
        )


def _kind(model: Any) -> str:
    """`linen` or `nnx` for a module or class of theirs; empty for anything else."""
    cls = model if isinstance(model, type) else type(model)
    for base in cls.__mro__:
        if base.__name__ == "Module" and base.__module__.startswith("flax.linen"):
            return "linen"
        if base.__name__ == "Module" and base.__module__.startswith("flax.nnx"):
            return "nnx"
    return ""


def table(model: ForeignModel, shape: Shape, classes: int) -> list[Row]:
    """The table of a network of one's own, by tracing it: jax is imported.

    Raises:
        ConfigError: it cannot be made or called, or its logits have another shape.
    """
    trace: Callable[..., list[Row]] = importlib.import_module("flaxcnn.model.traced").table
    return trace(model, shape, classes)
