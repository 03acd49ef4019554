"""From gradients to changes of the parameters: the optimizers of a recipe, and those of optax.

`flaxcnn.model.keras_optimizers` has the arithmetic of the built-in ones. Everything is called
inside the step with arrays that may be traced, so runs whose rates differ share one program.
"""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxcnn.errors import ConfigError, first_line
from flaxcnn.model import keras_optimizers as keras
from flaxcnn.model.factories import made
from flaxcnn.model.muon import muon
from flaxcnn.model.protocol import fits, leaf_name, product
from flaxcnn.recipe import optimizers as spec
from flaxcnn.recipe.references import resolve

Params = Any  # a pytree of float32 arrays
Scalar = jax.Array  # [] float32
# How the factories of optax call the tree that says which weights decay.
MASKS = ("mask", "weight_decay_mask")


def reduces(optimizer: spec.Optimizer) -> bool:
    """Whether an update may depend on more than its own parameter, its gradient and its state."""
    return isinstance(optimizer, spec.Optax | spec.Muon)


def initial(
    optimizer: spec.Optimizer, rate: Scalar, numbers: dict[str, Scalar], params: Params,
    no_decay: tuple[str, ...] = (),
) -> Any:  # fmt: skip
    """The optimizer's state before the first update; `rate` is the one without a schedule.

    Raises:
        ConfigError: as `make`; or no checkpoint can hold the state.
    """
    with jax.numpy_dtype_promotion("standard"):
        state = make(optimizer, rate, numbers, no_decay).init(params)
    if any(
        jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(state)
    ):
        raise ConfigError(
            f"optimizer: {optimizer.factory} keeps a random key in its state, which a checkpoint "  # type: ignore[union-attr]
            "cannot hold"
        )
    return state


def update(
    optimizer: spec.Optimizer, rate: Scalar, numbers: dict[str, Scalar], grads: Params, state: Any,
    params: Params, no_decay: tuple[str, ...] = (), decays: dict[str, Scalar] | None = None,
) -> tuple[Params, Any]:  # fmt: skip
    """(change of the parameters, new state) for mean gradients; `numbers` are the traced ones."""
    transformation = make(optimizer, rate, numbers, no_decay, decays)
    if not isinstance(optimizer, spec.Optax):
        return transformation.update(grads, state, params)
    with jax.numpy_dtype_promotion("standard"):
        try:
            change, new = transformation.update(grads, state, params)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"optimizer: {optimizer.factory} fails on gradients alone: {first_line(error)}"
            ) from error
        # As it came: a factory that promotes would have the next step compiled anew.
        same = lambda old, now: jnp.asarray(now).astype(jnp.asarray(old).dtype)  # noqa: E731
        return jax.tree.map(same, params, change), jax.tree.map(same, state, new)


def make(
    optimizer: spec.Optimizer, rate: Scalar, numbers: dict[str, Scalar],
    no_decay: tuple[str, ...] = (), decays: dict[str, Scalar] | None = None,
) -> optax.GradientTransformation:  # fmt: skip
    """The transformation from mean gradients to the change of the parameters.

    Weight decay is decoupled, as in Keras: it subtracts rate * weight_decay * parameter. Whether
    there is any, and any momentum, `optimizer` says; how much, the traced `numbers`. Weights that a
    pattern of `no_decay` fits do not decay, others by the factors of the patterns of `decays`.

    Raises:
        ConfigError: a factory cannot be imported, refuses its arguments, or returns something else;
            or it has a decay of its own, which `decays` cannot change.
    """
    decays = decays or {}
    if decays and isinstance(optimizer, spec.Optax):
        raise ConfigError(
            f"decays: {optimizer.factory} decays all weights alike; use no_decay, or an optimizer "
            "of flaxcnn's own"
        )
    match optimizer:
        case spec.Optax():
            return _optax(optimizer, rate, numbers, no_decay)
        case spec.Muon(other=other):
            of_others = {name: jnp.float32(getattr(other, name)) for name in other.traced}
            rest = make(other, rate * numbers["other_rate"], of_others, no_decay, decays)
            return muon(optimizer, rate, numbers, rest, no_decay, decays)
        case spec.SGD():
            step = keras.sgd(optimizer, rate, numbers["momentum"])
        case spec.Adam():
            step = keras.adam(optimizer, rate, numbers.get("beta_1", optimizer.beta_1))
        case spec.Nadam():
            step = keras.nadam(optimizer, rate, numbers.get("beta_1", optimizer.beta_1))
        case spec.Adamax():
            step = keras.adamax(optimizer, rate, numbers.get("beta_1", optimizer.beta_1))
        case spec.RMSprop():
            step = keras.rmsprop(optimizer, rate, numbers["momentum"])
        case spec.Adagrad():
            step = keras.adagrad(optimizer, rate)
        case spec.Adadelta():
            step = keras.adadelta(optimizer, rate)
    if not optimizer.weight_decay:
        return step

    def update(grads: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        updates, state = step.update(grads, state, params)
        decay = numbers["weight_decay"]

        def decayed(path: Any, update: jax.Array, param: jax.Array) -> jax.Array:
            if fits(no_decay, path):
                return update
            factor = product(decays, leaf_name(path))
            own = rate * decay if factor is None else rate * decay * factor
            return update - own * param

        return jax.tree_util.tree_map_with_path(decayed, updates, params), state

    return optax.GradientTransformation(step.init, update)


def _optax(
    optimizer: spec.Optax, rate: Scalar, numbers: dict[str, Scalar], no_decay: tuple[str, ...]
) -> optax.GradientTransformation:
    """What the factory of a recipe returns for this rate."""
    given = {**optimizer.named, **numbers, **_mask(optimizer, no_decay)}
    transformation = made(optimizer, "optimizer", lambda factory: factory(rate, **given))
    if not isinstance(transformation, optax.GradientTransformation):
        raise ConfigError(
            f"optimizer: {optimizer.factory} must return an optax.GradientTransformation "
            f"(got {type(transformation).__name__})"
        )
    return transformation


def _mask(optimizer: spec.Optax, no_decay: tuple[str, ...]) -> dict[str, Any]:
    """The argument that tells a factory which weights decay.

    Raises:
        ConfigError: it has none.
    """
    if not no_decay:
        return {}
    takes = inspect.signature(resolve(optimizer.factory, optimizer.source)).parameters
    if not (name := next((name for name in MASKS if name in takes), None)):
        raise ConfigError(
            f"no_decay: {optimizer.factory} has no argument `mask` or `weight_decay_mask` that "
            "says which weights decay"
        )

    def decays(params: Params) -> Any:
        return jax.tree_util.tree_map_with_path(lambda path, _: not fits(no_decay, path), params)

    return {name: decays}
