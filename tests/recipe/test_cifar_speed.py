"""The recipes of the speed records beside airbench's own optimizers, restated in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxcnn.bench import flops_per_image
from flaxcnn.engine.job import make_hypers, make_plan
from flaxcnn.model import rules
from flaxcnn.model.muon import COEFFICIENTS
from flaxcnn.recipe.catalog import find
from flaxcnn.recipe.layers import BatchNorm, Conv, Dense, Scale, every
from flaxcnn.recipe.traced import compiled_optimizer, compiled_rules

BATCH, MOMENTUM, BIAS, HEAD, KERNELS = 2000, 0.85, 0.053, 0.67, 0.24  # airbench94_muon
RECIPE = find("cifar-speed/94").config
RANDOM = np.random.default_rng(0)
PARAMS = {
    "conv2d": {"kernel": RANDOM.normal(size=(2, 2, 3, 4)), "bias": RANDOM.normal(size=4)},
    "conv2d_1": {"kernel": RANDOM.normal(size=(3, 3, 4, 8))},
    "batch_normalization": {"bias": RANDOM.normal(size=8)},
    "dense": {"kernel": RANDOM.normal(size=(8, 10)) / 16},
}
FLOAT32 = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), PARAMS)
# float32 sums of some thousand, and products in three iterations that triple small numbers
CLOSE = {"rtol": 2e-4, "atol": 2e-4}


def gradient(step):
    """Of the mean loss, some 1e-3, as those of a network that begins with small logits."""
    return jax.tree.map(lambda p: np.cos(3 * p + step) * 1e-3, PARAMS)


def ours(config, count, scale=1.0):
    """The parameters after some updates of a recipe at its full rate."""
    optimizer, own = compiled_optimizer(config.optimizer), compiled_rules(config)
    hypers, params = make_hypers(config), FLOAT32
    rate, numbers = hypers.learning_rate, hypers.optimizer
    given = rules.at(own, hypers.rules, jnp.float32(0), jnp.float32(0))
    state = rules.initial(optimizer, own, rate, numbers, params)
    for step in range(count):
        grads = jax.tree.map(lambda g: jnp.asarray(scale * g, jnp.float32), gradient(step))
        change, state = rules.update(optimizer, own, rate, numbers, given, grads, state, params)
        params = optax.apply_updates(params, change)
    return params


def torch_sgd(start, rate, grads):
    """`torch.optim.SGD` with Nesterov's momentum, of a loss that is a sum over the batch."""
    weights, kept = start, 0.0
    for grad in grads:
        kept = MOMENTUM * kept + BATCH * grad
        weights = weights - rate * (BATCH * grad + MOMENTUM * kept)
    return weights


def airbench_muon(kernel, grads):
    """Its kernels are [O, I, H, W]."""
    weights, kept = kernel.transpose(3, 2, 0, 1), 0.0
    for grad in grads:
        grad = grad.transpose(3, 2, 0, 1)
        kept = 0.6 * kept + grad
        ahead = grad + 0.6 * kept
        weights = weights * len(weights) ** 0.5 / np.linalg.norm(weights)
        x = ahead.reshape(len(ahead), -1)
        x, tall = x / (np.linalg.norm(x) + 1e-7), len(x) > x.shape[1]
        x = x.T if tall else x
        a, b, c = COEFFICIENTS
        for _ in range(3):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        weights = weights - KERNELS * (x.T if tall else x).reshape(weights.shape)
    return weights.transpose(2, 3, 1, 0)


def test_three_updates_are_those_of_airbench():
    """Without weight decay, which goes through their momentum and not through ours."""
    other = dataclasses.replace(RECIPE.optimizer.other, weight_decay=0.0)
    plain = dataclasses.replace(RECIPE.optimizer, other=other)
    found, count = ours(dataclasses.replace(RECIPE, optimizer=plain, decays=None), 3), 3
    of = lambda layer, name: [gradient(step)[layer][name] for step in range(count)]  # noqa: E731
    for layer in ("conv2d", "batch_normalization"):
        expected = torch_sgd(PARAMS[layer]["bias"], BIAS, of(layer, "bias"))
        np.testing.assert_allclose(found[layer]["bias"], expected, **CLOSE)
    # Their head has 16 times the weights, of logits divided by 256 in place of 16
    grads = [grad / 16 for grad in of("dense", "kernel")]
    expected = torch_sgd(16 * PARAMS["dense"]["kernel"], HEAD, grads)
    np.testing.assert_allclose(16 * found["dense"]["kernel"], expected, **CLOSE)
    kernel = airbench_muon(PARAMS["conv2d_1"]["kernel"], of("conv2d_1", "kernel"))
    np.testing.assert_allclose(found["conv2d_1"]["kernel"], kernel, **CLOSE)
    np.testing.assert_array_equal(found["conv2d"]["kernel"], FLOAT32["conv2d"]["kernel"])


def decays(config):
    """The share that each weight loses in an update without a gradient."""
    after = ours(config, 1, scale=0.0)
    return jax.tree.map(lambda a, b: np.median(1 - np.asarray(a) / b), after, PARAMS)


def test_all_weights_but_kernels_decay_alike():
    """As theirs once the momentum has settled: 2e-6 * 2000 / (1 - 0.85) an update, at most."""
    lost = decays(RECIPE)
    of_each = [lost["conv2d"]["bias"], lost["batch_normalization"]["bias"], lost["dense"]["kernel"]]
    np.testing.assert_allclose(of_each, 2e-6 * BATCH / (1 - MOMENTUM), rtol=1e-3)
    assert abs(lost["conv2d"]["kernel"]) < 1e-6  # float32 beside float64
    # 96: 0.012 * 1024 / 7850.67 an update, of all, through the same momentum
    lost = decays(find("cifar-speed/96").config)
    del lost["conv2d"]["kernel"]
    expected = 0.012 * 1024 / 7850.67 / (1 - MOMENTUM)
    np.testing.assert_allclose(jax.tree.leaves(lost), expected, rtol=1e-3)


def test_the_rates_of_96():
    """9 / 7850.67 of a sum of 1,024 losses; 64 times as much for the biases of normalisation."""
    config = find("cifar-speed/96").config
    assert config.learning_rate == pytest.approx(9 / 7850.67 * 1024, rel=1e-5)
    assert config.rates.named["batch_normalization*/bias"] == 64
    assert (config.batch_size, config.epochs, config.label_smoothing) == (1024, 37, 0.2)
    assert config.optimizer.momentum == 0.85
    # PyTorch's weights of a dense layer are uniform within 1 / sqrt(inputs), logits divided by 9
    dense, scale = config.layers[-2:]
    (initial,) = (jax.nn.initializers.lecun_uniform()(jax.random.key(0), (512, 10)),)
    assert initial.std() * scale.factor == pytest.approx(512**-0.5 / 3**0.5 / 9, rel=0.05)
    assert config.rates.named["dense/kernel"] * scale.factor**2 == pytest.approx(1 / 81)
    assert dense.init == "lecun_uniform"


def test_a_run_is_two_hundred_updates_of_a_quarter_of_a_petaflop():
    """airbench's 0.29 PFLOP are three forward passes; the gradient of the images is not needed."""
    plan = make_plan(RECIPE, 50_000)
    assert plan.steps_per_epoch * RECIPE.epochs == 200
    flops = flops_per_image(RECIPE, (32, 32, 3), "train", 10) * 400_000
    assert flops == pytest.approx(0.29e15, rel=0.03)
    norms = [layer for layer in every(RECIPE.layers) if isinstance(layer, BatchNorm)]
    assert {(norm.momentum, norm.epsilon, norm.scale) for norm in norms} == {(0.6, 1e-12, False)}
    convolutions = [layer for layer in RECIPE.layers if isinstance(layer, Conv)]
    assert [layer.init for layer in convolutions] == ["whiten", *["dirac"] * 6]
    *_, head, scale = RECIPE.layers
    assert (head, scale) == (Dense(10, init="lecun_uniform", bias=False), Scale(1 / 16))
