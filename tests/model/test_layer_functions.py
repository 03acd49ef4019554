"""Layers beside convolution, dense and pooling: counts, values, gradients, both precisions."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax.test_util import check_grads

from flaxcnn.errors import ConfigError
from flaxcnn.model.cnn import ALIVE, CNN
from flaxcnn.model.depthwise import depthwise2d
from flaxcnn.model.grouped import grouped2d
from flaxcnn.model.weighted import dirac
from flaxcnn.recipe.layers import (
    BatchNorm,
    BlurPool,
    ChannelShuffle,
    Conv,
    DepthwiseConv,
    EfficientChannelAttention,
    GlobalMaxPool,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LayerScale,
    PadChannels,
    Parallel,
    Residual,
    RMSNorm,
    Scale,
    SeparableConv,
    SqueezeExcitation,
    StochasticDepth,
    TakeChannels,
    table,
)
from flaxcnn.rng import row_keys

FLOAT32 = {"rtol": 2e-5, "atol": 2e-5}  # a few roundings of numbers of about 1
BFLOAT16 = {"rtol": 4e-2, "atol": 4e-2}  # 8 bits, rounded at each of some operations
SHAPE = (7, 6, 8)
RELU = reference.ACTIVATIONS["relu"]


def separable(layer, p, x):
    between = reference.depthwise_conv2d(x, p["depthwise_kernel"], (2, 2), "same")
    return RELU(reference.conv2d(between, p["pointwise_kernel"], (1, 1), "valid") + p["bias"])


def attention(layer, p, x):
    names = ("squeeze_kernel", "squeeze_bias", "excite_kernel", "excite_bias")
    return reference.squeeze_excitation(x, *(p[name] for name in names))


def normed(function):
    return lambda layer, p, x: function(layer, x) * p["scale"] + p.get("bias", 0)


def filtered(function):
    return lambda layer, p, x: function(layer, p["kernel"], x) + p.get("bias", 0)


# A layer, and what it does to x with weights p, in NumPy.
LAYERS = {
    "dilated": (
        Conv(4, 3, 2, "same", dilation=2),
        filtered(lambda o, w, x: reference.grouped_conv2d(x, w, (2, 2), "same", 2)),
    ),
    "dilated valid": (
        Conv(4, (2, 3), dilation=2, bias=False),
        filtered(lambda o, w, x: reference.grouped_conv2d(x, w, (1, 1), "valid", 2)),
    ),
    "grouped": (
        Conv(12, 3, 1, "same", groups=4),
        filtered(lambda o, w, x: reference.grouped_conv2d(x, w, (1, 1), "same", 1, 4)),
    ),
    "all groups": (
        Conv(16, 3, 2, groups=8),
        filtered(lambda o, w, x: reference.grouped_conv2d(x, w, (2, 2), "valid", 1, 8)),
    ),
    "depthwise": (
        DepthwiseConv(3, 1, "same"),
        filtered(lambda o, w, x: reference.depthwise_conv2d(x, w, (1, 1), "same")),
    ),
    "depthwise strided": (
        DepthwiseConv((3, 2), (2, 1), "same", 2, bias=False),
        filtered(lambda o, w, x: reference.depthwise_conv2d(x, w, (2, 1), "same")),
    ),
    "depthwise dilated": (
        DepthwiseConv(3, dilation=2),
        filtered(lambda o, w, x: reference.depthwise_conv2d(x, w, (1, 1), "valid", 2)),
    ),
    "separable": (SeparableConv(5, 3, 2, "same", 2, "relu"), separable),
    "group": (GroupNorm(4), normed(lambda o, x: reference.group_norm(x, 4, 1e-3))),
    "instance": (InstanceNorm(), normed(lambda o, x: reference.normalized(x, (1, 2), 1e-3))),
    "layer": (LayerNorm(), normed(lambda o, x: reference.normalized(x, -1, 1e-3))),
    "rms": (RMSNorm(), normed(lambda o, x: reference.normalized(x, -1, 1e-6, center=False))),
    "squeeze": (SqueezeExcitation(4), attention),
    "eca": (
        EfficientChannelAttention(),
        lambda o, p, x: reference.efficient_channel_attention(x, p["kernel"].ravel()),
    ),
    "layer scale": (LayerScale(0.5), lambda o, p, x: p["scale"] * x),
    "scale": (Scale(-0.25), lambda o, p, x: -0.25 * x),
    "max": (GlobalMaxPool(), lambda o, p, x: x.max((1, 2))),
    "blur": (BlurPool(), lambda o, p, x: reference.blur_pool2d(x, 3, 2)),
    "blur 4": (BlurPool(4, 1), lambda o, p, x: reference.blur_pool2d(x, 4, 1)),
    "shuffle": (ChannelShuffle(2), lambda o, p, x: x[..., [0, 4, 1, 5, 2, 6, 3, 7]]),
    "take": (TakeChannels(2, 3), lambda o, p, x: x[..., 2:5]),
    "pad": (PadChannels(11), lambda o, p, x: np.pad(x, [(0, 0)] * 3 + [(0, 3)])),
    "concat": (
        Parallel(((), (Scale(2.0),))), lambda o, p, x: np.concatenate([x, 2 * x], axis=-1),
    ),
    "add": (Parallel(((), (Scale(2.0),), ()), "add"), lambda o, p, x: 4 * x),
}  # fmt: skip


def made(layer, shape=SHAPE, dtype=jnp.float32):
    """(function of variables and x, random weights)."""
    model = CNN((layer,), dtype)
    like = jax.eval_shape(
        functools.partial(model.init, train=False), jax.random.key(0), jnp.zeros((1, *shape))
    )
    random = np.random.default_rng(2)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(random.normal(size=leaf.shape), jnp.float32),
        like.get("params", {}),
    )
    apply = functools.partial(model.apply, train=False)
    return (lambda params, x: apply({"params": params}, x)), params


def images(shape=SHAPE, rows=3):
    return np.random.default_rng(1).normal(size=(rows, *shape))


@pytest.mark.parametrize("name", LAYERS)
def test_layers_against_numpy(name):
    """Values, the table's counts, gradients, and the same in bfloat16."""
    layer, expected = LAYERS[name]
    function, params = made(layer)
    (row, *_) = table((layer,), SHAPE)
    own = params.get(row.name, {})
    x = images()
    exact = expected(layer, jax.tree.map(np.asarray, own), x)
    found = jax.jit(function)(params, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, exact, **FLOAT32)
    assert exact.shape[1:] == row.output
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == row.params
    few = jnp.asarray(images((7, 6, 8), 1), jnp.float32)
    check_grads(jax.jit(function), (params, few), 1, ["rev"], atol=1e-2, rtol=1e-2)
    short, _ = made(layer, dtype=jnp.bfloat16)
    size = np.abs(exact).max()
    rough = jax.jit(short)(params, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(rough / size, exact / size, **BFLOAT16)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(("stride", "dilation"), [((1, 1), 1), ((2, 3), 1), ((1, 1), 2)])
def test_forms_for_cpu_are_those_of_xla(padding, stride, dilation):
    """Values and gradients of depthwise and grouped convolutions on each platform."""
    x = jnp.asarray(images((9, 8, 12), 2), jnp.float32)
    own = jnp.asarray(images((3, 12, 2), 3), jnp.float32)
    grouped = jnp.asarray(images((3, 2, 24), 3), jnp.float32)

    def of(form, where, w):
        def loss(x, w):
            return (form(x, w, stride, padding, platform=where) ** 2).sum()

        return jax.jit(jax.value_and_grad(loss, (0, 1)))(x, w)

    depth = functools.partial(depthwise2d, dilation=dilation)
    parts = functools.partial(grouped2d, dilation=dilation, groups=6)
    for form, w in ((depth, own), (parts, grouped)):
        ours, theirs = (jax.tree.leaves(of(form, where, w)) for where in ("cpu", "gpu"))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


def test_dirac_hands_its_input_on():
    x = jnp.asarray(images(), jnp.float32)
    model = CNN((Conv(12, 3, padding="same", init="dirac", bias=False),))
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), x)
    y = jax.jit(functools.partial(model.apply, train=False))(variables, x)
    np.testing.assert_allclose(y[..., :8], x, rtol=0, atol=1e-6)  # sums with zeros
    beyond = np.asarray(variables["params"]["conv2d"]["kernel"][..., 8:])
    edge = 1 / math.sqrt(9 * 8)
    assert 0.9 * edge < np.abs(beyond).max() <= edge
    few = dirac(jax.random.key(0), (3, 3, 8, 4))
    assert few.sum() == 4


@pytest.mark.parametrize(("scale", "bias"), [(False, True), (True, False), (False, False)])
def test_batch_norm_without_a_vector_is_one_with_constants(scale, bias):
    x = jnp.asarray(images(), jnp.float32)
    layer = BatchNorm(scale=scale, bias=bias)
    model, whole = CNN((layer,)), CNN((BatchNorm(),))
    variables = model.init(jax.random.key(0), x, train=False)
    like = whole.init(jax.random.key(0), x, train=False)
    assert set(variables.get("params", {}).get("batch_normalization", {})) == {
        *["scale"] * scale, *["bias"] * bias,
    }  # fmt: skip
    found, expected = (
        m.apply(v, x, train=True, mutable=["batch_stats"])
        for m, v in ((model, variables), (whole, like))
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert layer.params(SHAPE) == ((scale + bias) * 8, 16)


def test_stochastic_depth_drops_whole_images_by_their_keys():
    x = jnp.asarray(images(rows=2000, shape=(2, 2, 1)), jnp.float32)
    model, rows = CNN((StochasticDepth(0.25),)), jnp.arange(2000, dtype=jnp.int32)
    keys = row_keys(jax.random.key(3), rows)
    apply = jax.jit(functools.partial(model.apply, {}, train=True))
    y = np.asarray(apply(x, dropout_key=keys))
    kept = np.abs(y).sum((1, 2, 3)) > 0
    # 4 standard deviations of a share of 2000
    assert abs(kept.mean() - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 2000)
    np.testing.assert_allclose(y[kept], np.asarray(x)[kept] / 0.75, rtol=1e-6)
    backwards = apply(x[::-1], dropout_key=keys[::-1])
    np.testing.assert_array_equal(backwards[::-1], y)
    np.testing.assert_array_equal(model.apply({}, x, train=False), x)
    other = apply(x, dropout_key=keys, dropout_rate=jnp.asarray([0.5]))
    assert np.abs(np.asarray(other)).max() == pytest.approx(2 * np.abs(x).max(), rel=0.5)


def test_names_within_joins_are_those_of_the_table():
    branch = (BatchNorm(), Conv(2, 3, padding="same"))
    layers = (Residual((*branch, Parallel(((), branch))), (Conv(4, 1),)), Conv(2, 1))
    rows = [row for row in table(layers, (5, 5, 3)) if row.params]
    made = jax.eval_shape(
        functools.partial(CNN(layers).init, train=False), jax.random.key(0), jnp.zeros((1, 5, 5, 3))
    )
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(own))
             for name, own in made["params"].items() if name != ALIVE}  # fmt: skip
    assert sizes == {row.name: row.trainable for row in rows}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Conv(5, groups=2), "conv.groups=2 must divide filters=5"),
        (lambda: Conv(6, groups=3).out((5, 5, 4)), "groups=3 must divide its 4 input channels"),
        (lambda: Conv(6, dilation=3).out((5, 5, 4)), "kernel 7x7 does not fit its 5x5 input"),
        (lambda: DepthwiseConv(multiplier=0), "depthwiseconv.multiplier must be an integer"),
        (lambda: GroupNorm(3).out((5, 5, 4)), "groups=3 must divide its 4"),
        (lambda: BlurPool(5).out((2, 2, 4)), "mirrors 2 pixels at each edge"),
        (lambda: EfficientChannelAttention(4), "kernel must be an odd number"),
        (lambda: SqueezeExcitation().out((4,)), r"needs a map \(H, W, C\)"),
        (lambda: TakeChannels(3, 2).out((5, 5, 4)), "end after its 4 channels"),
        (lambda: PadChannels(3).out((5, 5, 4)), "is below its 4 input channels"),
        (lambda: ChannelShuffle(3).out((5, 5, 4)), "groups=3 must divide its 4"),
        (lambda: Parallel(((),)), "two lists of layers or more"),
        (lambda: Parallel(((), (Conv(2),))).out((5, 5, 2)), "which do not fit"),
        (lambda: StochasticDepth(1.0), "stochasticdepth.rate must be at least 0 and below 1"),
    ],
)
def test_layers_that_cannot_be(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
