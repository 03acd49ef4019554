"""What an update does beside the optimizer: clipping, and rules over the names of weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.averages import Average
from flaxcnn.recipe.fields import about, check_bounds, setting
from flaxcnn.recipe.references import Json, TakesArguments
from flaxcnn.recipe.teachers import Distill


class _Clip:
    """Range checks of the ways to clip."""

    def __post_init__(self) -> None:
        check_bounds(self, "clip.")


@dataclass(frozen=True)
class Norm(_Clip):
    """All gradients scaled together where their Euclidean norm is above `value` (Pascanu 2013)."""

    value: float = field(metadata=about("largest norm of all gradients as one vector", above=0))


@dataclass(frozen=True)
class Value(_Clip):
    """Each number of a gradient brought to between -`value` and `value`."""

    value: float = field(metadata=about("largest absolute value", above=0))


@dataclass(frozen=True)
class Adaptive(_Clip):
    """Each unit's gradient scaled to at most `value` times the norm of the unit's weights.

    Brock et al. 2021 (arXiv:2102.06171), as `optax.adaptive_grad_clip`: a unit is an output channel
    of a kernel, or a whole bias; norms of weights count as at least 0.001.
    """

    value: float = field(metadata=about("largest norm, of that of the weights", above=0))


Clip = Norm | Value | Adaptive


@dataclass(frozen=True)
class Lookahead:
    """Zhang et al. 2019 (arXiv:1907.08610): slow weights follow the fast ones from time to time.

    After every `steps` updates slow <- slow + alpha * (fast - slow), and the fast go on from there.
    With `power` p the share is 1 - (1 - alpha) * t^p at the time t of the run, from 0 to 1: slow
    weights that are free at first and heavy at the end, as airbench has them with p = 3 and
    alpha = 1 - 0.95^5 (Jordan 2024, arXiv:2404.00498).
    """

    steps: int = setting(5, "updates from one to the next", at_least=1, whole=True)
    alpha: float = setting(0.5, "share of the way that is gone", above=0, at_most=1)
    power: float = setting(
        0.0, "the share falls from 1 to alpha with the power of the time; 0: always alpha",
        at_least=0, before=0.0,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_bounds(self, "lookahead.")


@dataclass(frozen=True, init=False)
class _ByName(TakesArguments):
    """Numbers by patterns of names; where several fit a name, their product counts."""

    arguments: tuple[tuple[str, Json], ...] = ()

    setting: ClassVar[str]  # of the recipe
    zero: ClassVar[bool] = True  # whether a number may be 0

    def __init__(self, **arguments: Any):
        self._set(self.setting, {}, arguments)
        if not self.arguments:
            raise ConfigError(
                f'{self.setting} is empty; write patterns and numbers, as {{"conv2d*": 0.1}}'
            )
        for pattern, number in self.arguments:
            real = isinstance(number, int | float) and not isinstance(number, bool)
            if not real or not (number > 0 or (self.zero and number == 0)):  # type: ignore[operator]
                bound = "of at least 0" if self.zero else "above 0"
                raise ConfigError(
                    f"{self.setting}.{pattern} must be a number {bound} (got {number!r})"
                )


class Rates(_ByName):
    """Factors of the learning rate by patterns of names: `{"conv2d*": 0.1, "dense/*": 2}`.

    The change of a weight, its decay included, is multiplied by the factors of all patterns that
    fit its name.
    """

    setting = "rates"


class Decays(_ByName):
    """Factors of the weight decay by patterns of names: `{"*/bias": 0.1}`.

    `rates` multiply the decay as well; 1 over the factor there keeps it as of the other weights.
    """

    setting = "decays"


class Fade(_ByName):
    """Epochs in which the learning rate falls to 0, by patterns of names: `{"conv2d/bias": 3}`.

    The change of a weight is multiplied by 1 - t / epochs, and is 0 from then on.
    """

    setting, zero = "fade", False


@dataclass(frozen=True)
class Rules:
    """All of these, averages and teachers, as compiled in; their numbers are arguments."""

    freeze: tuple[str, ...] = ()
    no_decay: tuple[str, ...] = ()
    rates: tuple[str, ...] = ()  # patterns, as are the next two
    decays: tuple[str, ...] = ()
    fade: tuple[str, ...] = ()
    clip: Clip | None = None
    sam: bool = False
    lookahead: Lookahead | None = None
    average: Average | None = None
    distill: Distill | None = None


NO_RULES = Rules()
