"""Muon against optax's, and against its algorithm restated in float64 NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxcnn.errors import ConfigError
from flaxcnn.model import optim
from flaxcnn.model.muon import COEFFICIENTS, orthogonal
from flaxcnn.recipe.optimizers import SGD, Adam, Muon
from flaxcnn.recipe.traced import compiled_optimizer, optimizer_numbers

RANDOM = np.random.default_rng(0)
SHAPES = {
    "conv2d": {"kernel": (3, 3, 2, 8), "bias": (8,)},
    "conv2d_1": {"kernel": (3, 3, 2, 8)},  # of one shape with the first
    "conv2d_2": {"kernel": (1, 1, 8, 32)},  # wide: more outputs than inputs
    "dense": {"kernel": (6, 5), "bias": (5,)},
}
DRAWN = jax.tree.map(
    lambda shape: RANDOM.normal(size=shape), SHAPES, is_leaf=lambda x: isinstance(x, tuple)
)
PARAMS = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), DRAWN)
KERNELS = ("conv2d", "conv2d_1", "conv2d_2")
RATE = 0.1
# float32 products in five iterations, each of which triples small singular values, beside float64.
CLOSE = {"rtol": 1e-3, "atol": 2e-4}


def changes(spec, count=3, no_decay=()):
    """The change of each update, on the gradients cos(3 p) of each point."""
    numbers = jax.tree.map(jnp.float32, optimizer_numbers(spec))
    own, params = compiled_optimizer(spec), PARAMS
    state, found = optim.initial(own, jnp.float32(RATE), numbers, params, no_decay), []
    update = jax.jit(optim.update, static_argnums=(0, 6))
    for _ in range(count):
        grads = jax.tree.map(lambda p: jnp.cos(3 * p), params)
        change, state = update(own, jnp.float32(RATE), numbers, grads, state, params, no_decay)
        params = optax.apply_updates(params, change)
        found.append(change)
    return found


def newton_schulz(x, steps):
    a, b, c = COEFFICIENTS
    x = x / np.linalg.norm(x)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def by_hand(spec, kernel, count=3):
    """The change of each update of one kernel [H, W, I, O]."""
    momentum, found = np.zeros_like(kernel), []
    outputs = kernel.shape[-1]
    for _ in range(count):
        grad = np.cos(3 * kernel)
        momentum = spec.momentum * momentum + grad
        ahead = grad + spec.momentum * momentum if spec.nesterov else momentum
        # [O, rest], as torch has its kernels
        direction = newton_schulz(ahead.reshape(-1, outputs).T, spec.ns_steps).T
        change = -RATE * direction.reshape(kernel.shape)
        if spec.normalize:
            change += (outputs**0.5 / np.linalg.norm(kernel) - 1) * kernel
        else:
            change *= max(1, outputs / (kernel.size / outputs)) ** 0.5
        change -= RATE * spec.weight_decay * kernel
        kernel = kernel + change
        found.append(change)
    return found


@pytest.mark.parametrize(
    "spec",
    [Muon(), Muon(0.6, ns_steps=3, normalize=True), Muon(0.9, nesterov=False, weight_decay=0.1)],
    ids=["default", "airbench", "plain"],
)
def test_kernels_change_as_the_algorithm_says(spec):
    for layer in KERNELS:
        expected = by_hand(spec, DRAWN[layer]["kernel"])
        for change, theirs in zip(changes(spec), expected, strict=True):
            np.testing.assert_allclose(change[layer]["kernel"], theirs, **CLOSE)


def test_kernels_change_as_with_optax():
    """Without Nesterov, whose momentum optax corrects for its start."""
    spec = Muon(0.9, nesterov=False)
    numbers = optax.contrib.MuonDimensionNumbers((0, 1, 2), 3)
    which = lambda tree: jax.tree.map(lambda p: numbers if p.ndim == 4 else None, tree)  # noqa: E731
    theirs = optax.contrib.muon(
        RATE, beta=0.9, nesterov=False, muon_weight_dimension_numbers=which, eps=1e-12
    )
    params, state = PARAMS, theirs.init(PARAMS)
    for change in changes(spec):
        grads = jax.tree.map(lambda p: jnp.cos(3 * p), params)
        with jax.numpy_dtype_promotion("standard"):
            expected, state = theirs.update(grads, state, params)
        for layer in KERNELS:
            np.testing.assert_allclose(
                change[layer]["kernel"], expected[layer]["kernel"], rtol=1e-3, atol=1e-4
            )
        params = optax.apply_updates(params, change)


def test_all_other_weights_have_an_optimizer_of_their_own():
    spec = Muon(other=SGD(0.8, nesterov=True, weight_decay=0.2), other_rate=0.5)
    alone = dataclasses.replace(spec.other)
    numbers = jax.tree.map(jnp.float32, optimizer_numbers(alone))
    state = optim.initial(alone, jnp.float32(0.05), numbers, PARAMS, ("*/bias",))
    grads = jax.tree.map(lambda p: jnp.cos(3 * p), PARAMS)
    expected, _ = optim.update(alone, jnp.float32(0.05), numbers, grads, state, PARAMS, ("*/bias",))
    (change,) = changes(spec, 1, no_decay=("*/bias",))
    for layer, leaf in (("conv2d", "bias"), ("dense", "kernel"), ("dense", "bias")):
        np.testing.assert_allclose(change[layer][leaf], expected[layer][leaf], rtol=1e-6)


def test_singular_values_become_about_one():
    found = orthogonal({layer: PARAMS[layer]["kernel"] for layer in KERNELS}, 10)
    for layer, kernel in found.items():
        values = np.linalg.svd(np.asarray(kernel).reshape(-1, kernel.shape[-1]), compute_uv=False)
        assert (values > 0.65).all(), layer
        assert (values < 1.25).all(), layer


def test_patterns_choose_the_weights():
    """A matrix may be changed so too."""
    (change,) = changes(Muon(weights=("dense/kernel",)), 1)
    expected = by_hand(Muon(), DRAWN["dense"]["kernel"], 1)[0]
    np.testing.assert_allclose(change["dense"]["kernel"], expected, **CLOSE)
    adam = changes(Muon(), 1)[0]["conv2d"]["bias"]  # the first step of Adam is rate * sign(grad)
    np.testing.assert_allclose(np.abs(adam), 0.05 * RATE, rtol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Muon(ns_steps=0), "optimizer.ns_steps must be an integer of at least 1 "),
        (lambda: Muon(other=Adam(beta_1=1.0)), "optimizer.beta_1 must be at least 0 and below 1 "),
        (lambda: changes(Muon(weights=("*/bias",)), 1), "optimizer.weights: conv2d/bias is a vec"),
        (lambda: changes(Muon(weights=("nothing",)), 1), "muon finds no convolution kernel; name "),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
