"""Layers of one's own: made from their specification, tried on a shape, and applied."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flaxcnn.errors import ConfigError, FlaxcnnError, first_line
from flaxcnn.model.protocol import RowContext, Tree, promotion_as_usual
from flaxcnn.model.traced import macs
from flaxcnn.recipe.own_layers import Own
from flaxcnn.recipe.references import resolve
from flaxcnn.recipe.shapes import Shape

TRIED = 2  # images on which a layer is tried out


@functools.lru_cache(256)
def make(layer: Own) -> Any:
    """The object of a layer: what its class makes of its arguments.

    Raises:
        ConfigError: its code is not there or has changed, or it refuses its arguments.
    """
    name, source = layer.code
    cls = resolve(name, source)
    try:
        made = cls(**layer.named)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name} refuses its arguments: {first_line(error)}") from error
    if not callable(getattr(made, "apply", None)):
        raise ConfigError(f"{name} must have a method apply(params, x)")
    return made


def first_weights(layer: Own, key: jax.Array, shape: Shape) -> dict[str, Tree]:
    """Its weights before the first step, for inputs of `shape`; none where it has no `init`.

    Raises:
        ConfigError: they are no dict by name.
    """
    made = make(layer)
    if not hasattr(made, "init"):
        return {}
    with promotion_as_usual():
        params = made.init(key, shape)
    if not isinstance(params, dict) or not all(isinstance(name, str) for name in params):
        raise ConfigError(
            f"{layer.target}: init(key, shape) must return a dict of arrays by name (got "
            f"{type(params).__name__})"
        )
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


def apply(
    layer: Own, params: dict[str, Tree], x: jax.Array, train: bool, rows: RowContext
) -> jax.Array:
    """x [B, ...] through the layer; weights come in x's dtype, and so does the result."""
    made = make(layer)
    wanted = inspect.signature(made.apply).parameters
    given = {k: v for k, v in {"train": train, "rows": rows}.items() if k in wanted}
    params = jax.tree.map(lambda leaf: leaf.astype(x.dtype), params)
    with promotion_as_usual():
        return jnp.asarray(made.apply(params, x, **given)).astype(x.dtype)


def own_rows(mask: jax.Array | None, keys: jax.Array | None, number: int) -> RowContext:
    """What layer `number` of its kind is told of the rows: keys that no other layer draws from."""
    if keys is None:
        return RowContext(mask)
    return RowContext(mask, jax.vmap(lambda key: jax.random.fold_in(key, number))(keys))


@functools.lru_cache(1024)
def traced(layer: Own, shape: Shape) -> tuple[Shape, int, int]:
    """(output shape, parameters, multiply-adds of an image) on inputs of `shape`.

    Raises:
        ConfigError: it fails, or `out`, `params` or `macs` of its class say something else.
    """
    # Keys as shapes: made as values, they would start JAX, with the devices it then has
    key = jax.eval_shape(lambda: jax.random.key(0))
    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), TRIED))
    x = jax.ShapeDtypeStruct((TRIED, *shape), jnp.float32)

    def forward(params: Any, x: jax.Array, keys: jax.Array) -> Any:
        return apply(layer, params, x, train=True, rows=RowContext(None, keys))

    try:
        params = jax.eval_shape(lambda key: first_weights(layer, key, shape), key)
        jaxpr, result = jax.make_jaxpr(forward, return_shape=True)(params, x, keys)
    except FlaxcnnError:
        raise
    except Exception as error:  # whatever it raises on such an input
        raise ConfigError(
            f"{layer.target} fails on {shape}: {type(error).__name__}: {first_line(error)}"
        ) from error
    if result.ndim < 2 or result.shape[0] != TRIED:
        raise ConfigError(
            f"{layer.target}: apply must return [B, ...] for x [B, ...] (got "
            f"{list(result.shape)} for {[TRIED, *shape]})"
        )
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    found = (tuple(result.shape[1:]), count, macs(jaxpr.jaxpr) // TRIED)
    made, own = make(layer), ("out", "params", "macs")
    said = [_said(layer, getattr(made, name, None), shape) for name in own]
    for name, says, is_ in zip(own[:2], said, found, strict=False):
        if says is not None and says != is_:
            raise ConfigError(f"{layer.target}: {name}({shape}) says {says}, but it is {is_}")
    return found[0], found[1], found[2] if said[2] is None else int(said[2])


def _said(layer: Own, method: Callable[[Shape], Any] | None, shape: Shape) -> Any:
    """What a method of the class says of a shape; parameters as those to train and others."""
    if method is None:
        return None
    said = method(shape)
    if method.__name__ == "params" and isinstance(said, tuple):
        said = sum(said)
    return tuple(said) if isinstance(said, list) else said
