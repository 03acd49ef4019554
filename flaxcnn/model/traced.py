"""The table of a network of one's own: parts with parameters, and what its products cost."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from flaxcnn.errors import ConfigError, FlaxcnnError, first_line
from flaxcnn.model.foreign import Compiled, build
from flaxcnn.model.protocol import RowContext, leaf_name
from flaxcnn.recipe.layers import Row, Shape
from flaxcnn.recipe.networks import ForeignModel, Traced

INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr", "body_jaxpr", "branches")  # parameters of an equation


@functools.lru_cache(64)
def table(model: ForeignModel, shape: Shape, classes: int) -> list[Row]:
    """A row for each part of the network that has parameters of its own, and one for the whole.

    Args:
        model: its specification.
        shape: (H, W, C) of an image.
        classes: how many logits an image must have.

    Raises:
        ConfigError: it cannot be made or called, or its logits have another shape.
    """
    made = build(model, Compiled())
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    try:
        variables = jax.eval_shape(made.init, jax.random.key(0), image)
        forward = functools.partial(made.apply, train=False, rows=RowContext())
        traced = jax.make_jaxpr(forward, return_shape=True)(variables, image)
    except FlaxcnnError:
        raise
    except Exception as error:  # whatever the network raises on such images
        size = "x".join(map(str, shape))
        raise ConfigError(
            f"model: {model.targets[-1]} fails on images {size}: {type(error).__name__}: "
            f"{first_line(error)}"
        ) from error
    jaxpr, (logits, _) = traced
    if logits.shape != (1, classes):
        raise ConfigError(
            f"model: {model.targets[-1]} must return logits [B, {classes}] "
            f"(got {['B', *logits.shape[1:]]} for images {list(image.shape)})"
        )
    params, other = _sizes(variables["params"]), _sizes(variables["batch_stats"])
    rows = [
        Row(name, Traced(""), (), (), params.get(name, 0), other.get(name, 0), 0)
        for name in dict.fromkeys([*params, *other])
    ]
    kind = model.targets[-1].rpartition(":")[2]
    return [*rows, Row("network", Traced(kind), shape, (classes,), 0, 0, macs(jaxpr.jaxpr))]


def _sizes(tree: Any) -> dict[str, int]:
    """Number of values of each part: the path without the last key."""
    sizes: dict[str, int] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = leaf_name(path[:-1] or path)
        sizes[name] = sizes.get(name, 0) + leaf.size
    return sizes


def macs(jaxpr: Any) -> int:
    """Multiply-adds of the products and convolutions in a jaxpr."""
    total = 0
    for equation in jaxpr.eqns:
        name, out = equation.primitive.name, equation.outvars[0].aval
        if name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = equation.params["dimension_numbers"].rhs_spec[0]
            total += math.prod(out.shape) * math.prod(kernel) // kernel[features]
        elif name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            sizes = equation.invars[0].aval.shape
            total += math.prod(out.shape) * math.prod(sizes[axis] for axis in contracted)
        times = equation.params.get("length", 1) if name == "scan" else 1
        for key in INNER:
            for inner in _listed(equation.params.get(key)):
                total += times * macs(getattr(inner, "jaxpr", inner))
    return total


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
