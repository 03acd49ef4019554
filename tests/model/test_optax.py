"""Any optimizer and schedule: of optax, or a factory of one's own."""

import dataclasses
import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax_table import OPTIMIZERS

from flaxcnn.errors import ConfigError
from flaxcnn.model import optim, schedules
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten
from flaxcnn.recipe.optimizers import Optax
from flaxcnn.recipe.references import copies_in
from flaxcnn.recipe.schedules import OptaxSchedule
from flaxcnn.recipe.traced import compiled_optimizer, optimizer_numbers

PARAMS = {"dense": {"kernel": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), "bias": jnp.ones(3)}}
GRADS = jax.tree.map(lambda p: jnp.cos(3 * p), PARAMS)
# Those that ask for more than gradients: a second pass, or the value of the loss.
REFUSED = {"lbfgs": "it needs the loss's value and gradient at other points",
           "polyak_sgd": "it needs the loss's value",
           "contrib.momo": "it needs the loss's value",
           "contrib.sophia": "it needs the loss as a function",
           "noisy_sgd": "its state holds a random key"}  # fmt: skip


def steps(spec, numbers=None, count=3):
    """Parameters after some updates, each on the gradients of a fixed function."""
    numbers = jax.tree.map(jnp.float32, numbers or optimizer_numbers(spec))
    rate, own = jnp.float32(0.01), compiled_optimizer(spec)
    params, state = PARAMS, optim.initial(own, rate, numbers, PARAMS)
    for _ in range(count):
        change, state = jax.jit(optim.update, static_argnums=0)(
            own, rate, numbers, GRADS, state, params
        )
        params = optax.apply_updates(params, change)
    return params


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_of_optax_is_what_optax_makes(name):
    spec = Optax(f"optax.{name}", **OPTIMIZERS[name])
    ours = steps(spec)
    theirs = operator.attrgetter(name)(optax)(0.01, **OPTIMIZERS[name])
    params, state = PARAMS, theirs.init(PARAMS)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(3):
            change, state = jax.jit(theirs.update)(GRADS, state, params)
            params = optax.apply_updates(params, change)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), ours, params)
    assert jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), ours, PARAMS))


def test_traced_numbers_share_a_program():
    """Two weight decays are one compiled optimizer, and each is used."""
    few, much = (Optax("optax.adamw", traced=("weight_decay",), weight_decay=w) for w in (0.1, 0.5))
    assert compiled_optimizer(few) == compiled_optimizer(much)
    assert hash(compiled_optimizer(few)) == hash(compiled_optimizer(much))
    assert compiled_optimizer(few) != compiled_optimizer(Optax("optax.adamw", weight_decay=0.1))
    a, b = steps(few), steps(much)
    assert (a["dense"]["kernel"] != b["dense"]["kernel"]).any()
    fixed = steps(Optax("optax.adamw", weight_decay=0.1))
    np.testing.assert_allclose(a["dense"]["kernel"], fixed["dense"]["kernel"], rtol=1e-6)


def test_side_by_side_each_has_the_bits_that_it_has_alone():
    spec = Optax("optax.lamb", traced=("weight_decay",), weight_decay=0.1)
    update = lambda rate, numbers: optim.update(  # noqa: E731
        compiled_optimizer(spec),
        rate,
        numbers,
        GRADS,
        optim.initial(spec, rate, numbers, PARAMS),
        PARAMS,
    )[0]
    rates, decays = jnp.array([0.1, 0.01]), {"weight_decay": jnp.array([0.1, 0.5])}
    together = jax.jit(jax.vmap(update))(rates, decays)
    for k in range(2):
        alone = jax.jit(update)(rates[k], {"weight_decay": decays["weight_decay"][k]})
        jax.tree.map(
            lambda a, b, k=k: np.testing.assert_allclose(a[k], b, rtol=1e-6), together, alone
        )


@pytest.fixture
def factory(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "import optax\n\n\n"
        "def clipped(rate, norm=1.0):\n"
        "    return optax.chain(optax.clip_by_global_norm(norm), optax.sgd(rate))\n\n\n"
        "def number(rate):\n    return 3\n\n\n"
        "def wave(height):\n    return lambda t: height * t\n"
    )
    return path


def test_a_factory_of_ones_own(factory, tmp_path):
    spec = Optax(f"{factory}:clipped", norm=0.5)
    norm = optax.tree.norm(GRADS)
    moved = jax.tree.map(lambda a, b: a - b, steps(spec, count=1), PARAMS)
    expected = jax.tree.map(lambda g: -0.01 * g * 0.5 / norm, GRADS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), moved, expected)
    config = Config("digits", (Flatten(), Dense(10)), optimizer=spec)
    again = Config.from_dict(config.to_dict())
    assert again == config
    assert again.optimizer.source == spec.source
    assert len(spec.source) == 64
    old = factory.read_text()
    factory.write_text(old.replace("norm=1.0", "norm=2.0"))
    assert Optax(f"{factory}:clipped", norm=0.5).source != spec.source  # another recipe
    with pytest.raises(ConfigError, match=r"own\.py has changed since the recipe was made"):
        steps(spec, count=1)
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies" / "own.py").write_text(old)
    with copies_in(tmp_path / "copies"):
        steps(spec, count=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: Optax("optax.adamm"), "no 'adamm' there; did you mean 'adam'"),
        (lambda p: Optax("optax.adam", beta=0.9), "optax.adam refuses: .*beta"),
        (lambda p: Optax(f"{p}:number"), "must return an optax.GradientTransformation"),
        (lambda p: Optax(f"{p}:nothing"), "no 'nothing' there"),
        (lambda p: Optax("there_is_none.py:make"), "cannot read there_is_none.py"),
        (lambda p: Optax("no_such_package.optim:make"), "there is no module no_such_package.opt"),
        (lambda p: Optax("adam"), "names no Python object"),
        (lambda p: Optax("optax.adam", b1=object()), "optimizer.b1 must be a number, text"),
        (lambda p: Optax("optax.adamw", traced=("weight_dcay",), weight_decay=0.1),
         "did you mean 'weight_decay'"),
    ],
)  # fmt: skip
def test_what_is_no_optimizer_is_said_in_one_sentence(factory, make, message):
    with pytest.raises(ConfigError, match=message) as error:
        steps(make(factory), count=1)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", REFUSED)
def test_optimizers_that_need_more_than_gradients(name):
    with pytest.raises(ConfigError, match=f"optimizer: optax.{name} "):
        steps(Optax(f"optax.{name}", **({"key": 0} if name == "noisy_sgd" else {})), count=1)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (OptaxSchedule("optax.exponential_decay", init_value=1.0, transition_steps=10,
                       decay_rate=0.5), lambda step: 0.5 ** (step / 10)),
        (OptaxSchedule("optax.exponential_decay", unit="epochs", init_value=1.0,
                       transition_steps=1, decay_rate=0.5), lambda step: 0.5 ** (step / 8)),
        (OptaxSchedule("optax.linear_schedule", unit="run", init_value=1.0, end_value=0.0,
                       transition_steps=1), lambda step: 1 - step / 40),
    ],
    ids=["updates", "epochs", "run"],
)  # fmt: skip
def test_schedules_in_three_units(schedule, expected):
    rates = [
        float(schedules.scheduled_rate(schedule, jnp.float32(0.1), jnp.int32(step), 8, 40))
        for step in range(0, 41, 4)
    ]
    np.testing.assert_allclose(rates, [0.1 * expected(s) for s in range(0, 41, 4)], atol=1e-7)


def test_a_schedule_of_ones_own_and_wrong_ones(factory):
    schedule = OptaxSchedule(f"{factory}:wave", height=2.0)
    rate = schedules.scheduled_rate(schedule, jnp.float32(0.1), jnp.int32(3), 8, 40)
    assert float(rate) == pytest.approx(0.6)
    for wrong, message in (
        (OptaxSchedule("optax.linear_schedule", wrong=1), "refuses: "),
        (OptaxSchedule(f"{factory}:number", rate=1), "must return a function"),
    ):
        with pytest.raises(ConfigError, match=message):
            schedules.scheduled_rate(wrong, jnp.float32(0.1), jnp.int32(3), 8, 40)


def test_a_recipe_with_them_is_json_and_has_a_name_of_its_own():
    base = Config("digits", (Flatten(), Dense(10)))
    schedule = OptaxSchedule("optax.linear_schedule", unit="run", init_value=1.0, end_value=0.0,
                             transition_steps=1)  # fmt: skip
    own = dataclasses.replace(base, optimizer=Optax("optax.lion", b1=0.95), schedule=schedule)
    plain = own.to_dict()
    assert plain["optimizer"] == {
        "type": "optax", "factory": "optax.lion", "traced": [], "source": "", "b1": 0.95,
    }  # fmt: skip
    assert Config.from_dict(plain) == own
    assert own.fingerprint() != base.fingerprint()
