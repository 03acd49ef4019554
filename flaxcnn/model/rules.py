"""An update whole: gradients clipped, the optimizer, and rules over the names of weights."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flaxcnn.model import optim
from flaxcnn.model.protocol import fits, leaf_name, product
from flaxcnn.recipe import rules as spec
from flaxcnn.recipe.optimizers import Optimizer

Params = Any  # a pytree of float32 arrays
Scalar = jax.Array  # [] float32
Numbers = dict[str, Scalar]  # that a compiled program takes as arguments
NEAR_ZERO = 1e-12  # added to the norm of the gradients in SAM, as its authors' code does


class Slow(NamedTuple):
    """The optimizer's state with Lookahead."""

    steps: jax.Array  # [] int32, updates done
    weights: Params
    optimizer: Any


def reduces(optimizer: Optimizer, rules: spec.Rules) -> bool:
    """Whether an update may depend on more than its own parameter, its gradient and its state."""
    return optim.reduces(optimizer) or isinstance(rules.clip, spec.Norm | spec.Adaptive)


def initial(
    optimizer: Optimizer, rules: spec.Rules, rate: Scalar, numbers: Numbers, params: Params
) -> Any:
    """The optimizer's state before the first update.

    Raises:
        ConfigError: as `optim.initial`.
    """
    state = optim.initial(optimizer, rate, numbers, params, rules.no_decay)
    if rules.lookahead is None:
        return state
    return Slow(jnp.int32(0), jax.tree.map(jnp.copy, params), state)


def update(
    optimizer: Optimizer, rules: spec.Rules, rate: Scalar, numbers: Numbers, own: Numbers,
    grads: Params, state: Any, params: Params,
) -> tuple[Params, Any]:  # fmt: skip
    """(change of the parameters, new state) for mean gradients.

    `numbers` are those of the optimizer, `own` those of the rules as `at` gives them.
    """
    if rules.clip is not None:
        grads = _clipped(rules.clip, own["clip"], _trained(rules, grads), params)
    inner = state.optimizer if rules.lookahead else state
    decays = {name: own[f"decays.{name}"] for name in rules.decays}
    change, inner = optim.update(
        optimizer, rate, numbers, grads, inner, params, rules.no_decay, decays
    )
    for setting, patterns in (("rates", rules.rates), ("fade", rules.fade)):
        if patterns:
            factors = {name: own[f"{setting}.{name}"] for name in patterns}
            change = _scaled(factors, change)
    change = _trained(rules, change)
    if rules.lookahead is None:
        return change, inner
    return _look_ahead(rules.lookahead, own["lookahead"], change, inner, state, params)


def at(rules: spec.Rules, own: Numbers, epochs: Scalar, share: Scalar) -> Numbers:
    """The numbers of the rules at a time, [] float32 each.

    Args:
        rules: which there are.
        own: their numbers.
        epochs: that are done, [] float32.
        share: of the run that is done, [] float32.
    """
    now = {
        f"fade.{name}": jnp.maximum(1.0 - epochs / own[f"fade.{name}"], 0.0) for name in rules.fade
    }
    if rules.lookahead and rules.lookahead.power:
        now["lookahead"] = 1.0 - (1.0 - own["lookahead"]) * share**rules.lookahead.power
    return {**own, **now}


def ascent(rules: spec.Rules, rho: Scalar, grads: Params, params: Params) -> Params:
    """The weights at which SAM takes the gradient: rho up the mean gradients from `params`.

    Foret et al. 2021 (arXiv:2010.01412), equation 2.
    """
    grads = _trained(rules, grads)
    norm = optax.tree.norm(grads)
    return jax.tree.map(lambda p, g: p + rho / (norm + NEAR_ZERO) * g, params, grads)


def _trained(rules: spec.Rules, tree: Params) -> Params:
    """The tree, 0 for weights that are frozen."""
    if not rules.freeze:
        return tree
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.zeros_like(x) if fits(rules.freeze, path) else x, tree
    )


def _scaled(factors: Numbers, change: Params) -> Params:
    def scaled(path: Any, change: jax.Array) -> jax.Array:
        factor = product(factors, leaf_name(path))
        return change if factor is None else factor * change

    return jax.tree_util.tree_map_with_path(scaled, change)


def _clipped(clip: spec.Clip, value: Scalar, grads: Params, params: Params) -> Params:
    """The gradients after `clip`."""
    match clip:
        case spec.Norm():
            chosen = optax.clip_by_global_norm(value)
        case spec.Value():
            chosen = optax.clip(value)
        case spec.Adaptive():
            chosen = optax.adaptive_grad_clip(value)
    with jax.numpy_dtype_promotion("standard"):
        clipped: Params = chosen.update(grads, chosen.init(params), params)[0]
        return clipped


def _look_ahead(
    lookahead: spec.Lookahead, alpha: Scalar, change: Params, inner: Any, state: Slow,
    params: Params,
) -> tuple[Params, Slow]:  # fmt: skip
    """What the change becomes where the slow weights follow, and the new state."""
    steps = state.steps + 1
    due = steps % lookahead.steps == 0
    follow = functools.partial(jnp.where, due)
    slow = jax.tree.map(
        lambda s, p, c: follow(s + alpha * (p + c - s), s), state.weights, params, change
    )
    change = jax.tree.map(lambda s, p, c: follow(s - p, c), slow, params, change)
    return change, Slow(steps, slow, inner)
