"""Schedules against optax, where it has the same, and torch's formulas restated in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flaxcnn.errors import ConfigError
from flaxcnn.model.schedules import scheduled_numbers, scheduled_rate
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten
from flaxcnn.recipe.schedules import (
    Cosine,
    Exponential,
    MultiStep,
    OneCycle,
    Plateau,
    Polynomial,
    Restarts,
    Step,
    Trapezoid,
    Triangular,
    spans_run,
)

EPOCH, TOTAL, RATE = 8, 96, 0.3  # updates of an epoch and of a run of 12
# Of the rate: float32 powers and cosines.
TOLERANCE = 2e-6
STEPS = np.arange(TOTAL)


def rates(schedule):
    """[TOTAL] rates by the package, in one compiled call."""
    of = lambda step: scheduled_rate(schedule, jnp.float32(RATE), step, EPOCH, TOTAL)  # noqa: E731
    return np.asarray(jax.jit(jax.vmap(of))(jnp.asarray(STEPS, jnp.int32)), np.float64)


def sgdr(t_0, t_mult, final, gamma):
    """torch's CosineAnnealingWarmRestarts, epoch by epoch, with a factor at each restart."""
    now, length, peak, found = 0.0, t_0, 1.0, []
    for _ in STEPS:
        if now >= length - 1e-9:
            now, length, peak = now - length, length * t_mult, peak * gamma
        found.append(peak * (final + (1 - final) * (1 + math.cos(math.pi * now / length)) / 2))
        now += 1 / EPOCH
    return np.array(found)


def ramps(points, values):
    """Straight lines between shares of the run."""
    return np.interp(STEPS / TOTAL, points, values)


RISE = np.minimum((STEPS + 1) / (2 * EPOCH), 1)  # two epochs of warm-up
CASES = {
    "one cycle": (OneCycle(0.25), optax.cosine_onecycle_schedule(TOTAL, 1.0, pct_start=0.25)),
    "one cycle by hand": (
        OneCycle(0.25, 10, 100, "linear"), ramps([0, 0.25, 1], [0.1, 1, 0.001])),
    "triangular": (Triangular(0.25, 0.2, 0.07), ramps([0, 0.25, 1], [0.2, 1, 0.07])),
    "cycles": (Triangular(0.5, cycles=2, gamma=0.5),
               ramps([0, 0.25, 0.5, 0.75, 1], [0, 1, 0, 0.5, 0])),
    "trapezoid": (Trapezoid(3, warmup_epochs=2), RISE * ramps([0, 0.75, 1], [1, 1, 0])),
    "trapezoid, root": (Trapezoid(3, final=0.1, shape="sqrt"),
                        0.1 + 0.9 * (1 - np.sqrt(np.clip((STEPS - 72) / 24, 0, 1)))),
    "step": (Step(5, 0.1), 0.1 ** (STEPS // (5 * EPOCH))),
    "multi-step": (MultiStep((3, 7.5), 0.2, warmup_epochs=2),
                   RISE * np.where(STEPS < 24, 1, np.where(STEPS < 60, 0.2, 0.04))),
    "exponential": (Exponential(0.9), optax.exponential_decay(1.0, EPOCH, 0.9, staircase=True)),
    "exponential, smooth": (Exponential(0.9, staircase=False),
                            optax.exponential_decay(1.0, EPOCH, 0.9)),
    "linear": (Polynomial(), optax.linear_schedule(1.0, 0.0, TOTAL)),
    "quadratic": (Polynomial(power=2, final=0.1), optax.polynomial_schedule(1.0, 0.1, 2, TOTAL)),
    "linear after a warm-up": (Polynomial(warmup_epochs=2),
                               RISE * np.clip((TOTAL - STEPS) / (TOTAL - 16), 0, 1)),
    "restarts": (Restarts(3, 1, 0.1, 0.5), sgdr(3, 1, 0.1, 0.5)),
    "restarts, longer": (Restarts(1.5, 2), sgdr(1.5, 2, 0, 1)),
    "plateau": (Plateau(warmup_epochs=2), RISE),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_is_its_formula(name):
    schedule, expected = CASES[name]
    if callable(expected):
        with jax.numpy_dtype_promotion("standard"):
            expected = np.asarray([expected(step) for step in STEPS], np.float64)
    np.testing.assert_allclose(rates(schedule), RATE * expected, atol=RATE * TOLERANCE)


@pytest.mark.parametrize("schedule", [schedule for schedule, _ in CASES.values()])
def test_a_recipe_holds_it(schedule):
    config = Config("digits", (Flatten(), Dense(10)), schedule=schedule)
    assert Config.from_dict(config.to_dict()) == config
    # What a longer run would have done by now is what a shorter one has.
    spanning = Cosine | OneCycle | Triangular | Trapezoid | Polynomial
    assert spans_run(schedule) == isinstance(schedule, spanning)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Step(0), "schedule.step_size must be above 0"),
        (lambda: MultiStep(()), "schedule.milestones must be epochs above 0, each later"),
        (lambda: MultiStep((5, 5)), "schedule.milestones must be epochs above 0, each later"),
        (lambda: OneCycle(1.0), "schedule.pct_start must be above 0 and below 1"),
        (lambda: Restarts(1, 1.5), "schedule.t_mult must be an integer of at least 1"),
        (lambda: Plateau(1.0), "schedule.factor must be above 0 and below 1"),
        (lambda: Config("digits", (Flatten(), Dense(10)), schedule="onecycl"),
         "did you mean 'onecycle'"),
        (lambda: Config("digits", (Flatten(), Dense(10)), schedule="step"),
         "schedule.step_size is missing; step needs it"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_sentence(make, message):
    with pytest.raises(ConfigError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def torch_momentum(cycle, first, low):
    """`OneCycleLR` in float64: its phases end at pct_start * total - 1 and total - 1, so `total` is
    one more than the updates of the run, whose last value here is that after the last update."""
    total = TOTAL + 1
    turn, end = cycle.pct_start * (total - 1), total - 1.0
    between = {
        "cos": lambda a, b, p: b + (a - b) / 2 * (1 + math.cos(math.pi * p)),
        "linear": lambda a, b, p: a + (b - a) * p,
    }[cycle.anneal_strategy]
    return [
        between(first, low, n / turn)
        if n < turn
        else between(low, first, (n - turn) / (end - turn))
        for n in range(TOTAL)
    ]


@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("name", ["momentum", "beta_1"])
def test_one_cycle_of_the_momentum_is_that_of_torch(name, strategy):
    cycle = OneCycle(0.25, anneal_strategy=strategy, cycle_momentum=True, base_momentum=0.8)
    given = {"weight_decay": jnp.float32(0.1)} | (
        {name: jnp.float32(0.5)} if name != "beta_1" else {}
    )
    of = lambda step: scheduled_numbers(cycle, given, step, TOTAL)  # noqa: E731
    found = jax.jit(jax.vmap(of))(jnp.asarray(STEPS, jnp.int32))
    np.testing.assert_allclose(found[name], torch_momentum(cycle, 0.95, 0.8), atol=TOLERANCE)
    np.testing.assert_array_equal(found["weight_decay"], np.full(TOTAL, 0.1, np.float32))
    assert scheduled_numbers(OneCycle(), given, jnp.int32(3), TOTAL) is given


@pytest.mark.parametrize(
    ("schedule", "optimizer", "message"),
    [
        ({"cycle_momentum": True}, "adadelta", r"momentum or beta_1.*\(got optimizer=adadelta\)"),
        ({"cycle_momentum": True}, "rmsprop", r"\(got optimizer=rmsprop without momentum\)"),
        ({"base_momentum": 0.99}, "sgd", r"must be at most max_momentum=0.95 \(got 0.99\)"),
        ({"max_momentum": 1}, "sgd", "schedule.max_momentum must be at least 0 and below 1"),
    ],
)  # fmt: skip
def test_a_momentum_that_cannot_have_a_cycle(schedule, optimizer, message):
    with pytest.raises(ConfigError, match=message):
        Config("digits", (Flatten(), Dense(10)), optimizer=optimizer,
               schedule={"type": "onecycle", **schedule})  # fmt: skip
