"""Averages of weights against their definitions, update by update, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxcnn.errors import ConfigError
from flaxcnn.model import averages
from flaxcnn.recipe.averages import EMA, SWA, ScheduleFree
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten

EPOCH, UPDATES = 4, 32
WEIGHTS = np.random.default_rng(0).normal(size=(UPDATES + 1, 5)).astype(np.float32)
CLOSE = {"rtol": 1e-6, "atol": 1e-6}  # float32, an average over 32 updates


def followed(average, decay=None):
    """[UPDATES + 1, 5]: the average before the first update and after each."""
    trees = [{"params": {"w": jnp.asarray(w)}, "batch_stats": {"m": w + 1}} for w in WEIGHTS]
    state = averages.initial(average, trees[0]["params"], trees[0]["batch_stats"], ())
    decay = None if decay is None else jnp.float32(decay)
    after = jax.jit(averages.after, static_argnums=(0, 6))
    found = [state]
    for done, new in enumerate(trees[1:], start=1):
        state = after(average, decay, state, new, (), jnp.int32(done), EPOCH)
        found.append(state)
    for each in found:  # batch statistics are averaged alike
        np.testing.assert_allclose(
            each["batch_stats"]["m"], each["params"]["w"] + 1, rtol=1e-5, atol=1e-5
        )
    return np.stack([each["params"]["w"] for each in found])


def ema(decay_of, start=0):
    average, found = WEIGHTS[0].astype(np.float64), []
    for done, weights in enumerate(WEIGHTS.astype(np.float64)):
        decay = 0 if done <= start else decay_of(done - start)
        average = decay * average + (1 - decay) * weights
        found.append(average)
    return np.stack(found)


def test_ema_from_the_initial_weights():
    np.testing.assert_allclose(followed(EMA(), 0.9), ema(lambda _: 0.9), **CLOSE)


def test_ema_after_some_epochs_and_with_a_warm_up():
    found = followed(EMA(start=1.5, warmup=True), 0.9)
    assert (found[:7] == WEIGHTS[:7]).all()  # until then it is the weights
    expected = ema(lambda t: min(0.9, (1 + t) / (10 + t)), start=6)
    np.testing.assert_allclose(found, expected, **CLOSE)


@pytest.mark.parametrize("every", [1, 2])
def test_swa_is_the_mean_of_the_weights_after_epochs(every):
    found = followed(SWA(start=3, every=every))
    for done in range(UPDATES + 1):
        epochs = range(3, done // EPOCH + 1, every)
        mean = np.mean([WEIGHTS[e * EPOCH] for e in epochs], axis=0) if epochs else WEIGHTS[done]
        np.testing.assert_allclose(found[done], mean, **CLOSE)


@pytest.mark.parametrize("name", ["schedule_free_sgd", "schedule_free_adamw"])
def test_schedule_free_weights_are_those_that_optax_evaluates(name):
    optimizer = optax.chain(optax.clip(1.0), getattr(optax.contrib, name)(0.1))
    params = {"w": jnp.asarray(WEIGHTS[0])}
    state = optimizer.init(params)
    average = averages.initial(ScheduleFree(), params, {}, state)
    with jax.numpy_dtype_promotion("standard"):
        for done in range(1, 5):
            change, state = optimizer.update({"w": jnp.cos(params["w"])}, state, params)
            params = optax.apply_updates(params, change)
            new = {"params": params, "batch_stats": {}}
            average = averages.after(
                ScheduleFree(), None, average, new, state, jnp.int32(done), EPOCH
            )
        expected = optax.contrib.schedule_free_eval_params(state[1], params)
    np.testing.assert_allclose(average["params"]["w"], expected["w"], **CLOSE)
    assert (average["params"]["w"] != params["w"]).any()


@pytest.mark.parametrize(
    ("average", "message"),
    [
        ({"type": "ema", "decay": 1}, "average.decay must be above 0 and below 1 \\(got 1.0\\)"),
        ({"type": "swa"}, "average.start is missing; swa needs it"),
        ({"type": "swa", "start": 0}, "average.start must be an integer of at least 1 \\(got 0\\)"),
        ("emma", "did you mean 'ema'"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(average, message):
    with pytest.raises(ConfigError, match=message):
        Config("digits", (Flatten(), Dense(10)), average=average)


def test_schedule_free_needs_such_an_optimizer():
    with pytest.raises(ConfigError, match="average=schedulefree needs an optimizer such as optax"):
        averages.initial(ScheduleFree(), {}, {}, optax.sgd(0.1).init({}))
