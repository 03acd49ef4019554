"""The forms that layers have on a GPU or TPU, run here: the same values as the CPU's, and plain.

They are ordinary jax programs, so any back end can run them; which one a program gets is decided by
the devices it is compiled for.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.test_util import check_grads
from test_kernels import FLOAT32, f32, normal, pull_back

from flaxcnn.engine.metrics import batch_sums
from flaxcnn.model.cnn import CNN
from flaxcnn.model.kernels import add_bias, conv2d, flatten
from flaxcnn.model.layout import on_cpu
from flaxcnn.model.pooled_norm import Windows, batch_norm_max_pool
from flaxcnn.model.pooling import max_pool2d
from flaxcnn.model.regularization import batch_norm
from flaxcnn.recipe.layers import (
    Activation,
    BatchNorm,
    Conv,
    Dense,
    Flatten,
    MaxPool,
    Residual,
)

ELSEWHERE = pytest.mark.parametrize("platform", ["gpu", "tpu"])
# float32 sums of some hundred squares, of values within a few units of the center.
ONE_PASS = {"rtol": 1e-5, "atol": 1e-6}

# Gradients of one leaf are sums of some thousand terms of either sign: float32 rounding is relative
# to the largest of them, not to what is left of them.
OF_THE_LARGEST = 1e-4


def test_without_a_word_it_is_jaxs_own_platform():
    assert on_cpu(None) == (jax.default_backend() == "cpu")
    assert on_cpu("cpu")
    assert not on_cpu("tpu")


@ELSEWHERE
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("channels", [1, 2])  # one is a form of its own on a TPU
def test_conv_and_its_gradients(platform, padding, channels):
    x, w = normal(0, 3, 9, 8, channels), normal(1, 3, 4, channels, 5)
    expected = reference.conv2d(x, w, (1, 2), padding)
    dy = normal(2, *expected.shape)
    y, *found = pull_back(lambda x, w: conv2d(x, w, (1, 2), padding, platform), *f32(dy, x, w))
    np.testing.assert_allclose(y, expected, **FLOAT32)
    for ours, theirs in zip(found, reference.conv2d_grad(x, w, (1, 2), padding, dy), strict=True):
        np.testing.assert_allclose(ours, theirs, **FLOAT32)


@ELSEWHERE
@pytest.mark.parametrize("size", [(2, 2), (3, 2), (17, 16)], ids=["2x2", "3x2", "272 places"])
def test_max_pool_and_its_gradient(platform, size):
    x = np.round(normal(0, 2, 18, 17, 3))  # ties
    expected = reference.max_pool2d(x, size, size, "same")
    dy = normal(1, *expected.shape)
    y, dx = pull_back(lambda x: max_pool2d(x, size, size, "same", platform), *f32(dy, x))
    np.testing.assert_array_equal(y, expected.astype(np.float32))
    np.testing.assert_allclose(dx, reference.max_pool2d_grad(x, size, size, "same", dy), **FLOAT32)


def test_the_gradient_of_a_maximum_of_two_byte_values():
    """On a TPU a value and its place travel as one word: no bit of a value is lost."""
    odd = jnp.asarray([-0.0, jnp.inf, jnp.nan], jnp.bfloat16)
    x = jnp.asarray(np.round(normal(0, 2, 9, 8, 3)), jnp.bfloat16)
    dy = jnp.asarray(normal(1, 2, 4, 4, 3), jnp.bfloat16).at[0, 0, 0].set(odd)
    pull = lambda where: pull_back(  # noqa: E731
        lambda x: max_pool2d(x, (2, 2), (2, 2), "valid", where), dy, x
    )
    for ours, theirs in zip(pull("tpu"), pull("cpu"), strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_array_equal(ours.astype(np.float32), theirs.astype(np.float32))


POOLS = {
    "2x2": Windows((2, 2), (2, 2), "valid"),
    "rest": Windows((3, 2), (3, 2), "valid"),  # rows and columns in no window
    "overlapping, padded": Windows((3, 3), (2, 2), "same"),
}


@ELSEWHERE
@pytest.mark.parametrize("windows", POOLS.values(), ids=POOLS)
@pytest.mark.parametrize("true_rows", [5, 3])
def test_a_maximum_with_the_normalisation_before_it(platform, windows, true_rows):
    """As one after the other, where channels rise, fall and are all the same."""
    x, center = f32(normal(0, 5, 8, 7, 4), normal(1, 4))
    scale, bias = jnp.asarray([1.5, -0.5, 0.0, 0.1]), f32(normal(2, 4))[0]
    mask = jnp.arange(5) < true_rows
    given = (mask, 1e-3, None, platform, center)

    def apart(x, scale, bias):
        y, statistics = batch_norm(x, scale, bias, *given)
        pool = (windows.size, windows.stride, windows.padding)
        return max_pool2d(y, *pool, platform), statistics

    together = lambda x, scale, bias: batch_norm_max_pool(x, scale, bias, *given, windows)  # noqa: E731
    shape = jax.eval_shape(together, x, scale, bias)[0].shape
    dy = jnp.where(mask[:, None, None, None], f32(normal(3, *shape))[0], 0.0)
    found, expected = (
        jax.vjp(function, x, scale, bias, has_aux=True) for function in (together, apart)
    )
    np.testing.assert_allclose(found[0], expected[0], **FLOAT32)
    for ours, theirs in zip(found[2], expected[2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    (dx, dscale, dbias), (like, dlike, blike) = found[1](dy), expected[1](dy)
    np.testing.assert_allclose(dx, like, **FLOAT32)
    np.testing.assert_allclose(dbias, blike, **FLOAT32)
    # Of a channel that is the same everywhere, every pixel of a window is as good a largest one.
    moving = np.asarray(scale) != 0
    np.testing.assert_allclose(dscale[moving], dlike[moving], **FLOAT32)


@ELSEWHERE
def test_bias_and_flatten(platform):
    x, bias, dy = f32(normal(0, 6, 4, 2, 3), normal(1, 3), normal(2, 6, 4, 2, 3))
    y, dx, db = pull_back(lambda x, b: add_bias(x, b, platform), dy, x, bias)
    np.testing.assert_array_equal(y, np.asarray(x) + np.asarray(bias))
    np.testing.assert_array_equal(dx, dy)
    np.testing.assert_allclose(db, np.asarray(dy, np.float64).sum((0, 1, 2)), **FLOAT32)
    np.testing.assert_array_equal(flatten(x, platform), x.reshape(6, -1))


@ELSEWHERE
@pytest.mark.parametrize("mean", [0.0, 100.0])
@pytest.mark.parametrize("true_rows", [7, 4, 0])
def test_statistics_in_one_pass(platform, mean, true_rows):
    """Near the center nothing cancels, however far from 0 that is."""
    x = normal(0, 7, 5, 4, 3) + mean
    mask = jnp.arange(7) < true_rows
    scale, bias = f32(normal(1, 3), normal(2, 3))
    center = jnp.full(3, mean + 0.3, jnp.float32)
    _, (got_mean, got_var) = batch_norm(
        *f32(x), scale, bias, mask, 1e-3, None, platform, center=center
    )
    true = x[:true_rows].reshape(-1, 3) if true_rows else np.full((1, 3), mean + 0.3)
    np.testing.assert_allclose(got_mean, true.mean(0), **ONE_PASS)
    np.testing.assert_allclose(got_var, true.var(0), rtol=1e-4, atol=1e-6)


@ELSEWHERE
def test_a_constant_far_from_the_center_has_no_negative_variance(platform):
    x = jnp.full((8, 16, 16, 2), 1234.567, jnp.float32)
    y, (_, var) = batch_norm(
        x, jnp.ones(2), jnp.zeros(2), None, 1e-3, None, platform, center=jnp.zeros(2)
    )
    assert (var >= 0).all()
    assert jnp.isfinite(y).all()


@ELSEWHERE
@pytest.mark.parametrize("true_rows", [5, 3])
def test_batch_norm_gradients_equal_finite_differences(platform, true_rows):
    x, scale, bias, weights, center = f32(
        normal(0, 5, 3, 2, 4), normal(1, 4), normal(2, 4), normal(3, 5, 3, 2, 4), normal(4, 4)
    )
    mask = jnp.arange(5) < true_rows

    def loss(x, scale, bias):
        y, _ = batch_norm(x, scale, bias, mask, 1e-3, None, platform, center=center)
        return (y * weights).sum(where=mask[:, None, None, None])

    check_grads(jax.jit(loss), (x, scale, bias), order=1, modes=["rev"], eps=1e-2)


@ELSEWHERE
def test_a_network_has_the_same_gradients(platform):
    """All forms together, batch statistics too, against the CPU's."""
    layers = (Conv(4, 3, padding="same", activation="relu"), BatchNorm(), MaxPool(2),
              Conv(5, 3, activation="relu"), Flatten(), Dense(3))  # fmt: skip
    (image,) = f32(normal(0, 6, 10, 9, 2))
    variables = CNN(layers).init(jax.random.key(0), image, train=False)

    def gradients(model):
        def loss(params):
            every = {"params": params, "batch_stats": variables["batch_stats"]}
            logits, new = model.apply(every, image, train=True, mutable=["batch_stats"])
            return jnp.square(logits).sum(), new

        return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])

    ours, theirs = gradients(CNN(layers, platform=platform)), gradients(CNN(layers))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=OF_THE_LARGEST * float(jnp.abs(b).max()))


SLOPED = Activation("leaky_relu", slope=0.2)
POOLED = {
    "a convolution's own activation": (Conv(4, 3, activation="relu"), MaxPool(2)),
    "none": (Conv(4, 3), MaxPool(3, stride=2, padding="same")),
    "a layer of its own": (Conv(4, 3), SLOPED, MaxPool(2)),
    "after normalisation": (Conv(4, 3, bias=False), BatchNorm(), Activation("relu"), MaxPool(2)),
    "normalisation alone": (Conv(4, 3, activation="relu"), BatchNorm(), MaxPool(2)),
    "one that falls": (Conv(4, 3, activation="gelu"), MaxPool(2)),
    "one that falls, of its own": (Conv(4, 3), Activation("silu"), MaxPool(2)),
    "a negative slope": (Activation("leaky_relu", slope=-0.5), MaxPool(2)),
    "in a residual": (Residual((Conv(2, 1, activation="tanh"), MaxPool(2)), (MaxPool(2),)),),
}


@ELSEWHERE
@pytest.mark.parametrize("layers", POOLED.values(), ids=POOLED)
def test_pooling_before_bias_and_activation_changes_nothing(platform, layers):
    """Where the maximum is taken early, and where it must not be; and names stay the same."""
    layers = (*layers, Flatten(), Dense(3))
    (image,) = f32(normal(0, 4, 9, 8, 2))
    found = {}
    for where in ("cpu", platform):
        model = CNN(layers, platform=where)
        variables = model.init(jax.random.key(0), image, train=False)
        variables.pop("alive", None)
        # Biases that start at 0 would not tell
        params = jax.tree.map(lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size)).reshape(p.shape),
                              variables["params"])  # fmt: skip
        every = {**variables, "params": params}
        apply = functools.partial(model.apply, train=True, mutable=["batch_stats"])
        loss = lambda e: jnp.square(apply(e, image)[0]).sum()  # noqa: B023, E731
        found[where] = apply(every, image)[0], jax.jit(jax.grad(loss))(every)["params"]
    assert jax.tree.structure(found["cpu"]) == jax.tree.structure(found[platform])
    for a, b in zip(jax.tree.leaves(found[platform]), jax.tree.leaves(found["cpu"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=OF_THE_LARGEST * float(jnp.abs(b).max()))


def test_normalisation_too_is_of_the_pooled_map_alone():
    """Forward and for the gradients of its scale and bias; only the input's is of the whole map."""
    model = CNN((BatchNorm(), Activation("relu"), MaxPool(2)), platform="tpu")
    image = jnp.ones((2, 8, 8, 4))
    variables = model.init(jax.random.key(0), image, train=False)

    def loss(params):
        every = {"params": params, "batch_stats": variables["batch_stats"]}
        return model.apply(every, image, train=True, mutable=["batch_stats"])[0].sum()

    text = jax.jit(jax.grad(loss)).lower(variables["params"]).as_text()
    whole = "tensor<2x8x8x4xf32>"
    made = {op for line in text.splitlines() if line.rstrip().endswith(whole)
            for op in re.findall(r"stablehlo\.(\w+)", line)}  # fmt: skip
    assert "subtract" in made  # x - center, for the statistics
    assert not made & {"add", "maximum", "select"}, made  # normalised, relu and its gradient


def test_pooling_early_leaves_a_quarter_of_the_values():
    """Bias, activation and their gradients at the size of the pooled map."""
    model = CNN((Conv(4, 3, padding="same", activation="relu"), MaxPool(2)), platform="tpu")
    image = jnp.ones((2, 8, 8, 1))
    params = model.init(jax.random.key(0), image, train=False)["params"]
    text = jax.jit(lambda p: model.apply({"params": p}, image, train=False)).lower(params).as_text()
    (added,) = [line for line in text.splitlines() if "stablehlo.add" in line]
    assert "tensor<2x4x4x4xf32>" in added


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_products_have_the_precision_that_is_asked_for(precision):
    """In every convolution and matrix product of a step, forward and back."""
    layers = (Conv(4, 3, activation="relu"), Flatten(), Dense(3))
    model = CNN(layers, platform="tpu", products=precision)
    image = jnp.ones((2, 6, 6, 1))
    params = model.init(jax.random.key(0), image, train=False)["params"]
    step = jax.jit(jax.grad(lambda p: model.apply({"params": p}, image, train=True).sum()))
    text = step.trace(params).lower(lowering_platforms=("tpu",)).as_text()
    lines = [line for line in text.splitlines()
             if "stablehlo.convolution" in line or "stablehlo.dot_general" in line]  # fmt: skip
    assert len(lines) >= 4
    name = {"highest": "HIGHEST", "high": "HIGH"}[precision]
    assert all(f"[{name}, {name}]" in line.replace("#stablehlo<precision ", "").replace(">", "")
               for line in lines), lines  # fmt: skip


@ELSEWHERE
@pytest.mark.parametrize("smoothing", [None, 0.1])
def test_the_loss_and_its_gradient(platform, smoothing):
    """Of the true rows, however the label's logit is found."""
    (logits,), label, mask = f32(normal(0, 6, 4)), jnp.arange(6) % 4, jnp.arange(6) < 5
    smooth = None if smoothing is None else jnp.float32(smoothing)

    def loss(logits, where):
        return batch_sums(logits, label, mask, smooth, platform=where).loss

    for function in (loss, jax.grad(loss)):
        np.testing.assert_allclose(function(logits, platform), function(logits, "cpu"), **FLOAT32)
