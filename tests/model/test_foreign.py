"""Networks of one's own: linen, NNX and pure functions, as the engine's model."""

import dataclasses

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from flaxcnn import nn
from flaxcnn.data.batches import Scaling
from flaxcnn.engine.promises import ROWS, Promises, try_out
from flaxcnn.engine.step import Hypers, Plan, init_state
from flaxcnn.errors import ConfigError
from flaxcnn.model.cnn import CNN, Network
from flaxcnn.model.foreign import Compiled, LinenModel, NNXModel, PureModel, build
from flaxcnn.model.protocol import RowContext
from flaxcnn.recipe import layers, networks
from flaxcnn.recipe.optimizers import SGD, Constant

IMAGE = np.random.default_rng(0).integers(0, 256, (ROWS, 8, 8, 1), np.uint8)
X = jnp.asarray(IMAGE, jnp.float32) / 255
KEY = jax.random.key(0)
NUMBERS = {"momentum": jnp.float32(0), "weight_decay": jnp.float32(0)}


class Plain(linen.Module):
    """As in the Flax MNIST example: no flag, no random numbers."""

    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Conv(features=4, kernel_size=(3, 3))(x))
        x = linen.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        return linen.Dense(features=10)(x.reshape((x.shape[0], -1)))


class Whole(linen.Module):
    """Dropout and batch normalisation of linen, told by `train`."""

    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Conv(4, (3, 3))(x)
        x = linen.relu(linen.BatchNorm(use_running_average=not train)(x))
        x = linen.Dropout(0.5, deterministic=not train)(x)
        return linen.Dense(10)(x.reshape((x.shape[0], -1)))


class Kept(linen.Module):
    """The same with this package's modules."""

    @linen.compact
    def __call__(self, x):
        x = linen.relu(nn.BatchNorm()(nn.Conv(4, 3)(x)))
        x = nn.Dropout(0.5)(x)
        return linen.Dense(10)(x.reshape((x.shape[0], -1)))


class Dropped(linen.Module):
    """Only this package's dropout, whose gradients every division leaves alone."""

    @linen.compact
    def __call__(self, x):
        return linen.Dense(10)(nn.Dropout(0.5)(linen.relu(nn.Conv(4, 3)(x))).mean(axis=(1, 2)))


class Modern(nnx.Module):
    """As in the Flax NNX MNIST example."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(1, width, kernel_size=(3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(rate=0.5, rngs=rngs)
        self.linear = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.dropout(self.norm(self.conv(x))))
        return self.linear(x.mean(axis=(1, 2)))


def first(key, image):
    return {"w": jax.random.normal(key, (image[0].size, 10)) * 0.1}


def then(params, image):
    return image.reshape(len(image), -1) @ params["w"]


MODELS = {
    "linen": LinenModel(Plain()),
    "linen with flags": LinenModel(Whole()),
    "flaxcnn.nn": LinenModel(Kept()),
    "nnx": NNXModel(Modern, (("width", 4),)),
    "pure": PureModel(first, then),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_a_value_of_pure_functions(name):
    model = MODELS[name]
    assert hash(model) == hash(dataclasses.replace(model))
    assert model == dataclasses.replace(model)
    variables = jax.jit(model.init)(KEY, X[:1])
    rows = RowContext(jnp.arange(ROWS) < 6, jax.random.split(KEY, ROWS), None, KEY)
    apply = jax.jit(model.apply, static_argnames="train")
    logits, stats = apply(variables, X, train=True, rows=rows)
    assert (logits.shape, logits.dtype) == ((ROWS, 10), jnp.float32)
    assert jax.tree.structure(stats) == jax.tree.structure(variables["batch_stats"])
    calm, same = apply(variables, X, train=False, rows=RowContext())
    jax.tree.map(np.testing.assert_array_equal, same, variables["batch_stats"])
    again, _ = apply(variables, X[::-1], train=False, rows=RowContext())
    np.testing.assert_allclose(calm[::-1], again, rtol=1e-5, atol=1e-6)  # rounding of other batches
    assert model.alive(variables, X) == {}


def test_statistics_move_in_training_only():
    for name in ("linen with flags", "flaxcnn.nn", "nnx"):
        model = MODELS[name]
        variables = model.init(KEY, X[:1])
        rows = RowContext(None, jax.random.split(KEY, ROWS), None, KEY)
        _, stats = model.apply(variables, X, train=True, rows=rows)
        moved = jax.tree.map(lambda a, b: bool((a != b).any()), stats, variables["batch_stats"])
        assert all(jax.tree.leaves(moved)), name


def test_draws_of_a_step_come_from_its_key():
    for name in ("linen with flags", "nnx"):
        model = MODELS[name]
        variables = model.init(KEY, X[:1])
        logits = [
            model.apply(variables, X, train=True, rows=RowContext(key=jax.random.key(n)))[0]
            for n in (1, 1, 2)
        ]
        np.testing.assert_array_equal(logits[0], logits[1])
        assert (logits[0] != logits[2]).any(), name


def test_the_modules_are_those_of_a_recipe():
    """The same parameters, the same bits: a linen network of ours is the recipe's network."""
    recipe = Network(CNN((
        layers.Conv(4, 3, padding="same"), layers.BatchNorm(), layers.Activation("relu"),
        layers.Dropout(0.5), layers.Flatten(), layers.Dense(10),
    )))  # fmt: skip
    own = LinenModel(Kept())
    variables, like = own.init(KEY, X[:1]), recipe.init(KEY, X[:1])
    leaves = jax.tree.leaves(variables["params"])
    names = {"BatchNorm_0": "batch_normalization", "Conv_0": "conv2d", "Dense_0": "dense"}
    params = {names[name]: value for name, value in variables["params"].items()}
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, like["params"])
    assert leaves
    theirs = {"params": params, "batch_stats": like["batch_stats"]}
    rows = RowContext(jnp.arange(ROWS) < 6, jax.random.split(KEY, ROWS), None, KEY)
    ours, _ = own.apply(variables, X, train=True, rows=rows)
    expected, _ = recipe.apply(theirs, X, train=True, rows=rows)
    np.testing.assert_array_equal(ours, expected)


def tried(model):
    plan = Plan(model, SGD(), Constant(), (), False, ROWS, False, ROWS, 1, 1)
    hypers = Hypers(jnp.float32(0.1), NUMBERS, jnp.float32(0), jnp.full(1, 0.5, jnp.float32))
    scaling = Scaling(np.zeros((1, 1, 1), np.float32), np.full((1, 1, 1), 255, np.float32))
    state = init_state(plan, (8, 8, 1), jnp.zeros(4, jnp.uint32), hypers)
    return try_out(plan, state, hypers, scaling, IMAGE)


@pytest.mark.parametrize(
    ("model", "promises"),
    [
        (LinenModel(Plain()), Promises()),
        (PureModel(first, then), Promises()),
        (LinenModel(Dropped()), Promises()),
        (LinenModel(Kept()), Promises(division=False)),  # statistics of a batch
        (LinenModel(Whole()), Promises(False, False, False)),
        (NNXModel(Modern, (("width", 4),)), Promises(False, False, False)),
        (Network(CNN((layers.Conv(4, 3), layers.Dropout(0.5), layers.Flatten(),
                      layers.Dense(10)))), Promises()),
    ],
    ids=["plain", "pure", "row-keyed", "own modules", "linen", "nnx", "recipe"],
)  # fmt: skip
def test_what_a_network_keeps(model, promises):
    assert tried(model) == promises
    assert len(promises.broken()) == 3 - sum(vars(promises).values())


@pytest.mark.parametrize(
    ("wrapper", "target", "right"),
    [(networks.Linen, Modern, "NNX"), (networks.NNX, Plain, "Linen")],
)
def test_the_wrong_wrapper_names_the_right_one(wrapper, target, right):
    message = f"{target.__name__} is a module of flax.{right.lower()}: use flaxcnn.{right}"
    with pytest.raises(ConfigError, match=message):
        wrapper(target)
    with pytest.raises(ConfigError, match=message):
        build(wrapper(f"{target.__module__}:{target.__name__}"), Compiled())
