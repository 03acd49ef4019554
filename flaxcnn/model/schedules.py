"""Learning-rate schedules: the rate at an update, as a function of its number.

They are computed inside the step, so the learning rate is an argument of the compiled program and
runs that differ in it share one. Formulas are those of `torch.optim.lr_scheduler` and optax, with
the time of torch's schedulers in epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from flaxcnn.errors import ConfigError
from flaxcnn.model.factories import made
from flaxcnn.recipe import schedules as spec

Scalar = jax.Array  # [] float32


def scheduled_rate(
    schedule: spec.Schedule, rate: Scalar, step: jax.Array, steps_per_epoch: int, total_steps: int
) -> Scalar:
    """Learning rate of update number `step` (from 0), [] float32."""
    now = step.astype(jnp.float32)
    match schedule:
        case spec.Constant():
            return rate
        case spec.TimeDecay(decay=decay):
            return rate / (1.0 + decay * now)
        case spec.Cosine(warmup_epochs=warmup_epochs, final=final):
            warmup = warmup_epochs * steps_per_epoch
            rise = jnp.minimum((now + 1.0) / max(warmup, 1.0), 1.0)
            left = max(total_steps - warmup, 1.0)
            progress = jnp.clip((now - warmup) / left, 0.0, 1.0)
            return rate * rise * (final + (1.0 - final) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress)))
        case spec.OptaxSchedule(unit=unit):
            whole = {"updates": 1, "epochs": steps_per_epoch, "run": total_steps}[unit]
            with jax.numpy_dtype_promotion("standard"):
                times = _from_factory(schedule)(step if unit == "updates" else now / whole)
                return rate * jnp.asarray(times, jnp.float32)
        case _:
            factor = _factor(schedule, _Time(now, float(steps_per_epoch), float(total_steps)))
            if warmup := getattr(schedule, "warmup_epochs", 0.0) * steps_per_epoch:
                factor = factor * jnp.minimum((now + 1.0) / max(warmup, 1.0), 1.0)
            return rate * factor


def scheduled_numbers(
    schedule: spec.Schedule, numbers: dict[str, Scalar], step: jax.Array, total_steps: int
) -> dict[str, Scalar]:
    """The traced numbers of the optimizer at an update, with the momentum of the schedule.

    That of SGD, RMSprop and Muon is `momentum`; of Adam and its like, `beta_1`.
    """
    if not isinstance(schedule, spec.OneCycle) or not schedule.cycle_momentum:
        return numbers
    share = _Time(step.astype(jnp.float32), 1.0, float(total_steps)).share(0.0)
    low, high = schedule.base_momentum, schedule.max_momentum
    momentum = _one_cycle(schedule, share, high, low, high)
    return {**numbers, ("momentum" if "momentum" in numbers else "beta_1"): momentum}


@dataclass(frozen=True)
class _Time:
    """When an update is."""

    now: Scalar  # updates before it
    epoch: float  # updates of an epoch
    total: float  # updates of the run

    def share(self, first: float) -> Scalar:
        """How much is done of what follows the first updates: 0 to 1."""
        return jnp.clip((self.now - first) / max(self.total - first, 1.0), 0.0, 1.0)


def _factor(schedule: spec.Schedule, time: _Time) -> Scalar:
    """What the learning rate is multiplied by, without a warm-up: [] float32."""
    now, epoch = time.now, time.epoch
    match schedule:
        case spec.Polynomial(warmup_epochs=warmup, power=power, final=final):
            return final + (1.0 - final) * (1.0 - time.share(warmup * epoch)) ** power
        case spec.OneCycle():
            first = 1.0 / schedule.div_factor
            last = first / schedule.final_div_factor
            return _one_cycle(schedule, time.share(0.0), first, 1.0, last)
        case spec.Triangular():
            return _triangular(schedule, time.share(0.0))
        case spec.Trapezoid(decay_epochs=decay, final=final, shape=shape):
            gone = jnp.clip(1.0 - (time.total - now) / max(decay * epoch, 1.0), 0.0, 1.0)
            return final + (1.0 - final) * (1.0 - (gone if shape == "linear" else jnp.sqrt(gone)))
        case spec.Step(step_size=size, gamma=gamma):
            return gamma ** jnp.floor(now / (size * epoch))
        case spec.MultiStep(milestones=milestones, gamma=gamma):
            past = now >= jnp.asarray(milestones, jnp.float32) * epoch
            return gamma ** past.sum(dtype=jnp.float32)
        case spec.Exponential(gamma=gamma, staircase=staircase):
            done = now / epoch
            return gamma ** (jnp.floor(done) if staircase else done)
        case spec.Restarts():
            return _restarts(schedule, jnp.maximum(now / epoch - schedule.warmup_epochs, 0.0))
    return jnp.float32(1)  # Plateau, whose reductions are made between epochs


def _one_cycle(
    schedule: spec.OneCycle, share: Scalar, first: float, turn: float, last: float
) -> Scalar:
    """From `first` to `turn` in the first part of the run, and to `last` in the second."""
    up = share / schedule.pct_start
    down = (share - schedule.pct_start) / (1.0 - schedule.pct_start)
    if schedule.anneal_strategy == "cos":
        up, down = (0.5 - 0.5 * jnp.cos(jnp.pi * part) for part in (up, down))
    rising = share < schedule.pct_start
    return jnp.where(rising, first + (turn - first) * up, turn + (last - turn) * down)


def _triangular(schedule: spec.Triangular, share: Scalar) -> Scalar:
    cycle = jnp.minimum(jnp.floor(share * schedule.cycles), schedule.cycles - 1.0)
    part = share * schedule.cycles - cycle
    up = schedule.start + (1.0 - schedule.start) * part / schedule.peak
    down = 1.0 + (schedule.end - 1.0) * (part - schedule.peak) / (1.0 - schedule.peak)
    return schedule.gamma**cycle * jnp.where(part < schedule.peak, up, down)


def _restarts(schedule: spec.Restarts, epochs: Scalar) -> Scalar:
    """`epochs` after the warm-up."""
    if schedule.t_mult == 1:
        number = jnp.floor(epochs / schedule.t_0)
        part = epochs / schedule.t_0 - number
    else:
        starts = jnp.asarray(spec.restarts(schedule.t_0, schedule.t_mult), jnp.float32)
        index = (epochs >= starts).sum() - 1
        number = index.astype(jnp.float32)
        part = (epochs - starts[index]) / (schedule.t_0 * schedule.t_mult**number)
    wave = 0.5 * (1.0 + jnp.cos(jnp.pi * part))
    return schedule.gamma**number * (schedule.final + (1.0 - schedule.final) * wave)


def _from_factory(schedule: spec.OptaxSchedule) -> Callable[[jax.Array], Any]:
    """The function that a schedule's factory returns.

    Raises:
        ConfigError: the factory refuses its arguments, or returns something else.
    """
    function = made(schedule, "schedule", lambda factory: factory(**schedule.named))
    if not callable(function):
        raise ConfigError(f"schedule: {schedule.factory} must return a function (got {function!r})")
    return function
