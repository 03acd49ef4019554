"""Networks of one's own as the engine's `Model`: linen modules, NNX modules, pure functions.

What such a network cannot promise, since it draws for a batch as a whole or takes statistics of
padding, is found out at the start of a run (`flaxcnn.engine.promises`).
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from flaxcnn.errors import ConfigError, first_line
from flaxcnn.model.protocol import Model, RowContext, Tree, Variables, promotion_as_usual
from flaxcnn.recipe.networks import NNX, ForeignModel, Linen, check_kind, sources
from flaxcnn.recipe.references import resolve

# Arguments by which a module may be told whether it trains, and their values when it does.
TRAIN_FLAGS = {
    "train": True, "training": True, "is_training": True,
    "deterministic": False, "use_running_average": False,
}  # fmt: skip
STATS = "batch_stats"


@dataclass(frozen=True)
class Compiled:
    """What a network of one's own is compiled for, as `flaxcnn.model.cnn.CNN` has it."""

    axis: str | None = None  # mesh axis over which a batch is spread
    platform: str | None = None  # of the devices; None: jax's default
    products: str | None = None  # precision of products of float32 numbers; None: the back end's
    dtype: Any = jnp.float32  # in which images come; what the network computes in, it says itself


@dataclass
class Applied:
    """A model while it is applied: what the modules of `flaxcnn.nn` look up."""

    rows: RowContext = field(default_factory=RowContext)
    train: bool = False
    compiled: Compiled = Compiled()
    dropouts: int = 0  # layers so far, each with a stream of random numbers of its own


_applied: contextvars.ContextVar[Applied | None] = contextvars.ContextVar("applied", default=None)


def applied() -> Applied:
    """The model that is applied now; outside of any, an evaluation without padding."""
    return _applied.get() or Applied()


@contextlib.contextmanager
def _applying(model: Applied) -> Iterator[None]:
    """The rules of jax as users know them, and what `applied` returns meanwhile."""
    token = _applied.set(model)
    try:
        products = model.compiled.products
        with (
            jax.default_matmul_precision(products) if products else contextlib.nullcontext(),
            promotion_as_usual(),
        ):
            yield
    finally:
        _applied.reset(token)


def arguments_for(function: Callable[..., Any], train: bool, rows: RowContext) -> dict[str, Any]:
    """Those of `train` (under any of the usual names), `rows` and `key` that `function` takes."""
    wanted = inspect.signature(function).parameters
    known: dict[str, Any] = {name: train == value for name, value in TRAIN_FLAGS.items()}
    known |= {"rows": rows, "key": rows.key}
    return {name: value for name, value in known.items() if name in wanted}


def _key(rows: RowContext) -> jax.Array:
    """A key for modules that want one, also where nothing is drawn."""
    return jax.random.key(0) if rows.key is None else rows.key


def _logits(output: Any) -> jax.Array:
    """Whatever the network computes in, logits are float32."""
    if not isinstance(output, jax.Array):
        raise TypeError(f"it must return logits [B, K], not a {type(output).__name__}")
    return output.astype(jnp.float32)


@dataclass(frozen=True, kw_only=True)
class _Foreign:
    """What the three kinds share."""

    compiled: Compiled = Compiled()

    def for_platform(self, platform: str) -> Self:
        """The same network on one device of another kind."""
        there = dataclasses.replace(self.compiled, platform=platform, axis=None)
        return dataclasses.replace(self, compiled=there)

    def alive(self, variables: Variables, image: jax.Array) -> dict[str, jax.Array]:
        """Nothing: which of its units are relu, only the network knows."""
        return {}


@dataclass(frozen=True)
class LinenModel(_Foreign):
    """A linen module, called on images alone or with one of the flags in TRAIN_FLAGS."""

    module: nn.Module

    def init(self, key: jax.Array, image: jax.Array) -> Variables:
        """Variables from a typed key, for images [1, H, W, C] float32."""
        rows = RowContext(key=key)
        given = arguments_for(type(self.module).__call__, False, rows)
        with _applying(Applied(rows, False, self.compiled)):
            variables = self.module.init(
                {"params": key, "dropout": key}, image.astype(self.compiled.dtype), **given
            )
        return {"params": variables["params"], STATS: variables.get(STATS, {})}

    def apply(
        self, variables: Variables, image: jax.Array, *, train: bool, rows: RowContext
    ) -> tuple[jax.Array, Tree]:
        """Logits [B, K] float32, and the new batch statistics."""
        given = arguments_for(type(self.module).__call__, train, rows)
        image = image.astype(self.compiled.dtype)
        with _applying(Applied(rows, train, self.compiled)):
            if not train:
                return _logits(self.module.apply(variables, image, **given)), variables[STATS]
            output, changed = self.module.apply(
                variables, image, rngs={"dropout": _key(rows)}, mutable=[STATS], **given
            )
        return _logits(output), changed.get(STATS, {})


@dataclass(frozen=True)
class NNXModel(_Foreign):
    """An NNX module, `cls(**arguments, rngs=...)`, its state taken out as arrays and put back."""

    cls: Callable[..., nnx.Module]
    arguments: tuple[tuple[str, Any], ...] = ()

    def init(self, key: jax.Array, image: jax.Array) -> Variables:
        """Variables from a typed key; the image is not needed."""
        with _applying(Applied(compiled=self.compiled)):
            _, params, stats, _ = _parts(self._made(key))
        return {"params": nnx.to_pure_dict(params), STATS: nnx.to_pure_dict(stats)}

    def apply(
        self, variables: Variables, image: jax.Array, *, train: bool, rows: RowContext
    ) -> tuple[jax.Array, Tree]:
        """Logits [B, K] float32, and the new batch statistics."""
        variables = jax.tree.map(jnp.asarray, variables)  # NNX would write into NumPy's arrays
        with _applying(Applied(rows, train, self.compiled)):
            shapes = nnx.eval_shape(lambda: self._made(jax.random.key(0)))
            graph, params, stats, draws = _parts(shapes)
            nnx.replace_by_pure_dict(params, variables["params"])
            nnx.replace_by_pure_dict(stats, variables[STATS])
            module: Any = nnx.merge(graph, params, stats, _reseeded(draws, _key(rows)))
            (module.train if train else module.eval)()
            call = type(module).__call__
            given = arguments_for(call, train, rows)
            if "rngs" in inspect.signature(call).parameters:  # in place of keys of its own
                given["rngs"] = nnx.Rngs(_key(rows))
            output = module(image.astype(self.compiled.dtype), **given)
            changed = nnx.to_pure_dict(_parts(module)[2])
        return _logits(output), changed if train else variables[STATS]

    def _made(self, key: jax.Array) -> nnx.Module:
        return self.cls(**dict(self.arguments), rngs=nnx.Rngs(key))


def _parts(module: nnx.Module) -> Any:
    """(graph, parameters, other state, state of random numbers) of an NNX module."""
    parts: Any = nnx.split(module, nnx.Param, nnx.RngState, ...)
    graph, params, draws, stats = parts
    return graph, params, stats, draws


def _reseeded(draws: Any, key: jax.Array) -> Any:
    """The state of random numbers as of a module made from `key`, each stream with its own."""
    flat: Any = [
        (path, variable.replace(
            jax.random.fold_in(key, number) if isinstance(variable, nnx.RngKey) else jnp.uint32(0)
        ))
        for number, (path, variable) in enumerate(nnx.to_flat_state(draws))
    ]  # fmt: skip
    return nnx.from_flat_state(flat)


@dataclass(frozen=True)
class PureModel(_Foreign):
    """A pair of functions: `first(key, image) -> params` and `then(params, image) -> logits`.

    `then` may take a flag of TRAIN_FLAGS, `rows` (a `RowContext`) and `key` (of the step) as well.
    """

    first: Callable[..., Tree]
    then: Callable[..., jax.Array]
    arguments: tuple[tuple[str, Any], ...] = ()

    def init(self, key: jax.Array, image: jax.Array) -> Variables:
        """Variables from a typed key, for images [1, H, W, C] float32."""
        with _applying(Applied(compiled=self.compiled)):
            return {"params": self.first(key, image, **dict(self.arguments)), STATS: {}}

    def apply(
        self, variables: Variables, image: jax.Array, *, train: bool, rows: RowContext
    ) -> tuple[jax.Array, Tree]:
        """Logits [B, K] float32; such a network has no batch statistics."""
        given = arguments_for(self.then, train, rows)
        with _applying(Applied(rows, train, self.compiled)):
            image = image.astype(self.compiled.dtype)
            output = self.then(variables["params"], image, **dict(self.arguments), **given)
        return _logits(output), {}


@functools.lru_cache(64)
def build(spec: ForeignModel, compiled: Compiled) -> Model:
    """The model of a specification.

    Raises:
        ConfigError: its code is not there or has changed, or it refuses its arguments.
    """
    targets = [resolve(name, sha) for name, sha in sources(spec)]
    check_kind(type(spec), targets[0])
    if isinstance(spec, Linen):
        module = _module(spec.target, targets[0], spec.named)
        return LinenModel(module, compiled=compiled)
    if isinstance(spec, NNX):
        return NNXModel(targets[0], spec.arguments, compiled=compiled)
    first, then = targets
    return PureModel(first, then, spec.arguments, compiled=compiled)


def _module(name: str, target: Any, arguments: dict[str, Any]) -> nn.Module:
    """A linen module, made from its class or function, or there already."""
    if isinstance(target, nn.Module) and not arguments:
        return target
    try:
        module = target(**arguments)
    except TypeError as error:
        raise ConfigError(f"model: {name} refuses its arguments: {first_line(error)}") from error
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"model: {name} must be a flax.linen.Module (it makes a {type(module).__name__}); "
            "for an NNX module, write type=nnx"
        )
    return module
