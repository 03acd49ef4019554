"""Optimizers with Keras's arithmetic, as optax transformations.

optax has the same families but not the same numbers: its Adam corrects the bias before adding
epsilon, its momentum leaves the rate out of the velocity (which matters once the rate changes),
its Adamax and Nadam place epsilon and the momentum schedule differently. A document that relied on
Keras is repeated only by Keras's formulas, so they are written out here; Adadelta and Adagrad
agree and come from optax. References: `keras/src/optimizers/*.py` of Keras 3 and, where a field of
the specification says so, `keras/optimizers.py` of Keras 2.2.

Every function may be traced: the rate is an argument of the step, not a constant of the program.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from flaxcnn.recipe import optimizers as spec

Params = Any  # a pytree of float32 arrays
Scalar = jax.Array  # [] float32


class Moments(NamedTuple):
    """Updates done so far ([] int32) and two trees of running values, {} where unused."""

    steps: jax.Array
    first: Params
    second: Params
    product: Scalar  # of Nadam's momentum schedule


def _start(first: bool, second: bool, fill: float = 0.0) -> Any:
    """`init` of a transformation with the moments asked for."""

    def init(params: Params) -> Moments:
        like = lambda value: jax.tree.map(lambda p: jnp.full_like(p, value), params)  # noqa: E731
        return Moments(
            jnp.int32(0), like(0.0) if first else {}, like(fill) if second else {}, jnp.float32(1)
        )

    return init


def _average(old: Params, new: Params, beta: float | Scalar) -> Params:
    """Exponential moving average in Keras's form, old + (1 - beta) * (new - old)."""
    return jax.tree.map(lambda o, n: o + (1.0 - beta) * (n - o), old, new)


def _squares(grads: Params) -> Params:
    return jax.tree.map(jnp.square, grads)


def sgd(o: spec.SGD, rate: Scalar, momentum: Scalar) -> optax.GradientTransformation:
    """v <- momentum * v - rate * g;  change = v, or momentum * v - rate * g with nesterov."""

    def update(
        grads: Params, state: Moments, params: Params | None = None
    ) -> tuple[Params, Moments]:
        velocity = jax.tree.map(lambda v, g: momentum * v - rate * g, state.first, grads)
        change = velocity
        if o.nesterov:
            change = jax.tree.map(lambda v, g: momentum * v - rate * g, velocity, grads)
        return change, state._replace(steps=state.steps + 1, first=velocity)

    return optax.GradientTransformation(_start(first=True, second=False), update)


def adam(o: spec.Adam, rate: Scalar, beta_1: float | Scalar) -> optax.GradientTransformation:
    """change = -rate * sqrt(1 - beta_2^t) / (1 - beta_1^t) * m / (sqrt(v) + epsilon)."""

    def update(
        grads: Params, state: Moments, params: Params | None = None
    ) -> tuple[Params, Moments]:
        t = (state.steps + 1).astype(jnp.float32)
        m = _average(state.first, grads, beta_1)
        v = _average(state.second, _squares(grads), o.beta_2)
        alpha = rate * jnp.sqrt(1.0 - o.beta_2**t) / (1.0 - beta_1**t)
        change = jax.tree.map(lambda m, v: -alpha * m / (jnp.sqrt(v) + o.epsilon), m, v)
        return change, state._replace(steps=state.steps + 1, first=m, second=v)

    return optax.GradientTransformation(_start(first=True, second=True), update)


def nadam(o: spec.Nadam, rate: Scalar, beta_1: float | Scalar) -> optax.GradientTransformation:
    """Adam with a nesterov step; momentum u_t = beta_1 * (1 - 0.96^(t * schedule_decay) / 2)."""

    def momentum(t: Scalar) -> Scalar:
        return beta_1 * (1.0 - 0.5 * 0.96 ** (t * o.schedule_decay))

    def update(
        grads: Params, state: Moments, params: Params | None = None
    ) -> tuple[Params, Moments]:
        t = (state.steps + 1).astype(jnp.float32)
        now, then = momentum(t), momentum(t + 1.0)
        product = state.product * now
        m = _average(state.first, grads, beta_1)
        v = _average(state.second, _squares(grads), o.beta_2)
        scale_m, scale_g = then / (1.0 - product * then), (1.0 - now) / (1.0 - product)

        def change(m: jax.Array, v: jax.Array, g: jax.Array) -> jax.Array:
            root = jnp.sqrt(v / (1.0 - o.beta_2**t)) + o.epsilon
            return -rate * (scale_m * m + scale_g * g) / root

        return jax.tree.map(change, m, v, grads), Moments(state.steps + 1, m, v, product)

    return optax.GradientTransformation(_start(first=True, second=True), update)


def adamax(o: spec.Adamax, rate: Scalar, beta_1: float | Scalar) -> optax.GradientTransformation:
    """u <- max(beta_2 * u, |g|);  change = -rate * m / ((1 - beta_1^t) * (u + epsilon))."""

    def update(
        grads: Params, state: Moments, params: Params | None = None
    ) -> tuple[Params, Moments]:
        t = (state.steps + 1).astype(jnp.float32)
        m = _average(state.first, grads, beta_1)
        u = jax.tree.map(lambda u, g: jnp.maximum(o.beta_2 * u, jnp.abs(g)), state.second, grads)
        alpha = rate / (1.0 - beta_1**t)
        change = jax.tree.map(lambda m, u: -alpha * m / (u + o.epsilon), m, u)
        return change, state._replace(steps=state.steps + 1, first=m, second=u)

    return optax.GradientTransformation(_start(first=True, second=True), update)


class RMSpropState(NamedTuple):
    """Moving averages of g^2 and (centered only) g, and the velocity (momentum only)."""

    squares: Params
    means: Params
    velocity: Params


def rmsprop(o: spec.RMSprop, rate: Scalar, momentum: Scalar) -> optax.GradientTransformation:
    """change = -rate * g / sqrt(v + epsilon), or / (sqrt(v) + epsilon) as Keras 2 had it."""

    def init(params: Params) -> RMSpropState:
        # Arrays of their own each: a state that holds one twice cannot be donated.
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)  # noqa: E731
        return RMSpropState(zeros(), zeros() if o.centered else {}, zeros() if o.momentum else {})

    def update(
        grads: Params, state: RMSpropState, params: Params | None = None
    ) -> tuple[Params, RMSpropState]:
        decay = lambda old, new: o.rho * old + (1.0 - o.rho) * new  # noqa: E731
        squares = variance = jax.tree.map(decay, state.squares, _squares(grads))
        means, velocity = state.means, state.velocity
        if o.centered:
            means = jax.tree.map(decay, means, grads)
            # Rounding can take it below 0, where Keras gives NaN.
            variance = jax.tree.map(lambda v, m: jnp.maximum(v - m * m, 0.0), squares, means)
        root = _root(o.epsilon, o.epsilon_in_sqrt)
        change = jax.tree.map(lambda g, v: -rate * g / root(v), grads, variance)
        if o.momentum:
            change = velocity = jax.tree.map(lambda s, c: momentum * s + c, velocity, change)
        return change, RMSpropState(squares, means, velocity)

    return optax.GradientTransformation(init, update)


def adadelta(o: spec.Adadelta, rate: Scalar) -> optax.GradientTransformation:
    """u = g * sqrt(d + epsilon) / sqrt(v + epsilon), d the average of u^2;  change = -rate * u."""
    return optax.chain(optax.scale_by_adadelta(o.rho, o.epsilon), _times(-rate))


def adagrad(o: spec.Adagrad, rate: Scalar) -> optax.GradientTransformation:
    """v <- v + g^2;  change = -rate * g / sqrt(v + epsilon), or / (sqrt(v) + epsilon)."""

    def update(
        grads: Params, state: Moments, params: Params | None = None
    ) -> tuple[Params, Moments]:
        total = jax.tree.map(jnp.add, state.second, _squares(grads))
        root = _root(o.epsilon, o.epsilon_in_sqrt)
        change = jax.tree.map(lambda g, v: -rate * g / root(v), grads, total)
        return change, state._replace(steps=state.steps + 1, second=total)

    start = _start(first=False, second=True, fill=o.initial_accumulator)
    return optax.GradientTransformation(start, update)


def _root(epsilon: float, inside: bool) -> Any:
    if inside:
        return lambda v: jnp.sqrt(v + epsilon)
    return lambda v: jnp.sqrt(v) + epsilon


def _times(factor: Scalar) -> optax.GradientTransformation:
    return optax.stateless(lambda updates, _: jax.tree.map(lambda u: factor * u, updates))
