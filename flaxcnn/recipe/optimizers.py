"""Optimizer and schedule specifications, with Keras's defaults. `model/optim.py` gives them life.

Defaults are those of Keras 3 unless a field says otherwise; an experiment whose document used an
older Keras sets the fields that differed there (`epsilon_in_sqrt`, `schedule_decay`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from flaxcnn.errors import ConfigError


class _Checked:
    """Range checks by field name, shared by the optimizers."""

    default_learning_rate: ClassVar[float]

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            where = f"optimizer.{field.name}"
            unit_interval = field.name in ("momentum", "beta_1", "beta_2", "rho")
            if unit_interval and not 0 <= value < 1:
                raise ConfigError(f"{where}: got {value!r}; allowed is 0 <= x < 1")
            if field.name == "epsilon" and not value > 0:
                raise ConfigError(f"{where}: got {value!r}; allowed is x > 0")
            if (
                field.name in ("weight_decay", "initial_accumulator", "schedule_decay")
                and value < 0
            ):
                raise ConfigError(f"{where}: got {value!r}; allowed is x >= 0")
        if getattr(self, "nesterov", False) and not self.momentum:  # type: ignore[attr-defined]
            raise ConfigError("optimizer.nesterov: needs a momentum above 0")


@dataclass(frozen=True)
class SGD(_Checked):
    """Gradient descent; the velocity of Keras's momentum includes the learning rate."""

    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    default_learning_rate = 0.01


@dataclass(frozen=True)
class Adam(_Checked):
    """Kingma and Ba 2015 in its "epsilon hat" form: epsilon is added before bias correction."""

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    weight_decay: float = 0.0

    default_learning_rate = 0.001


@dataclass(frozen=True)
class Nadam(_Checked):
    """Dozat 2016. `schedule_decay` scales the exponent of the momentum warm-up: 1 in Keras 3,
    0.004 in Keras 2 and TensorFlow 1 and 2, whose default learning rate was 0.002 until TF 1.13."""

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    schedule_decay: float = 1.0
    weight_decay: float = 0.0

    default_learning_rate = 0.001


@dataclass(frozen=True)
class Adamax(_Checked):
    """The infinity-norm Adam. Any epsilon is allowed: one document trains with 1."""

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    weight_decay: float = 0.0

    default_learning_rate = 0.002  # Keras 2; Keras 3 has 0.001


@dataclass(frozen=True)
class RMSprop(_Checked):
    """Hinton 2012. Keras 3 adds epsilon inside the square root, Keras 2 outside it."""

    rho: float = 0.9
    momentum: float = 0.0
    epsilon: float = 1e-7
    epsilon_in_sqrt: bool = True
    centered: bool = False
    weight_decay: float = 0.0

    default_learning_rate = 0.001


@dataclass(frozen=True)
class Adadelta(_Checked):
    """Zeiler 2012. Its rate is 1 in the paper, in Keras 2 and in TensorFlow until 1.13;
    Keras 3's default of 0.001 all but stops it."""

    rho: float = 0.95
    epsilon: float = 1e-7
    weight_decay: float = 0.0

    default_learning_rate = 1.0


@dataclass(frozen=True)
class Adagrad(_Checked):
    """Duchi et al. 2011. Keras 2 started the accumulator at 0 and had a rate of 0.01."""

    initial_accumulator: float = 0.1
    epsilon: float = 1e-7
    epsilon_in_sqrt: bool = True
    weight_decay: float = 0.0

    default_learning_rate = 0.001


Optimizer = SGD | Adam | Nadam | Adamax | RMSprop | Adadelta | Adagrad


@dataclass(frozen=True)
class Constant:
    """The learning rate as it is."""


@dataclass(frozen=True)
class TimeDecay:
    """Keras 2's `decay`: rate / (1 + decay * step), step counted in updates from 0."""

    decay: float

    def __post_init__(self) -> None:
        if not self.decay >= 0:
            raise ConfigError(f"schedule.decay: got {self.decay!r}; allowed is x >= 0")


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then half a cosine to `final` times the rate just after the last step."""

    warmup_epochs: float = 0.0
    final: float = 0.0

    def __post_init__(self) -> None:
        if not self.warmup_epochs >= 0:
            raise ConfigError(f"schedule.warmup_epochs: got {self.warmup_epochs!r}; allowed x >= 0")
        if not 0 <= self.final <= 1:
            raise ConfigError(f"schedule.final: got {self.final!r}; allowed is 0 <= x <= 1")


Schedule = Constant | TimeDecay | Cosine
