"""Geometry and counts of layers, against counting by hand and against XLA's own shapes."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool,
    MaxPool,
    Residual,
    chain,
    check_model,
    pair,
    table,
    totals,
)

SIDES = st.integers(1, 24)
PAIRS = st.one_of(st.integers(1, 5), st.tuples(st.integers(1, 5), st.integers(1, 5)))
PADDINGS = st.sampled_from(["valid", "same"])


def positions(side: int, size: int, stride: int, padding: str) -> list[int]:
    """First pixel of every window, by trying them all."""
    starts = range(0, side, stride)
    return [s for s in starts if padding == "same" or s + size <= side]


@given(h=SIDES, w=SIDES, c=st.integers(1, 4), f=st.integers(1, 5), kernel=PAIRS, stride=PAIRS,
       padding=PADDINGS, bias=st.booleans())  # fmt: skip
def test_conv_counts_what_counting_by_hand_finds(h, w, c, f, kernel, stride, padding, bias):
    layer = Conv(f, kernel, stride, padding, bias=bias)
    (kh, kw), (sh, sw) = pair(kernel, "kernel"), pair(stride, "stride")
    rows, columns = positions(h, kh, sh, padding), positions(w, kw, sw, padding)
    if not rows or not columns:
        with pytest.raises(ConfigError, match="does not fit"):
            layer.out((h, w, c))
        return
    assert layer.out((h, w, c)) == (len(rows), len(columns), f)
    weights = np.zeros((kh, kw, c, f)).size + (np.zeros(f).size if bias else 0)
    assert layer.params((h, w, c)) == (weights, 0)
    products = sum(kh * kw * c for _ in itertools.product(rows, columns, range(f)))
    assert layer.macs((h, w, c)) == products


@given(h=SIDES, w=SIDES, size=PAIRS, stride=st.none() | PAIRS, padding=PADDINGS,
       kind=st.sampled_from([MaxPool, AvgPool]))  # fmt: skip
def test_pool_counts_what_counting_by_hand_finds(h, w, size, stride, padding, kind):
    layer = kind(size, stride, padding)
    (kh, kw), (sh, sw) = pair(size, "size"), pair(size if stride is None else stride, "stride")
    rows, columns = positions(h, kh, sh, padding), positions(w, kw, sw, padding)
    if not rows or not columns:
        with pytest.raises(ConfigError, match="does not fit"):
            layer.out((h, w, 3))
        return
    assert layer.out((h, w, 3)) == (len(rows), len(columns), 3)


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("kernel", [1, 2, 4, 7, (2, 5)])
@pytest.mark.parametrize("stride", [1, 2, 3, (3, 2)])
@pytest.mark.parametrize("side", [7, 9, 28])
def test_shapes_are_those_of_xla(padding, kernel, stride, side):
    jax = pytest.importorskip("jax")
    size, strides = pair(kernel, "kernel"), pair(stride, "stride")
    image = jax.ShapeDtypeStruct((1, side, side + 2, 3), "float32")
    weight = jax.ShapeDtypeStruct((*size, 3, 5), "float32")

    def convolve(x, k):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, k, strides, padding.upper(), dimension_numbers=dimensions
        )

    def pool(x):
        window, steps = (1, *size, 1), (1, *strides, 1)
        return jax.lax.reduce_window(x, -np.inf, jax.lax.max, window, steps, padding.upper())

    shape = (side, side + 2, 3)
    assert (
        Conv(5, kernel, stride, padding).out(shape)
        == (jax.eval_shape(convolve, image, weight).shape[1:])
    )
    assert MaxPool(kernel, stride, padding).out(shape) == jax.eval_shape(pool, image).shape[1:]


@given(units=st.integers(1, 50), features=st.integers(1, 50), bias=st.booleans())
def test_dense_counts(units, features, bias):
    layer = Dense(units, bias=bias)
    assert layer.out((features,)) == (units,)
    assert layer.params((features,)) == (features * units + (units if bias else 0), 0)
    assert layer.macs((features,)) == features * units


@pytest.mark.parametrize("shape", [(5,), (4, 3, 5)])
def test_batch_norm_has_two_vectors_to_train_and_two_moving_ones(shape):
    assert BatchNorm().params(shape) == (10, 10)
    assert BatchNorm().out(shape) == shape


@given(shape=st.tuples(SIDES, SIDES, st.integers(1, 8)))
def test_flatten_keeps_every_value_and_global_pooling_the_channels(shape):
    assert Flatten().out(shape) == (math.prod(shape),)
    assert GlobalAvgPool().out(shape) == (shape[-1],)
    assert Dropout(0.5).out(shape) == Activation("relu").out(shape) == shape


def test_names_are_those_of_keras_by_order_of_appearance():
    layers = (Conv(2), Activation("leaky_relu", 0.3), Conv(2), Activation("tanh"), MaxPool(),
              AvgPool(1), BatchNorm(), Dropout(0.1), Dropout(0.2), Activation("leaky_relu"),
              GlobalAvgPool(), Flatten(), Dense(3), Dense(2))  # fmt: skip
    assert [row.name for row in table(layers, (9, 9, 1))] == [
        "conv2d", "leaky_re_lu", "conv2d_1", "activation", "max_pooling2d", "average_pooling2d",
        "batch_normalization", "dropout", "dropout_1", "leaky_re_lu_1",
        "global_average_pooling2d", "flatten", "dense", "dense_1",
    ]  # fmt: skip


def test_rows_chain_their_shapes():
    layers = (Conv(4, 3), MaxPool(2), Flatten(), Dense(10))
    rows = table(layers, (8, 8, 1))
    assert [(row.input, row.output) for row in rows] == [
        ((8, 8, 1), (6, 6, 4)),
        ((6, 6, 4), (3, 3, 4)),
        ((3, 3, 4), (36,)),
        ((36,), (10,)),
    ]
    assert chain(layers, (8, 8, 1)) == rows[-1].output


def test_a_residual_block_lists_its_inner_layers_and_counts_them_once():
    block = Residual(
        layers=(Conv(8, 3, 2, "same", bias=False), BatchNorm(), Conv(8, 3, padding="same")),
        shortcut=(Conv(8, 1, 2),),
    )
    rows = table((Conv(4), block, Conv(2, 1)), (10, 10, 3))
    assert [row.name for row in rows] == [
        "conv2d", "residual", "conv2d_1", "batch_normalization", "conv2d_2", "conv2d_3", "conv2d_4",
    ]  # fmt: skip
    assert rows[1].output == (4, 4, 8)
    assert rows[1].params == rows[1].macs == 0
    assert rows[6].input == (4, 4, 8)
    by_hand = [
        3 * 3 * 3 * 4 + 4, 3 * 3 * 4 * 8, 2 * 8, 3 * 3 * 8 * 8 + 8, 4 * 8 + 8, 8 * 2 + 2,
    ]  # fmt: skip
    assert totals(rows) == {
        "params": sum(by_hand) + 2 * 8,
        "trainable_params": sum(by_hand),
        "non_trainable_params": 2 * 8,
        "macs": 8 * 8 * 4 * 27 + 16 * (8 * 36 + 8 * 72 + 8 * 4 + 2 * 8),
        "bytes": 4 * (sum(by_hand) + 2 * 8),
    }


def test_an_empty_shortcut_is_the_identity():
    assert Residual((Conv(3, 3, padding="same"),)).out((5, 5, 3)) == (5, 5, 3)
    with pytest.raises(ConfigError, match=r"\(5, 5, 4\) but its shortcut gives \(5, 5, 3\)"):
        Residual((Conv(4, 3, padding="same"),)).out((5, 5, 3))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((Conv(4), Conv(4, 9)), "layer conv2d_1: kernel 9x9 does not fit its 6x6 input"),
        ((MaxPool(2), MaxPool(5)), "layer max_pooling2d_1: pool 5x5 does not fit its 4x4 input"),
        ((MaxPool((2, 9)),), "layer max_pooling2d: pool 2x9 does not fit its 8x8 input"),
        ((Dense(10),), "layer dense: needs flat features, got (8, 8, 1)"),
        ((Flatten(), Conv(4)), "layer conv2d: needs a map (H, W, C) as its input, got (64,)"),
        ((Flatten(), MaxPool()), "layer max_pooling2d: needs a map (H, W, C)"),
        ((Flatten(), GlobalAvgPool()), "layer global_average_pooling2d: needs a map (H, W, C)"),
        ((Residual((Conv(4, 9),)),), "layer conv2d: kernel 9x9 does not fit its 8x8 input"),
        ((Residual((Conv(4, 3),)),), "layer residual: its layers give (6, 6, 4)"),
    ],
)
def test_impossible_geometry_names_the_layer_and_both_sizes(layers, message):
    with pytest.raises(ConfigError) as error:
        table(layers, (8, 8, 1))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((), "layers is empty"),
        ((Flatten(), Dense(9)), r"the last layer \(dense\) gives \(9,\), but the data has 10"),
        ((Conv(10, 8),), r"the last layer \(conv2d\) gives \(1, 1, 10\)"),
        ((Flatten(), Dense(10, "softmax")), "without softmax"),
        ((Flatten(), Dense(10), Activation("softmax")), "without softmax"),
    ],
)
def test_a_model_ends_in_one_logit_per_class(layers, message):
    with pytest.raises(ConfigError, match=message):
        check_model(layers, (8, 8, 1), 10)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Conv(0), "conv.filters must be an integer from 1 to 1048576 (got 0)"),
        (lambda: Conv(True), "from 1 to 1048576 (got True)"),
        (lambda: Conv(2.0), "from 1 to 1048576 (got 2.0)"),
        (lambda: Conv(2, 0), "conv.kernel must be a positive integer or a pair of them (got 0)"),
        (lambda: Conv(2, (3, 3, 3)), "conv.kernel must be a positive integer or a pair of them"),
        (
            lambda: Conv(2, 3, -1),
            "conv.stride must be a positive integer or a pair of them (got -1)",
        ),
        (lambda: MaxPool(0), "pool.size must be a positive"),
        (lambda: AvgPool(2, 0), "pool.stride must be a positive"),
        (lambda: Dense(-1), "dense.units must be an integer from 1 to 1048576 (got -1)"),
        (lambda: Dropout(1.0), "dropout.rate must be at least 0 and below 1 (got 1.0)"),
        (lambda: Dropout(-0.1), "below 1 (got -0.1)"),
        (lambda: Dropout(math.nan), "below 1 (got nan)"),
        (
            lambda: BatchNorm(momentum=1.0),
            "batchnorm.momentum must be at least 0 and below 1 (got 1.0)",
        ),
        (lambda: BatchNorm(epsilon=0.0), "batchnorm.epsilon must be above 0 (got 0.0)"),
        (lambda: Activation("relu", 0.1), "only leaky_relu has a slope, not relu"),
        (lambda: Residual(()), "residual.layers must have at least one layer"),
    ],
)
def test_a_bad_layer_is_refused_when_it_is_written(build, message):
    with pytest.raises(ConfigError) as error:
        build()
    assert message in str(error.value)
