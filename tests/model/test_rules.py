"""Clipping, masks, rates by name, Lookahead and SAM against their definitions, and optax."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxcnn.data.datasets import load
from flaxcnn.engine.job import choose_rows, make_hypers, make_plan
from flaxcnn.engine.weights import start_of
from flaxcnn.errors import ConfigError
from flaxcnn.model import rules
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Conv, Dense, Flatten
from flaxcnn.recipe.optimizers import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    Muon,
    Nadam,
    Optax,
    RMSprop,
)
from flaxcnn.recipe.rules import Adaptive, Lookahead, Norm, Value
from flaxcnn.recipe.traced import compiled_optimizer, compiled_rules, optimizer_numbers
from flaxcnn.studies.plan import plan_runs

CLOSE = {"rtol": 2e-6, "atol": 1e-7}  # float32: a few roundings of numbers of about 1
BASE = Config("digits", (Conv(4, 3), Flatten(), Dense(10)), optimizer=SGD())
RANDOM = np.random.default_rng(0)
SHAPES = {
    "conv2d": {"kernel": (3, 3, 1, 4), "bias": (4,)},
    "dense": {"kernel": (8, 5), "bias": (5,)},
}
DRAWN = jax.tree.map(
    lambda shape: RANDOM.normal(size=shape), SHAPES, is_leaf=lambda x: isinstance(x, tuple)
)
PARAMS = jax.tree.map(lambda p: jnp.asarray(p, jnp.float32), DRAWN)
GRADS = jax.tree.map(lambda p: jnp.cos(3 * p), PARAMS)


def updates(config, count=1):
    """(changes of each update, parameters after them) on the gradients cos(3 p) of each point."""
    optimizer, own = compiled_optimizer(config.optimizer), compiled_rules(config)
    hypers = make_hypers(config)
    rate, numbers = hypers.learning_rate, hypers.optimizer
    params, state = PARAMS, rules.initial(optimizer, own, rate, numbers, PARAMS)
    step = jax.jit(rules.update, static_argnums=(0, 1))
    changes = []
    for _ in range(count):
        grads = jax.tree.map(lambda p: jnp.cos(3 * p), params)
        change, state = step(optimizer, own, rate, numbers, hypers.rules, grads, state, params)
        params = optax.apply_updates(params, change)
        changes.append(change)
    return changes, params


def with_(**changed):
    return dataclasses.replace(BASE, **changed)


def assert_trees_close(one, other, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **(tolerance or CLOSE)), one, other)


def test_without_rules_it_is_the_optimizer():
    (change,), _ = updates(with_(learning_rate=0.5))
    assert_trees_close(change, jax.tree.map(lambda g: -0.5 * g, GRADS))


def test_weights_that_no_decay_names_do_not_decay():
    config = with_(learning_rate=0.5, optimizer=SGD(weight_decay=0.1), no_decay=("*/bias",))
    (change,), _ = updates(config)
    for layer in PARAMS:
        g, p = GRADS[layer], PARAMS[layer]
        np.testing.assert_allclose(change[layer]["bias"], -0.5 * g["bias"], **CLOSE)
        decayed = -0.5 * g["kernel"] - 0.5 * 0.1 * p["kernel"]
        np.testing.assert_allclose(change[layer]["kernel"], decayed, **CLOSE)


@pytest.mark.parametrize("optimizer", [SGD(weight_decay=0.1), Muon(weight_decay=0.1)], ids=str)
def test_decays_are_factors_of_the_decay_of_weights(optimizer):
    """Two patterns fit conv2d/bias. What no pattern fits decays as ever."""
    if isinstance(optimizer, Muon):
        optimizer = dataclasses.replace(optimizer, other=SGD(weight_decay=0.1), other_rate=0.5)
    decays = {"conv2d/*": 0.5, "*/bias": 3.0}
    config = with_(learning_rate=0.5, optimizer=optimizer, decays=decays)
    (change,), _ = updates(config)
    without = {"weight_decay": 0.0}
    if isinstance(optimizer, Muon):
        without["other"] = SGD()
    (plain,), _ = updates(
        with_(learning_rate=0.5, optimizer=dataclasses.replace(optimizer, **without))
    )
    for factor, layer, leaf in ((0.5, "conv2d", "kernel"), (1.5, "conv2d", "bias"),
                                (1.0, "dense", "kernel"), (3.0, "dense", "bias")):  # fmt: skip
        rate = (
            0.25 if isinstance(optimizer, Muon) and (layer, leaf) != ("conv2d", "kernel") else 0.5
        )
        decayed = plain[layer][leaf] - rate * 0.1 * factor * PARAMS[layer][leaf]
        np.testing.assert_allclose(change[layer][leaf], decayed, **CLOSE)


def test_fading_weights_stop_after_their_epochs():
    config = with_(learning_rate=0.5, fade={"conv2d/bias": 2, "dense/*": 4})
    own, hypers = compiled_rules(config), make_hypers(config)
    for epochs in (0.0, 1.0, 2.0, 3.0, 5.0):
        numbers = rules.at(own, hypers.rules, jnp.float32(epochs), jnp.float32(0))
        change, _ = rules.update(
            compiled_optimizer(config.optimizer), own, hypers.learning_rate, hypers.optimizer,
            numbers, GRADS, rules.initial(config.optimizer, own, jnp.float32(0.5), hypers.optimizer,
                                          PARAMS), PARAMS,
        )  # fmt: skip
        for length, layer, leaf in ((2, "conv2d", "bias"), (4, "dense", "bias"),
                                    (None, "conv2d", "kernel")):  # fmt: skip
            factor = max(1 - epochs / length, 0) if length else 1
            expected = -0.5 * factor * GRADS[layer][leaf]
            np.testing.assert_allclose(change[layer][leaf], expected, **CLOSE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decays": {}}, "decays is empty; write patterns and numbers"),
        ({"decays": {"*/bias": -1}}, r"decays.\*/bias must be a number of at least 0 \(got -1\)"),
        ({"fade": {"*/bias": 0}}, r"fade.\*/bias must be a number above 0 \(got 0\)"),
        ({"fade": {"*/bias": True}}, r"fade.\*/bias must be a number above 0 \(got True\)"),
    ],
)
def test_numbers_by_name_are_checked(settings, message):
    with pytest.raises(ConfigError, match=message):
        with_(**settings)


def test_decays_need_an_optimizer_that_can_tell_weights_apart():
    with pytest.raises(ConfigError, match=r"decays: optax\.adamw decays all weights alike"):
        updates(with_(optimizer=Optax("optax.adamw"), decays={"*/bias": 0.1}))


@pytest.mark.parametrize(("name", "argument"), [("adamw", "mask"), ("lars", "weight_decay_mask")])
def test_optimizers_of_optax_get_it_as_their_mask(name, argument):
    spec = Optax(f"optax.{name}", weight_decay=0.3)
    (change,), _ = updates(with_(optimizer=spec, learning_rate=0.1, no_decay=("*/bias",)))
    mask = {layer: {"kernel": True, "bias": False} for layer in PARAMS}
    theirs = getattr(optax, name)(0.1, weight_decay=0.3, **{argument: mask})
    with jax.numpy_dtype_promotion("standard"):
        expected, _ = theirs.update(GRADS, theirs.init(PARAMS), PARAMS)
    assert_trees_close(change, expected)


@pytest.mark.parametrize(
    "optimizer",
    [SGD(0.9, nesterov=True, weight_decay=0.1), Adam(weight_decay=0.1), Nadam(), Adamax(),
     RMSprop(momentum=0.5), Adadelta(), Adagrad(), Optax("optax.lion"), Optax("optax.lamb")],
    ids=lambda optimizer: getattr(optimizer, "factory", type(optimizer).__name__),
)  # fmt: skip
def test_a_factor_of_the_rate_is_that_rate(optimizer):
    """Two patterns fit conv2d/bias: its rate is that of both factors."""
    factors = {"conv2d/*": 0.5, "*/bias": 0.1}
    _, params = updates(with_(optimizer=optimizer, learning_rate=0.02, rates=factors), 1)
    for factor, layer, leaf in ((0.5, "conv2d", "kernel"), (0.05, "conv2d", "bias"),
                                (1.0, "dense", "kernel"), (0.1, "dense", "bias")):  # fmt: skip
        _, alone = updates(with_(optimizer=optimizer, learning_rate=0.02 * factor), 1)
        np.testing.assert_allclose(params[layer][leaf], alone[layer][leaf], **CLOSE)


@pytest.mark.parametrize("value", [0.3, 100.0])
def test_clipping_by_the_norm_of_all_gradients(value):
    (change,), _ = updates(with_(learning_rate=1.0, clip=Norm(value)))
    norm = np.sqrt(sum(np.sum(np.cos(3 * p) ** 2) for p in jax.tree.leaves(DRAWN)))
    expected = jax.tree.map(lambda g: -g * min(1.0, value / norm), GRADS)
    assert_trees_close(change, expected)


def test_frozen_weights_are_no_part_of_the_norm():
    config = with_(learning_rate=1.0, clip=Norm(0.3), freeze=("conv2d/*",))
    (change,), _ = updates(config)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(GRADS["dense"])))
    assert_trees_close(change["dense"], jax.tree.map(lambda g: -g * 0.3 / norm, GRADS["dense"]))
    assert not any(leaf.any() for leaf in jax.tree.leaves(change["conv2d"]))


def test_clipping_by_value():
    (change,), _ = updates(with_(learning_rate=1.0, clip=Value(0.2)))
    assert_trees_close(change, jax.tree.map(lambda g: -np.clip(g, -0.2, 0.2), GRADS))


def test_adaptive_clipping():
    """Of each output channel of a kernel, and of each bias as a whole."""
    (change,), _ = updates(with_(learning_rate=1.0, clip=Adaptive(0.1)))

    def clipped(g, p):
        axes = tuple(range(g.ndim - 1)) or (0,)
        norm = lambda x: np.sqrt(np.sum(np.square(x), axes, keepdims=True))  # noqa: E731
        return -g * np.minimum(1.0, 0.1 * np.maximum(norm(p), 1e-3) / norm(g))

    assert_trees_close(change, jax.tree.map(clipped, GRADS, PARAMS))


def test_a_lookahead_that_grows_heavy():
    """airbench's decay of the slow weights: 0.95^5 (n / 476)^3, at update n of 476."""
    own = compiled_rules(with_(lookahead=Lookahead(5, 1 - 0.95**5, power=3)))
    given = {"lookahead": jnp.float32(1 - 0.95**5)}
    for step in (0, 5, 240, 475, 476):
        alpha = rules.at(own, given, jnp.float32(0), jnp.float32(step / 476))["lookahead"]
        np.testing.assert_allclose(1 - alpha, 0.95**5 * (step / 476) ** 3, atol=1e-6)
    plain = compiled_rules(with_(lookahead=Lookahead(5, 0.3)))
    assert rules.at(plain, given, jnp.float32(0), jnp.float32(0.5)) == given
    assert with_(lookahead=Lookahead(power=3)).spans_run
    assert not with_(lookahead=Lookahead()).spans_run


def test_lookahead_over_seven_updates():
    config = with_(learning_rate=0.1, lookahead=Lookahead(steps=3, alpha=0.25))
    _, params = updates(config, 7)
    fast = slow = DRAWN
    for step in range(1, 8):
        fast = jax.tree.map(lambda p: p - 0.1 * np.cos(3 * p), fast)
        if step % 3 == 0:
            slow = fast = jax.tree.map(lambda s, f: s + 0.25 * (f - s), slow, fast)
    assert_trees_close(params, fast, rtol=1e-5, atol=1e-6)  # of seven updates


def test_sam_climbs_by_rho_in_the_direction_of_the_gradients():
    own = compiled_rules(with_(sam=0.05, freeze=("conv2d/bias",)))
    up = rules.ascent(own, jnp.float32(0.05), GRADS, PARAMS)
    moved = jax.tree.map(lambda a, b: a - b, up, PARAMS)
    assert float(optax.tree.norm(moved)) == pytest.approx(0.05, rel=1e-4)
    assert not moved["conv2d"]["bias"].any()
    ratio = moved["dense"]["kernel"] / GRADS["dense"]["kernel"]
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-3)  # differences of rounded sums


def test_their_numbers_share_a_program():
    """Grids over them are stacked."""
    first = with_(clip=Norm(1.0), rates={"*/bias": 0.1}, sam=0.05, lookahead=Lookahead(5, 0.5))
    other = with_(clip=Norm(2.0), rates={"*/bias": 0.2}, sam=0.10, lookahead=Lookahead(5, 0.8))
    assert make_plan(first, 100) == make_plan(other, 100)
    assert make_plan(first, 100) != make_plan(with_(clip=Norm(1.0)), 100)
    runs = plan_runs(first, [0], {"clip.value": [1.0, 2.0], "sam": [0.05, 0.1]}, ())
    assert len({make_plan(run.config, 100) for run in runs}) == 1
    assert len({run.config.fingerprint() for run in runs}) == 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"clip": Norm(1.0), "rates": {"dnse/*": 2}}, "rates: 'dnse/\\*' fits no weights; they are "
         "conv2d/bias, conv2d/kernel, dense/bias, dense/kernel; did you mean 'dense/"),
        ({"no_decay": ("*/scale",)}, "no_decay: '\\*/scale' fits no weights"),
        ({"rates": {"dense/*": -1}}, "rates.dense/\\* must be a number of at least 0 \\(got -1\\)"),
        ({"rates": {}}, "rates is empty"),
        ({"clip": "norm"}, "clip.value is missing; norm needs it"),
        ({"clip": {"type": "nrm"}}, "did you mean 'norm'"),
        ({"clip": {"type": "norm", "value": 0}}, "clip.value must be above 0 \\(got 0.0\\)"),
        ({"sam": -0.1}, "sam must be at least 0"),
        ({"lookahead": {"steps": 0}}, "lookahead.steps must be an integer of at least 1"),
        ({"optimizer": Optax("optax.sgd"), "no_decay": ("*/bias",)},
         "no_decay: optax.sgd has no argument `mask` or `weight_decay_mask`"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_sentence(changed, message):
    def begin():
        config = with_(**changed)
        digits = load("digits")
        start_of(config, make_plan(config, 100), digits, *choose_rows(config, digits))

    with pytest.raises(ConfigError, match=message) as error:
        begin()
    assert "\n" not in str(error.value)


def test_numbers_are_named_after_their_patterns():
    config = with_(rates={"b*": 1, "a*": 2})
    assert compiled_rules(config).rates == ("a*", "b*")
    assert dict(make_hypers(config).rules) == {"rates.a*": 2.0, "rates.b*": 1.0}
    assert optimizer_numbers(config.optimizer) == {"weight_decay": 0.0, "momentum": 0.0}
    assert Config.from_dict(config.to_dict()) == config
