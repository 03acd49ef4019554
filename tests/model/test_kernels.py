"""conv2d and the pools against float64 NumPy, forward and gradient, in every form they run in."""

import functools
import itertools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import lax
from jax.test_util import check_grads

from flaxcnn.model import kernels, winograd
from flaxcnn.model.kernels import add_bias, conv2d, flatten
from flaxcnn.model.pooling import avg_pool2d, max_pool2d
from flaxcnn.model.regularization import batch_norm

# A sum of n float32 products of N(0, 1) numbers is off by about sqrt(n) * 2^-24 of its own size;
# the largest sum here has 9 * 9 * 9 terms, and cancellation takes another digit.
FLOAT32 = {"rtol": 2e-5, "atol": 2e-5}
BFLOAT16 = {"rtol": 2e-2, "atol": 0.15}  # 8 bits of mantissa, sums of up to 100 terms
# Every example compiles a program of its own: few, and (outside CI) new ones in each run.
FEW = settings(max_examples=15)

SIDES = st.integers(1, 9)
PADDINGS = st.sampled_from(["valid", "same"])


@st.composite
def geometries(draw, sizes=(1, 5)):
    """(batch, height, width, size, stride, padding) of which at least one window fits."""
    size = draw(st.tuples(st.integers(*sizes), st.integers(*sizes)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(PADDINGS)
    least = size if padding == "valid" else (1, 1)
    height, width = (draw(st.integers(n, 9)) for n in least)
    return draw(SIDES), height, width, size, stride, padding


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def f32(*arrays):
    return [jnp.asarray(a, jnp.float32) for a in arrays]


def pull_back(function, dy, *args):
    """(function(*args), *its gradients for dy), as one compiled program."""

    @jax.jit
    def both(dy, *args):
        y, vjp = jax.vjp(function, *args)
        return y, *vjp(dy)

    return both(dy, *args)


@FEW
@given(geometry=geometries(), channels=st.integers(1, 4), filters=st.integers(1, 5))
@example(geometry=(2, 9, 9, (7, 7), (1, 1), "valid"), channels=2, filters=3)  # dx by parts
@example(geometry=(1, 8, 9, (6, 9), (1, 1), "valid"), channels=1, filters=2)  # not square
@example(geometry=(2, 9, 8, (5, 3), (1, 1), "valid"), channels=2, filters=2)  # dx by rows
def test_conv_and_its_gradients_equal_the_reference(geometry, channels, filters):
    batch, height, width, size, stride, padding = geometry
    x, w = normal(0, batch, height, width, channels), normal(1, *size, channels, filters)
    expected = reference.conv2d(x, w, stride, padding)
    dy = normal(2, *expected.shape)
    y, *found = pull_back(lambda x, w: conv2d(x, w, stride, padding), *f32(dy, x, w))
    np.testing.assert_allclose(y, expected, **FLOAT32)
    for ours, theirs in zip(found, reference.conv2d_grad(x, w, stride, padding, dy), strict=True):
        np.testing.assert_allclose(ours, theirs, **FLOAT32)


@FEW
@given(geometry=geometries(sizes=(1, 4)), ties=st.booleans())
def test_max_pool_and_its_gradient_equal_the_reference(geometry, ties):
    batch, height, width, size, stride, padding = geometry
    x = normal(0, batch, height, width, 3)
    if ties:  # few distinct values: most windows hold their largest one more than once
        x = np.round(x)
    expected = reference.max_pool2d(x, size, stride, padding)
    dy = normal(1, *expected.shape)
    y, dx = pull_back(lambda x: max_pool2d(x, size, stride, padding), *f32(dy, x))
    np.testing.assert_array_equal(y, expected.astype(np.float32))
    np.testing.assert_allclose(
        dx, reference.max_pool2d_grad(x, size, stride, padding, dy), **FLOAT32
    )


@FEW
@given(geometry=geometries(sizes=(1, 4)))
def test_avg_pool_and_its_gradient_equal_the_reference(geometry):
    batch, height, width, size, stride, padding = geometry
    x = normal(0, batch, height, width, 3)
    expected = reference.avg_pool2d(x, size, stride, padding)
    dy = normal(1, *expected.shape)
    y, dx = pull_back(lambda x: avg_pool2d(x, size, stride, padding), *f32(dy, x))
    np.testing.assert_allclose(y, expected, **FLOAT32)
    np.testing.assert_allclose(
        dx, reference.avg_pool2d_grad(x, size, stride, padding, dy), **FLOAT32
    )


def test_gradients_equal_finite_differences():
    """The reference could share a misunderstanding with the kernels; differences cannot."""
    with jax.enable_x64(True):  # differences in float32 would be good to three digits only
        x, w = jnp.asarray(normal(0, 3, 7, 6, 2)), jnp.asarray(normal(1, 4, 3, 2, 3))
        # Distinct values, 0.1 apart, so that no difference changes which one is the largest.
        apart = jnp.asarray(np.random.default_rng(2).permutation(x.size) * 0.1).reshape(x.shape)
        for stride, padding in (((1, 1), "same"), ((2, 3), "valid")):
            conv = jax.jit(functools.partial(conv2d, stride=stride, padding=padding))
            check_grads(conv, (x, w), order=1, modes=["rev"])
            for pool in (max_pool2d, avg_pool2d):
                one = functools.partial(pool, size=(2, 3), stride=stride, padding=padding)
                check_grads(jax.jit(one), (apart,), order=1, modes=["rev"])


def test_bias_and_its_gradient():
    x, bias, dy = f32(normal(0, 6, 37, 2, 3), normal(1, 3), normal(2, 6, 37, 2, 3))
    y, dx, db = pull_back(add_bias, dy, x, bias)
    np.testing.assert_array_equal(y, np.asarray(x) + np.asarray(bias))
    np.testing.assert_array_equal(dx, dy)
    np.testing.assert_allclose(db, np.asarray(dy, np.float64).sum((0, 1, 2)), **FLOAT32)


def test_sums_over_channels_stay_plain():
    """As trees of windows they are 30 times slower; nothing else would tell."""
    x, scale, bias, dy = f32(
        normal(0, 64, 40, 3, 8), normal(1, 8), normal(2, 8), normal(3, 64, 40, 3, 8)
    )

    def layer(x, scale, bias):
        return batch_norm(add_bias(x, bias), scale, bias, None, 1e-3, None)[0]

    gradients = jax.jit(lambda dy, *args: jax.vjp(layer, *args)[1](dy))
    program = gradients.lower(dy, x, scale, bias).compile().as_text()
    assert "reduce(" in program or "ynn" in program
    assert "reduce-window" not in program


@pytest.mark.parametrize("true_rows", [5, 3])
def test_batch_norm_gradients_equal_finite_differences(true_rows):
    """Of the true rows: the loss counts no other, as in training."""
    x, scale, bias, weights = f32(
        normal(0, 5, 3, 2, 4), normal(1, 4), normal(2, 4), normal(3, 5, 3, 2, 4)
    )
    mask = jnp.arange(5) < true_rows

    def loss(x, scale, bias):
        y, _ = batch_norm(x, scale, bias, mask, 1e-3, None)
        return (y * weights).sum(where=mask[:, None, None, None])

    check_grads(jax.jit(loss), (x, scale, bias), order=1, modes=["rev"], eps=1e-2)


def gradients(conv, x, w):
    """Gradients through conv, relu and an overlapping max pool, as a step has them."""

    def loss(x, w):
        y = jax.nn.relu(conv(x, w, (1, 1), "same"))
        return jnp.square(max_pool2d(y, (3, 3), (2, 2), "same")).sum()

    return jax.grad(loss, argnums=(0, 1))(x, w)


def test_the_same_alone_inside_scan_and_under_vmap():
    xs, ws = f32(normal(0, 3, 4, 6, 5, 2), normal(1, 3, 3, 4, 2, 3))
    once = functools.partial(gradients, conv2d)
    alone = [jax.jit(once)(x, w) for x, w in zip(xs, ws)]
    scanned = jax.jit(lambda xs, ws: lax.scan(lambda _, xw: (None, once(*xw)), None, (xs, ws))[1])
    for many in (scanned, jax.jit(jax.vmap(once))):
        for k, both in enumerate(zip(*many(xs, ws))):
            for ours, theirs in zip(both, alone[k], strict=True):
                np.testing.assert_allclose(ours, theirs, **FLOAT32)


@pytest.mark.parametrize(("size", "stride", "padding"), [
    ((3, 3), (2, 2), "same"), ((2, 2), (2, 2), "valid"), ((3, 3), (1, 1), "same"),
    ((2, 3), (3, 2), "valid"),
])  # fmt: skip
def test_ties_go_where_flax_sends_them(size, stride, padding):
    """Bit for bit: after a relu most windows hold several zeros that are all the largest."""
    x = jax.nn.relu(jnp.asarray(normal(0, 4, 9, 8, 3) - 1.5, jnp.float32))
    assert (x == 0).mean() > 0.9
    # Eighths add up exactly, so that the order of the sum of overlapping windows does not matter.
    y = reference.max_pool2d(np.asarray(x), size, stride, padding)
    dy = jnp.asarray(np.round(8 * normal(1, *y.shape)) / 8, jnp.float32)
    ours = pull_back(lambda x: max_pool2d(x, size, stride, padding), dy, x)
    theirs = pull_back(lambda x: nn.max_pool(x, size, stride, padding.upper()), dy, x)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


CANONICAL = {"b01f_01io->b01f", "YNNPACK fusion"}  # the two forms that XLA:CPU runs fast
GEOMETRIES = {  # input side, kernel, stride, padding
    "same": (12, 3, 1, "same"),
    "valid": (12, 5, 1, "valid"),
    "even": (12, 4, 1, "same"),
    "strided": (12, 3, 2, "same"),
    "stride skips rows": (12, 3, 2, "valid"),
    "dy smaller than the kernel": (8, 7, 1, "valid"),
    "dy of one pixel": (5, 5, 1, "valid"),
    "one by one": (12, 1, 1, "same"),
}


def conv_kinds(function, *args):
    """The layouts of all convolutions in the compiled program of `function`."""
    kinds, fused = set(), False
    for line in jax.jit(function).lower(*args).compile().as_text().splitlines():
        if re.match(r"^(ENTRY )?%?[\w.\-]+ \(", line) and line.rstrip().endswith("{"):
            fused = "fused_computation" in line  # what is inside counts as the fusion it makes
        if " convolution(" in line and not fused:
            kinds.add(re.search(r"dim_labels=(\S+?)(,|$)", line)[1])
        elif "__ynn_fusion" in line and " fusion(" in line:
            kinds.add("YNNPACK fusion")
    return kinds


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_a_step_inside_scan_holds_only_canonical_convolutions(geometry):
    """Anything else is run by an emitter many times slower, and nothing else would tell."""
    side, k, s, padding = geometry

    def loss(ws, x):
        y = jax.nn.relu(conv2d(x, ws[0], (1, 1), "same"))
        return jnp.square(conv2d(y, ws[1], (s, s), padding)).sum()

    def step(ws, x):
        return [w - 0.1 * g for w, g in zip(ws, jax.grad(loss)(ws, x))], None

    ws = f32(normal(0, 3, 3, 1, 8), normal(1, k, k, 8, 16))
    xs = jnp.ones((3, 16, side, side, 1), jnp.float32)
    kinds = conv_kinds(lambda ws, xs: lax.scan(step, ws, xs)[0], ws, xs)
    assert kinds
    assert kinds <= CANONICAL


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_gradients_of_a_strided_convolution_multiply_no_zeros(kernel):
    """dy spread out with zeros would take four times the products; nothing else would tell."""
    x, w = f32(normal(0, 8, 16, 16, 32), normal(1, kernel, kernel, 32, 32))

    def products(function, *args):
        return jax.jit(function).lower(*args).cost_analysis()["flops"]

    forward = functools.partial(conv2d, stride=(2, 2), padding="valid")
    y = forward(x, w)
    gradients = products(lambda dy, x, w: jax.vjp(forward, x, w)[1](dy), y, x, w)
    assert gradients < 2.5 * products(forward, x, w)  # 2, and the sums of the parts


def test_flatten_and_its_gradient():
    x, dy = f32(normal(0, 3, 2, 5, 4), normal(1, 3, 40))
    y, dx = pull_back(flatten, dy, x)
    assert np.array_equal(y, np.reshape(x, (3, 40)))
    assert np.array_equal(dx, np.reshape(dy, (3, 2, 5, 4)))


def test_pooling_before_a_flatten_keeps_its_axes():
    """With the two axes of the flatten its loop is three times slower; nothing else would tell."""

    def loss(x, bias, w):
        y = max_pool2d(jax.nn.relu(x + bias[None, None, None]), (2, 2), (2, 2), "valid")
        return jnp.square(flatten(y) @ w).sum()

    args = f32(normal(0, 8, 12, 12, 16), normal(1, 16), normal(2, 6 * 6 * 16, 10))
    program = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*args).compile().as_text()
    fusions = re.findall(r"^%fused_computation.*?^}", program, re.MULTILINE | re.DOTALL)
    pooling = [text for text in fusions if " maximum(" in text]
    assert pooling
    roots = [re.search(r"ROOT .* = \w+\[([\d,]*)\]", text)[1] for text in pooling]
    assert all(root.count(",") == 3 for root in roots), roots
    # The gradient reads which place won, and does not compare the window's pixels again.
    spread = [text for text in fusions if "-> f32[8,12,12,16]" in text]
    assert spread
    assert not any(" slice(" in text for text in spread)


@pytest.mark.parametrize(("stride", "padding"), [(1, "same"), (1, "valid"), (2, "same"),
                                                 (3, "valid")])  # fmt: skip
def test_other_backends_differentiate_the_same_function(stride, padding, monkeypatch):
    x, w = f32(normal(0, 4, 9, 8, 2), normal(1, 4, 3, 2, 3))

    y = reference.conv2d(x, w, (stride, stride), padding)

    def both():
        conv = lambda x, w: conv2d(x, w, (stride, stride), padding)  # noqa: E731
        return pull_back(conv, jnp.ones(y.shape, jnp.float32), x, w)

    on_cpu = both()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(kernels, "_canonical_conv", None)  # not to be called
    for ours, theirs in zip(on_cpu, both(), strict=True):
        np.testing.assert_allclose(ours, theirs, **FLOAT32)


def test_weight_gradient_in_pieces_equals_the_whole(monkeypatch):
    x, w = f32(normal(0, 12, 6, 6, 2), normal(1, 3, 3, 2, 3))
    dy = jnp.asarray(normal(2, 12, 6, 6, 3), jnp.float32)

    def weight_gradient():
        return pull_back(lambda w: conv2d(x, w, (1, 1), "same"), dy, w)[1]

    whole = weight_gradient()
    one_image = dy[0].size * dy.dtype.itemsize
    for fits in (1, 2, 5):  # pieces of 2, 2 and 4 images
        monkeypatch.setattr(kernels, "PIECE_BYTES", fits * one_image)
        np.testing.assert_allclose(weight_gradient(), whole, **FLOAT32)


@pytest.mark.parametrize(
    ("given", "used"),
    [((1, 1), (1, 17)), ((16, 16), (16, 17)), ((3, 16), (4, 17)), ((3, 32), (4, 32)),
     ((5, 24), (8, 24)), ((1, 32), (1, 32)), ((3, 48), (3, 48)), ((17, 48), (20, 48)),
     ((16, 17), (16, 17)), ((32, 32), (32, 32))],
)  # fmt: skip
def test_channels_are_made_up_to_numbers_that_ynnpack_likes(given, used, monkeypatch):
    assert kernels._fast_channels(*given) == used
    monkeypatch.setattr(kernels.backend, "by_onednn", lambda: True)
    assert kernels._fast_channels(*given) == given


@pytest.mark.parametrize(("channels", "filters"), [(3, 20), (5, 4), (19, 33)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
def test_added_channels_change_no_number(channels, filters, stride):
    x, w = normal(0, 4, 8, 9, channels), normal(1, 3, 3, channels, filters)
    dy = normal(2, *reference.conv2d(x, w, stride, "same").shape)
    y, dx, dw = pull_back(lambda x, w: conv2d(x, w, stride, "same"), *f32(dy, x, w))
    np.testing.assert_allclose(y, reference.conv2d(x, w, stride, "same"), **FLOAT32)
    expected = reference.conv2d_grad(x, w, stride, "same", dy)
    np.testing.assert_allclose(dx, expected[0], **FLOAT32)
    np.testing.assert_allclose(dw, expected[1], **FLOAT32)


@pytest.mark.parametrize(
    ("batch", "height", "width", "pad"),
    [(3, 8, 8, ((1, 1), (1, 1))), (4, 9, 7, ((1, 1), (1, 1))), (2, 7, 10, ((0, 0), (0, 0))),
     (1, 4, 5, ((2, 2), (2, 2))), (2, 6, 6, ((0, 1), (1, 0)))],
)  # fmt: skip
@pytest.mark.parametrize("tile_bytes", [1, winograd.TILE_BYTES], ids=["pieces", "whole"])
def test_winograd_equals_the_reference(batch, height, width, pad, tile_bytes, monkeypatch):
    monkeypatch.setattr(winograd, "TILE_BYTES", tile_bytes)
    monkeypatch.setattr(winograd, "KERNELS", 0)
    x, w = normal(0, batch, height, width, 3), normal(1, 3, 3, 3, 5)
    wide = np.pad(x, ((0, 0), *pad, (0, 0)))
    expected = reference.conv2d(wide, w, (1, 1), "valid")
    dy = normal(2, *expected.shape)
    y = jax.jit(winograd.conv, static_argnums=(2, 3))(*f32(x, w), *pad)
    dw = jax.jit(winograd.weight_gradient, static_argnums=(2, 3))(*f32(x, dy), *pad)
    np.testing.assert_allclose(y, expected, **FLOAT32)
    gradient = reference.conv2d_grad(wide, w, (1, 1), "valid", dy)[1]
    np.testing.assert_allclose(dw, gradient, **FLOAT32)


def test_winograd_rounds_as_a_direct_convolution_does():
    """Within a factor of 4 of its error, by sums of a size that training has."""
    x, w = normal(0, 2, 8, 8, 128), normal(1, 3, 3, 128, 64)
    exact = reference.conv2d(x, w, (1, 1), "same")
    direct = kernels._conv(*f32(x, w), (1, 1), ((1, 1), (1, 1)))
    quick = jax.jit(winograd.conv, static_argnums=(2, 3))(*f32(x, w), (1, 1), (1, 1))
    errors = [np.square(np.asarray(y, np.float64) - exact).mean() ** 0.5 for y in (direct, quick)]
    assert errors[1] < 4 * errors[0]


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_many_channels_take_fewer_products(padding):
    """16 for 36, in the convolution and both gradients; nothing else would tell."""
    x, w = f32(normal(0, 4, 12, 12, 64), normal(1, 3, 3, 64, 64))
    conv = lambda x, w: conv2d(x, w, (1, 1), padding)  # noqa: E731
    y = conv(x, w)
    direct = 2 * y.size * 9 * 64

    def work(function, *args):
        return jax.jit(function).lower(*args).cost_analysis()["flops"]

    assert work(conv, x, w) < 0.7 * direct
    # The input gradient of a valid convolution is one on a map that is larger by two.
    assert work(lambda dy, x, w: jax.vjp(conv, x, w)[1](dy), y, x, w) < 0.85 * 2 * direct


def test_bfloat16_in_bfloat16_out():
    x, w = (jnp.asarray(a, jnp.bfloat16) for a in (normal(0, 4, 8, 8, 3), normal(1, 3, 3, 3, 4)))
    exact_x, exact_w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    dy = jnp.ones((4, 8, 8, 4), jnp.bfloat16)
    y, dx, dw = pull_back(lambda x, w: conv2d(x, w, (1, 1), "same"), dy, x, w)
    expected = reference.conv2d_grad(exact_x, exact_w, (1, 1), "same", np.ones(y.shape))
    assert y.dtype == dx.dtype == dw.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        y.astype(jnp.float32), reference.conv2d(exact_x, exact_w, (1, 1), "same"), **BFLOAT16
    )
    for ours, theirs in zip((dx, dw), expected, strict=True):
        np.testing.assert_allclose(ours.astype(jnp.float32), theirs, **BFLOAT16)
    for pool, padding in itertools.product((max_pool2d, avg_pool2d), ("valid", "same")):
        both = jax.value_and_grad(lambda x, p=pool, q=padding: p(x, (3, 2), (2, 2), q).sum())
        assert {each.dtype for each in jax.eval_shape(both, x)} == {jnp.dtype("bfloat16")}


def test_a_pool_of_one_pixel_does_nothing():
    x = jnp.asarray(normal(0, 2, 5, 4, 3), jnp.float32)
    assert max_pool2d(x, (1, 1), (1, 1), "valid") is x
    np.testing.assert_array_equal(max_pool2d(x, (1, 1), (2, 2), "same"), x[:, ::2, ::2])
