"""The linen module: names, initial values, every layer's meaning in training and in inference."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from flaxcnn.engine.metrics import batch_sums
from flaxcnn.model.cnn import ALIVE, CNN, FUNCTIONS
from flaxcnn.recipe import catalog
from flaxcnn.recipe.data import KNOWN_DATA
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
    pair,
    table,
)
from flaxcnn.rng import row_keys

RECIPES = {name: e.config for name, e in catalog.experiments().items() if e.config}
FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}  # a few roundings of numbers of about 1
# Two sorts of rounding meet in a whole network's gradient: sums over a batch, and cancellation in
# the gradient of batch normalisation.
NETWORK = {"rtol": 1e-4, "atol": 1e-5}


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def init(layers, shape, seed=0, **kwargs):
    model = CNN(layers, **kwargs)
    make = jax.jit(functools.partial(model.init, train=False))
    variables = make(jax.random.key(seed), jnp.zeros((1, *shape)))
    return model, {name: variables[name] for name in variables if name != ALIVE}


def run(layers, x, *, train=False, variables=None, **kwargs):
    """Output, in float32, of layers whose parameters are `variables` (default: initial ones)."""
    model = CNN(layers)
    if variables is None:
        variables = init(layers, x.shape[1:])[1]
    mutable = ["batch_stats"] if train else False
    out = jax.jit(functools.partial(model.apply, train=train, mutable=mutable))(
        variables, jnp.asarray(x, jnp.float32), **kwargs
    )
    return out if train else np.asarray(out)


@pytest.mark.parametrize("name", RECIPES)
def test_parameters_are_those_of_the_table(name):
    """Same names, same shapes, same numbers, for every recipe that ships."""
    config = RECIPES[name]
    shape, _ = KNOWN_DATA[config.dataset]
    model = CNN(config.layers)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    made = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), image)
    expected, moving = {}, {}
    for row in table(config.layers, shape):
        match row.layer:
            case Conv(kernel=kernel, filters=filters):
                weight = (*pair(kernel, "kernel"), row.input[-1], filters)
            case Dense(units=units):
                weight = (row.input[0], units)
            case BatchNorm():
                expected[row.name] = dict.fromkeys(("scale", "bias"), row.input[-1:])
                moving[row.name] = dict.fromkeys(("mean", "var"), row.input[-1:])
                continue
            case _:
                assert row.params == 0
                continue
        bias = {"bias": weight[-1:]} if row.layer.bias else {}
        expected[row.name] = {"kernel": weight, **bias}
        assert sum(math.prod(s) for s in expected[row.name].values()) == row.params
    assert jax.tree.map(lambda a: a.shape, made["params"]) == expected
    assert jax.tree.map(lambda a: a.shape, made.get("batch_stats", {})) == moving
    assert {a.dtype for a in jax.tree.leaves(made["params"])} == {jnp.dtype("float32")}


@pytest.mark.parametrize(("rule", "scale", "fan"), [
    ("glorot", 2.0, "sum"), ("he", 2.0, "in"), ("lecun", 1.0, "in"),
])  # fmt: skip
@pytest.mark.parametrize("shape", ["uniform", "normal"])
def test_initial_weights_have_keras_distributions(rule, scale, fan, shape):
    """Variance scale / fan; uniform within sqrt(3 var), normal cut at 2 of its own deviations."""
    name = f"{rule}_{shape}"
    layers = (Conv(64, (3, 5), init=name), Flatten(), Dense(300, init=name))
    _, variables = init(layers, (6, 9, 16))
    kernels = [variables["params"][name]["kernel"] for name in ("conv2d", "dense")]
    for kernel in map(np.asarray, kernels):
        window = math.prod(kernel.shape[:-2])
        fan_in, fan_out = window * kernel.shape[-2], window * kernel.shape[-1]
        std = math.sqrt(scale / {"sum": fan_in + fan_out, "in": fan_in}[fan])
        # 2 deviations of a normal whose cut version has deviation std (0.8796 of the uncut).
        edge = math.sqrt(3) * std if shape == "uniform" else 2 * std / 0.87962566
        assert kernel.std() == pytest.approx(std, rel=0.02)  # > 15000 numbers: 1/sqrt(2n) = 0.6 %
        assert abs(kernel.mean()) < 4 * std / math.sqrt(kernel.size)
        assert 0.99 * edge < np.abs(kernel).max() <= edge * (1 + 1e-6)
    assert not variables["params"]["conv2d"]["bias"].any()
    assert not variables["params"]["dense"]["bias"].any()


def test_layers_of_one_shape_start_differently():
    _, variables = init((Dense(8), Dense(8)), (8,))
    first, second = variables["params"].values()
    assert (first["kernel"] != second["kernel"]).mean() > 0.99


@pytest.mark.parametrize("name", FUNCTIONS)
def test_activations_equal_their_definitions(name):
    x = np.concatenate([np.linspace(-9, 9, 73), [0.0, 1e-4, -1e-4]])[None]
    expected = reference.ACTIVATIONS[name](x)
    for layers in ((Activation(name),), (Dense(76, name),)):
        variables = {"params": {"dense": {"kernel": jnp.eye(76), "bias": jnp.zeros(76)}}}
        np.testing.assert_allclose(run(layers, x, variables=variables), expected, **FLOAT32)


def test_leaky_relu_takes_the_slope_it_is_given():
    x = np.array([[-2.0, 3.0]])
    np.testing.assert_allclose(run((Activation("leaky_relu", 0.1),), x), [[-0.2, 3.0]], rtol=1e-6)


def test_same_padding_of_an_even_kernel_puts_the_odd_row_after():
    """4x4 SAME: one row before, two after. The parity fixtures hold odd kernels only."""
    image = np.zeros((1, 6, 6, 1))
    image[0, 3, 3] = 1.0
    kernel = np.arange(16.0).reshape(4, 4, 1, 1)
    variables = {"params": {"conv2d": {"kernel": jnp.asarray(kernel, jnp.float32)}}}
    out = run((Conv(1, 4, padding="same", bias=False),), image, variables=variables)[0, :, :, 0]
    assert out.shape == (6, 6)
    # Output (r, c) sees rows r - 1 .. r + 2, so pixel 3 lies at place 3 - (r - 1) of its window.
    expected = np.zeros((6, 6))
    for r in range(1, 5):
        for c in range(1, 5):
            expected[r, c] = kernel[4 - r, 4 - c, 0, 0]
    np.testing.assert_array_equal(out, expected)


class TestDropout:
    LAYERS = Dropout(0.3), Dropout(0.3)
    ONES = np.ones((64, 500))

    def drop(self, layers, seed=0):
        keys = row_keys(jax.random.key(seed), jnp.arange(len(self.ONES)))
        return np.asarray(run(layers, self.ONES, train=True, variables={}, dropout_key=keys)[0])

    def test_zeroes_at_the_rate_and_scales_the_rest(self):
        out = self.drop((Dropout(0.3),))
        np.testing.assert_allclose(np.unique(out), [0, 1 / 0.7], rtol=1e-6)
        assert (out == 0).mean() == pytest.approx(0.3, abs=0.01)  # 32000 draws: sd 0.0026

    def test_rate_zero_and_inference_change_nothing(self):
        np.testing.assert_array_equal(self.drop((Dropout(0.0),)), self.ONES)
        np.testing.assert_array_equal(run(self.LAYERS, self.ONES, variables={}), self.ONES)

    def test_one_key_one_mask_and_another_key_another(self):
        np.testing.assert_array_equal(self.drop(self.LAYERS, 1), self.drop(self.LAYERS, 1))
        assert (self.drop(self.LAYERS, 1) != self.drop(self.LAYERS, 2)).any()

    def test_layers_have_masks_of_their_own(self):
        kept = (self.drop(self.LAYERS) > 0).mean()
        assert kept == pytest.approx(0.7 * 0.7, abs=0.01)  # equal masks would keep 0.7


class TestBatchNorm:
    LAYER = BatchNorm()
    X = 3.0 + 2.0 * normal(0, 12, 5, 4, 3)
    SCALE, BIAS = normal(1, 3), normal(2, 3)
    MEAN, VAR = normal(3, 3), 1.0 + normal(4, 3) ** 2

    @property
    def variables(self):
        groups = {"params": {"scale": self.SCALE, "bias": self.BIAS},
                  "batch_stats": {"mean": self.MEAN, "var": self.VAR}}  # fmt: skip
        return {
            group: {"batch_normalization": {k: jnp.asarray(v, jnp.float32) for k, v in of.items()}}
            for group, of in groups.items()
        }

    @pytest.mark.parametrize("true_rows", [12, 7, 1])
    def test_training_normalises_by_the_true_rows(self, true_rows):
        mask = np.arange(12) < true_rows
        y, new = run((self.LAYER,), self.X, train=True, variables=self.variables,
                     mask=jnp.asarray(mask))  # fmt: skip
        expected, mean, variance = reference.batch_norm_train(
            self.X, self.SCALE, self.BIAS, 1e-3, mask
        )
        np.testing.assert_allclose(y[mask], expected[mask], **FLOAT32)
        moving = new["batch_stats"]["batch_normalization"]
        np.testing.assert_allclose(moving["mean"], 0.99 * self.MEAN + 0.01 * mean, **FLOAT32)
        np.testing.assert_allclose(moving["var"], 0.99 * self.VAR + 0.01 * variance, **FLOAT32)

    def test_without_a_mask_all_rows_are_true(self):
        whole, _ = run((self.LAYER,), self.X, train=True, variables=self.variables)
        masked, _ = run((self.LAYER,), self.X, train=True, variables=self.variables,
                        mask=jnp.ones(12, bool))  # fmt: skip
        np.testing.assert_allclose(whole, masked, rtol=1e-6, atol=1e-6)

    def test_inference_uses_the_moving_averages(self):
        expected = reference.batch_norm_inference(
            self.X, self.SCALE, self.BIAS, self.MEAN, self.VAR, 1e-3
        )
        y = run((self.LAYER,), self.X, variables=self.variables)
        np.testing.assert_allclose(y, expected, **FLOAT32)

    def test_variance_of_a_far_mean_does_not_cancel(self):
        """E[x^2] - E[x]^2 would be off by 10 % here in float32."""
        far = 1000.0 + normal(5, 64, 1)
        y, _ = run((self.LAYER,), far, train=True)
        np.testing.assert_allclose(y.std(), 1.0, rtol=1e-3)

    def test_flat_features_and_a_momentum_of_its_own(self):
        flat = self.X[:, 0, 0]
        _, new = run((BatchNorm(momentum=0.5),), flat, train=True)
        moving = new["batch_stats"]["batch_normalization"]
        np.testing.assert_allclose(moving["mean"], 0.5 * flat.mean(0), **FLOAT32)
        np.testing.assert_allclose(moving["var"], 0.5 + 0.5 * flat.var(0), **FLOAT32)


@pytest.mark.parametrize("shortcut", [(), (Conv(4, 1), BatchNorm())])
def test_residual_adds_its_shortcut_and_then_activates(shortcut):
    inner = (Conv(4, 3, padding="same", activation="tanh"), Conv(4, 3, padding="same"))
    x = normal(0, 2, 6, 5, 4).astype(np.float32)
    layers = (Residual(inner, shortcut),)
    _, variables = init(layers, x.shape[1:])
    side = x
    if shortcut:
        params = variables["params"]["conv2d_2"]  # named after the convolutions of the main path
        one = {"params": {"conv2d": params}, "batch_stats": variables["batch_stats"]}
        one["params"]["batch_normalization"] = variables["params"]["batch_normalization"]
        side = run(shortcut, x, variables=one)
    expected = reference.ACTIVATIONS["relu"](run(inner, x, variables=variables) + side)
    np.testing.assert_allclose(run(layers, x, variables=variables), expected, **FLOAT32)
    assert (expected == 0).any()
    assert (expected > 0).any()


def test_pools_and_flatten():
    x = normal(0, 3, 7, 6, 2)
    for layer, pool in ((MaxPool(3, 2, "same"), reference.max_pool2d),
                        (AvgPool(3, 2, "same"), reference.avg_pool2d)):  # fmt: skip
        np.testing.assert_allclose(run((layer,), x), pool(x, (3, 3), (2, 2), "same"), **FLOAT32)
    np.testing.assert_allclose(run((GlobalAvgPool(),), x), x.mean((1, 2)), **FLOAT32)
    np.testing.assert_array_equal(run((Flatten(),), x), x.reshape(3, -1).astype(np.float32))


@pytest.mark.slow
def test_bfloat16_computes_in_bfloat16_with_float32_parameters_and_logits():
    layers = (Conv(4, 3, activation="relu"), MaxPool(2), BatchNorm(), Flatten(), Dense(5))
    x = jnp.asarray(normal(0, 2, 8, 8, 1), jnp.float32)
    with jax.numpy_dtype_promotion("standard"):  # linen's BatchNorm mixes its dtypes implicitly
        model, variables = init(layers, (8, 8, 1), dtype=jnp.bfloat16)
        logits, kept = model.apply(variables, x, train=False, capture_intermediates=True)
    assert logits.dtype == jnp.float32
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    inner = kept["intermediates"]
    for name in ("conv2d", "batch_normalization", "dense"):
        assert inner[name]["__call__"][0].dtype == jnp.bfloat16
    exact = CNN(layers).apply(variables, x, train=False)
    np.testing.assert_allclose(logits, exact, rtol=0.05, atol=0.05)  # 8 bits of mantissa
    assert (logits != exact).any()


def test_gradient_of_a_whole_network_equals_the_reference():
    """conv, batch norm, relu, max pool, dense, smoothed cross-entropy: the chain by hand."""
    layers = (Conv(4, 3, padding="same"), BatchNorm(), Activation("relu"), MaxPool(2), Flatten(),
              Dense(5))  # fmt: skip
    x, label = normal(0, 6, 6, 6, 2), np.arange(6) % 5
    w, v = 0.5 * normal(1, 3, 3, 2, 4), 0.3 * normal(2, 36, 5)
    scale, bias, c = 1 + 0.1 * normal(3, 4), 0.1 * normal(4, 4), 0.1 * normal(5, 5)

    a = reference.conv2d(x, w, (1, 1), "same")
    b, _, _ = reference.batch_norm_train(a, scale, bias, 1e-3)
    r = reference.ACTIVATIONS["relu"](b)
    p = reference.max_pool2d(r, (2, 2), (2, 2), "valid")
    loss, dlogits = reference.cross_entropy(reference.dense(p.reshape(6, -1), v, c), label, 0.1)
    dp, dv, dc = reference.dense_grad(p.reshape(6, -1), v, dlogits)
    db = reference.max_pool2d_grad(r, (2, 2), (2, 2), "valid", dp.reshape(p.shape)) * (b > 0)
    da, dscale, dbias = reference.batch_norm_train_grad(a, scale, 1e-3, db)
    _, dw = reference.conv2d_grad(x, w, (1, 1), "same", da)

    model, variables = init(layers, (6, 6, 2))
    values = {"conv2d": {"kernel": w, "bias": np.zeros(4)}, "dense": {"kernel": v, "bias": c},
              "batch_normalization": {"scale": scale, "bias": bias}}  # fmt: skip
    params = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), values)

    @jax.jit
    @jax.value_and_grad
    def total(params):
        given = {"params": params, "batch_stats": variables["batch_stats"]}
        logits, _ = model.apply(given, jnp.asarray(x, jnp.float32), train=True,
                                mutable=["batch_stats"])  # fmt: skip
        true = jnp.ones(6, bool)
        return batch_sums(logits, jnp.asarray(label, jnp.int32), true, jnp.float32(0.1)).loss

    found, grads = total(params)
    assert found == pytest.approx(loss.sum(), rel=1e-5)
    expected = {
        "conv2d": {"kernel": dw, "bias": da.sum((0, 1, 2))},
        "dense": {"kernel": dv, "bias": dc},
        "batch_normalization": {"scale": dscale, "bias": dbias},
    }
    jax.tree.map(lambda g, e: np.testing.assert_allclose(g, e, **NETWORK), grads, expected)
