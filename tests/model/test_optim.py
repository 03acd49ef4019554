"""Every optimizer and option against Keras's formula restated in float64 NumPy, step by step.

The formulas are read from `keras/src/optimizers/*.py` of Keras 3 and, for the options that name
it, from `keras/optimizers.py` of Keras 2.2.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxcnn.model import optim, schedules
from flaxcnn.recipe.optimizers import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    Constant,
    Cosine,
    Nadam,
    RMSprop,
    TimeDecay,
)
from flaxcnn.recipe.traced import optimizer_numbers

STEPS, WIDTH = 30, 60
# Of the length of the path so far. float32 powers cost most: 1 - 0.999 has the relative error
# 1.3e-5, in Keras as here. A wrong formula is off by percents.
TOLERANCE = 3e-5
# v - m^2 loses a digit or two where the gradients of a parameter are alike.
CENTERED_TOLERANCE = 3e-4


def gradients():
    """[STEPS, WIDTH] with a size of its own for every parameter, 1e-9 to 1e2, and zeros."""
    random = np.random.default_rng(0)
    grads = random.normal(size=(STEPS, WIDTH)) * 10 ** np.linspace(-9, 2, WIDTH)
    grads[random.random(grads.shape) < 0.15] = 0
    grads[:, ::13] = 0
    grads[: STEPS // 2, 5::13] = 0
    return grads.astype(np.float32).astype(np.float64)


def rates():
    """A rate that falls mid-way: what holds an old rate inside a velocity shows itself."""
    return np.where(np.arange(STEPS) < 12, 0.01, 0.0005).astype(np.float32).astype(np.float64)


# Each restatement is a generator: receives (gradient, rate), yields the change of the parameter.


def sgd(o, g, rate, velocity=0.0):
    while True:
        velocity = o.momentum * velocity - rate * g
        g, rate = yield o.momentum * velocity - rate * g if o.nesterov else velocity


def adam(o, g, rate, m=0.0, v=0.0, t=0):
    while True:
        t += 1
        m, v = m + (g - m) * (1 - o.beta_1), v + (g * g - v) * (1 - o.beta_2)
        alpha = rate * math.sqrt(1 - o.beta_2**t) / (1 - o.beta_1**t)
        g, rate = yield -m * alpha / (np.sqrt(v) + o.epsilon)


def nadam(o, g, rate, m=0.0, v=0.0, t=0, product=1.0):
    while True:
        t += 1
        u = [o.beta_1 * (1 - 0.5 * 0.96 ** (k * o.schedule_decay)) for k in (t, t + 1)]
        product *= u[0]
        m, v = m + (g - m) * (1 - o.beta_1), v + (g * g - v) * (1 - o.beta_2)
        m_hat = u[1] * m / (1 - product * u[1]) + (1 - u[0]) * g / (1 - product)
        g, rate = yield -m_hat * rate / (np.sqrt(v / (1 - o.beta_2**t)) + o.epsilon)


def adamax(o, g, rate, m=0.0, u=0.0, t=0):
    while True:
        t += 1
        m, u = m + (g - m) * (1 - o.beta_1), np.maximum(o.beta_2 * u, np.abs(g))
        g, rate = yield -rate * m / ((1 - o.beta_1**t) * (u + o.epsilon))


def rmsprop(o, g, rate, v=0.0, mean=0.0, velocity=0.0):
    while True:
        v = o.rho * v + (1 - o.rho) * g * g
        mean = o.rho * mean + (1 - o.rho) * g if o.centered else 0.0
        under = v - mean * mean
        root = np.sqrt(under + o.epsilon) if o.epsilon_in_sqrt else np.sqrt(under) + o.epsilon
        velocity = o.momentum * velocity + rate * g / root
        g, rate = yield -velocity


def adadelta(o, g, rate, v=0.0, d=0.0):
    while True:
        v = o.rho * v + (1 - o.rho) * g * g
        delta = -np.sqrt(d + o.epsilon) * g / np.sqrt(v + o.epsilon)
        d = o.rho * d + (1 - o.rho) * delta * delta
        g, rate = yield rate * delta


def adagrad(o, g, rate, v=None):
    v = o.initial_accumulator
    while True:
        v = v + g * g
        root = np.sqrt(v + o.epsilon) if o.epsilon_in_sqrt else np.sqrt(v) + o.epsilon
        g, rate = yield -rate * g / root


FORMULAS = {
    SGD: sgd, Adam: adam, Nadam: nadam, Adamax: adamax, RMSprop: rmsprop, Adadelta: adadelta,
    Adagrad: adagrad,
}  # fmt: skip
PLAIN = {
    "sgd": SGD(),
    "sgd momentum": SGD(0.9),
    "sgd nesterov": SGD(0.9, nesterov=True),
    "adam": Adam(),
    "adam other betas": Adam(0.8, 0.99, 1e-3),
    "nadam": Nadam(),
    "nadam keras 2": Nadam(schedule_decay=0.004),
    "adamax": Adamax(),
    "adamax epsilon 1": Adamax(epsilon=1.0),
    "rmsprop": RMSprop(),
    "rmsprop keras 2": RMSprop(epsilon_in_sqrt=False),
    "rmsprop momentum": RMSprop(momentum=0.9),
    "rmsprop centered": RMSprop(centered=True),
    "rmsprop all": RMSprop(0.95, 0.5, 1e-3, epsilon_in_sqrt=False, centered=True),
    "adadelta": Adadelta(),
    "adadelta other rho": Adadelta(0.8, 1e-3),
    "adagrad": Adagrad(),
    "adagrad keras 2": Adagrad(0.0, epsilon_in_sqrt=False),
    "adagrad from 0": Adagrad(0.0),
}
CASES = PLAIN | {
    f"{name} decayed": dataclasses.replace(PLAIN[name], weight_decay=0.04)
    for name in ("sgd", "sgd nesterov", "adam", "nadam", "adamax", "rmsprop", "adadelta", "adagrad")
}


def numbers_of(o, decay):
    """The traced numbers, with this weight decay."""
    return jax.tree.map(jnp.float32, optimizer_numbers(o)) | {"weight_decay": decay}


@functools.cache
def compiled(o, donate=False):
    """update(gradient, state, parameter, rate, weight decay) -> (change, state); all traced."""

    def update(g, state, p, rate, decay):
        return optim.make(o, rate, numbers_of(o, decay)).update(g, state, p)

    return jax.jit(update, donate_argnums=1 if donate else ())


def start(o, params):
    return optim.initial(o, jnp.float32(0.1), numbers_of(o, jnp.float32(0)), params)


@pytest.mark.parametrize("o", CASES.values(), ids=CASES)
def test_every_step_equals_the_formula(o):
    step, grads = compiled(o), gradients()
    scale = 100.0 if isinstance(o, Adadelta) else 1.0  # rates of 1.0 and 0.05, as it is used
    first = 0.1 * np.random.default_rng(1).normal(size=WIDTH)
    params = {"w": jnp.asarray(first, jnp.float32)}
    p = np.asarray(params["w"], np.float64)
    state = start(o, params)
    moved, expected, path, formula = np.zeros(WIDTH), np.zeros(WIDTH), np.zeros(WIDTH), None
    tolerance = CENTERED_TOLERANCE if getattr(o, "centered", False) else TOLERANCE
    for number, (g, rate) in enumerate(zip(grads, scale * rates(), strict=True)):
        if formula is None:
            formula = FORMULAS[type(o)](o, g, rate)
            change = next(formula)
        else:
            change = formula.send((g, rate))
        change = change - rate * o.weight_decay * p
        ours, state = step({"w": jnp.asarray(g, jnp.float32)}, state, params,
                           jnp.float32(rate), jnp.float32(o.weight_decay))  # fmt: skip
        params = jax.tree.map(jnp.add, params, ours)
        p = p + change
        # Summed here, in float64: the parameter's own rounding would hide the small ones.
        moved, expected = moved + np.asarray(ours["w"], np.float64), expected + change
        path += np.abs(change)
        worst = np.max(np.abs(moved - expected) - tolerance * path)
        assert worst <= 0, f"step {number}: off by {np.max(np.abs(moved - expected) / path)}"
    assert (path > 0).sum() > 0.9 * WIDTH * (1 if o.weight_decay else 12 / 13)


@pytest.mark.parametrize("o", CASES.values(), ids=CASES)
def test_state_may_be_donated(o):
    """A run gives its old state's memory back: no array may stand in it twice."""
    params = {"w": jnp.ones(3), "b": jnp.ones(2)}
    state = start(o, params)
    one = jnp.float32(1)
    _, state = compiled(o, donate=True)(params, state, params, one, one)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("name", ["sgd nesterov decayed", "adam decayed", "rmsprop all"])
def test_rate_and_decay_may_differ_between_runs_of_one_program(name):
    o, grads = CASES[name], jnp.asarray(gradients()[:4], jnp.float32)
    rate, decay = jnp.array([0.1, 0.01, 0.001]), jnp.array([0.0, 0.1, 0.5])

    def run(rate, decay):
        p = jnp.full(WIDTH, 0.3)
        optimizer = optim.make(o, rate, numbers_of(o, decay))
        state = optimizer.init(p)
        for g in grads:
            change, state = optimizer.update(g, state, p)
            p = p + change
        return p

    together = jax.jit(jax.vmap(run))(rate, decay)
    for k in range(3):
        alone = jax.jit(run)(rate[k], decay[k])
        np.testing.assert_allclose(together[k], alone, rtol=1e-5, atol=1e-6)


def test_weight_decay_is_ignored_unless_the_recipe_has_it():
    """So a recipe without it pays nothing, and runs that search for it must start above 0."""
    g, p, one = jnp.zeros(3), jnp.ones(3), jnp.float32(1)
    change, _ = compiled(SGD())(g, start(SGD(), p), p, one, one)
    assert not change.any()


@pytest.mark.parametrize("inside", [True, False])
def test_centered_rmsprop_survives_constant_gradients(inside):
    """There v - m^2 is 0 up to rounding, which may leave it below 0 by more than epsilon."""
    o, g = RMSprop(centered=True, epsilon_in_sqrt=inside), jnp.logspace(0.0, 3.0, 200)
    p = jnp.zeros(200)
    state = start(o, p)
    for number in range(400):
        now = 3 * g if number < 20 else g  # v and m then fall towards g^2 and g
        change, state = compiled(o)(now, state, p, jnp.float32(0.001), jnp.float32(0))
        assert np.isfinite(change).all(), number


def rate_at(schedule, step, per_epoch=10, total=50):
    function = jax.jit(schedules.scheduled_rate, static_argnums=(0, 3, 4))
    rate = function(schedule, jnp.float32(0.2), jnp.int32(step), per_epoch, total)
    assert rate.dtype == jnp.float32
    assert rate.shape == ()
    return float(rate)


def cosine(step, warmup, final, total=50):
    if step < warmup:
        return 0.2 * (step + 1) / warmup
    progress = min((step - warmup) / (total - warmup), 1.0)
    return 0.2 * (final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2)


SCHEDULES = {
    Constant(): lambda step: 0.2,
    TimeDecay(0.0): lambda step: 0.2,
    TimeDecay(0.05): lambda step: 0.2 / (1 + 0.05 * step),
    Cosine(): lambda step: cosine(step, 0, 0.0),
    Cosine(warmup_epochs=2): lambda step: cosine(step, 20, 0.0),
    Cosine(warmup_epochs=0.5, final=0.1): lambda step: cosine(step, 5, 0.1),
}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_schedules_equal_their_formula(schedule):
    for step in (0, 1, 4, 5, 19, 20, 21, 35, 49, 50, 70):
        expected = SCHEDULES[schedule](step)
        assert rate_at(schedule, step) == pytest.approx(expected, rel=2e-6, abs=1e-8), step


@pytest.mark.parametrize("kind", [Adam, Nadam, Adamax])
def test_a_scheduled_beta_1_is_that_of_the_optimizer(kind):
    """A schedule that gives 0.8 in each update, whatever the specification has."""
    params = {"w": jnp.asarray(np.random.default_rng(1).normal(size=WIDTH), jnp.float32)}
    decay, found = jnp.float32(0), []
    for o, more in ((kind(beta_1=0.8), {}), (kind(), {"beta_1": jnp.float32(0.8)})):
        state, given = start(o, params), numbers_of(o, decay) | more
        step = jax.jit(lambda g, s, o=o, n=given: optim.make(o, jnp.float32(0.1), n).update(g, s))
        changes = []
        for grads in gradients()[:5]:
            change, state = step({"w": jnp.asarray(grads, jnp.float32)}, state)
            changes.append(change["w"])
        found.append(changes)
    # 0.8 is rounded to float32 before or after it is taken from 1
    np.testing.assert_allclose(found[0], found[1], rtol=TOLERANCE)
