"""Specifications of learning-rate schedules; `flaxcnn.model.schedules` computes them.

A schedule gives a factor of `learning_rate` for every update. Names and defaults are those of
`torch.optim.lr_scheduler` where it has the same, but times are in epochs, which may be fractions.
Where a schedule spans the run, its last value is that just after the last update.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.fields import about, check_bounds, setting
from flaxcnn.recipe.references import Json, TakesArguments, name_of


class _Checked:
    """Range checks of the schedules."""

    spans: ClassVar[bool] = False  # whether the rate at an update depends on how many follow

    def __post_init__(self) -> None:
        check_bounds(self, "schedule.")


@dataclass(frozen=True)
class _WarmUp(_Checked):
    """Those that may begin with a linear rise."""

    _: KW_ONLY
    warmup_epochs: float = setting(0.0, "epochs of linear warm-up", at_least=0)


def _share(default: float, sentence: str) -> float:
    return setting(default, sentence, at_least=0, at_most=1)


def _final() -> float:
    return _share(0.0, "share of the rate after the last step")


def _momentum(default: float, sentence: str) -> float:
    return setting(
        default, f"momentum {sentence}, with `cycle_momentum`", at_least=0, below=1, before=default
    )


@dataclass(frozen=True)
class Constant:
    """The learning rate unchanged."""

    spans: ClassVar[bool] = False


@dataclass(frozen=True)
class TimeDecay(_Checked):
    """Keras 2's `decay`: rate / (1 + decay * step), step counted in updates from 0."""

    decay: float = field(metadata=about("decay per update", at_least=0))


@dataclass(frozen=True)
class Cosine(_Checked):
    """Linear warm-up, then half a cosine to `final` times the rate just after the last step."""

    warmup_epochs: float = setting(0.0, "epochs of linear warm-up", at_least=0)
    final: float = _final()

    spans = True


@dataclass(frozen=True)
class Polynomial(_WarmUp):
    """Warm-up, then (1 - t)^power down to `final`, t from 0 to 1; power 1 is a straight line."""

    power: float = setting(1.0, "1: linear; 2: quadratic", above=0)
    final: float = _final()

    spans = True


@dataclass(frozen=True)
class OneCycle(_Checked):
    """Smith and Topin 2019 (arXiv:1708.07120): up to the rate, and down to almost nothing.

    As torch's `OneCycleLR`: from rate / `div_factor` to the rate, then to
    rate / (`div_factor` * `final_div_factor`). With `cycle_momentum` the momentum (`beta_1` of
    Adam) goes the other way: from `max_momentum` to `base_momentum` and back.
    """

    pct_start: float = setting(0.3, "share of the run in which the rate rises", above=0, below=1)
    div_factor: float = setting(25.0, "the rate over the first one", at_least=1)
    final_div_factor: float = setting(1e4, "the first rate over the last one", at_least=1)
    anneal_strategy: Literal["cos", "linear"] = "cos"
    cycle_momentum: bool = setting(False, "the momentum has a cycle, too", before=False)
    base_momentum: float = _momentum(0.85, "where the rate is highest")
    max_momentum: float = _momentum(0.95, "at the start and the end")

    spans = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base_momentum > self.max_momentum:
            raise ConfigError(
                f"schedule.base_momentum must be at most max_momentum={self.max_momentum} "
                f"(got {self.base_momentum})"
            )


@dataclass(frozen=True)
class Triangular(_Checked):
    """Straight lines from `start` up to the rate and down to `end`; once, or in several cycles.

    With `cycles` it is Smith's cyclical rate (2017, arXiv:1506.01186), its "triangular2" with
    `gamma` 0.5.
    """

    peak: float = setting(0.5, "share of a cycle in which the rate rises", above=0, below=1)
    start: float = _share(0.0, "share of the rate at the start of a cycle")
    end: float = _share(0.0, "share of the rate at the end of a cycle")
    cycles: int = setting(1, "cycles in the run", at_least=1, whole=True)
    gamma: float = setting(1.0, "factor of the rate from one cycle to the next", above=0, at_most=1)

    spans = True


@dataclass(frozen=True)
class Trapezoid(_WarmUp):
    """Warm-up, the rate unchanged, and a decay in the last `decay_epochs` ("WSD").

    "sqrt" is 1 - sqrt(t), of Hägele et al. 2024 (arXiv:2405.18392).
    """

    decay_epochs: float = field(metadata=about("epochs of decay at the end", at_least=0))
    final: float = _final()
    shape: Literal["linear", "sqrt"] = "linear"

    spans = True


@dataclass(frozen=True)
class Step(_WarmUp):
    """The rate times `gamma` after every `step_size` epochs."""

    step_size: float = field(metadata=about("epochs of one rate", above=0))
    gamma: float = setting(0.1, "factor of the rate", above=0, at_most=1)


@dataclass(frozen=True)
class MultiStep(_WarmUp):
    """The rate times `gamma` at each of the `milestones`."""

    milestones: tuple[float, ...] = field(metadata=about("epochs, such as 60, 120, 160"))
    gamma: float = setting(0.1, "factor of the rate", above=0, at_most=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        times = (0.0, *self.milestones)
        if len(times) == 1 or any(late <= early for early, late in pairwise(times)):
            raise ConfigError(
                "schedule.milestones must be epochs above 0, each later than the one before "
                f"(got {list(self.milestones)})"
            )


@dataclass(frozen=True)
class Exponential(_WarmUp):
    """The rate times `gamma` in every epoch: at once, or a little with each update."""

    gamma: float = field(metadata=about("factor of an epoch", above=0, at_most=1))
    staircase: bool = setting(True, "the rate changes between epochs only")


@dataclass(frozen=True)
class Restarts(_WarmUp):
    """Cosines one after the other, SGDR: Loshchilov and Hutter 2017 (arXiv:1608.03983).

    The first takes `t_0` epochs, each next one `t_mult` times as many.
    """

    t_0: float = field(metadata=about("epochs of the first cosine", above=0))
    t_mult: int = setting(1, "factor of the epochs of the next cosine", at_least=1, whole=True)
    final: float = _share(0.0, "share of the rate at the end of each cosine")
    gamma: float = setting(1.0, "factor of the rate at each restart", above=0, at_most=1)


@dataclass(frozen=True)
class Plateau(_WarmUp):
    """The rate times `factor` once `patience` epochs have not improved what `monitor` names.

    As torch's `ReduceLROnPlateau` with an absolute threshold. The number of reductions is part of
    the run's state.
    """

    factor: float = setting(0.1, "factor of the rate", above=0, below=1)
    patience: int = setting(
        10, "epochs without improvement that are waited for", at_least=0, whole=True
    )
    threshold: float = setting(1e-4, "smallest improvement that counts", at_least=0)
    cooldown: int = setting(
        0, "epochs after a reduction in which none counts as bad", at_least=0, whole=True
    )
    final: float = _share(0.0, "share of the rate below which it is not reduced")


@dataclass(frozen=True, init=False)
class OptaxSchedule(TakesArguments):
    """A schedule of optax, or a factory of one's own: its value times the learning rate.

    `factory(**arguments)` returns a function of the time in `unit`: updates, epochs, or the share
    of the run that is done, from 0 to 1. `OptaxSchedule("optax.linear_schedule", unit="run",
    init_value=1.0, end_value=0.0, transition_steps=1)` goes down to 0 with the last update.
    """

    factory: str
    unit: Literal["updates", "epochs", "run"] = "updates"
    source: str = ""  # as of Optax
    arguments: tuple[tuple[str, Json], ...] = ()

    def __init__(
        self, factory: str | Callable[..., Any], *,
        unit: Literal["updates", "epochs", "run"] = "updates", source: str = "", **arguments: Any,
    ):  # fmt: skip
        factory, source = name_of(factory, source, "schedule")
        fields = {"factory": factory, "unit": unit, "source": source}
        self._set("schedule", fields, arguments)

    @property
    def spans(self) -> bool:
        """Whether its time is the share of the run."""
        return self.unit == "run"


Schedule = (
    Constant | TimeDecay | Cosine | Polynomial | OneCycle | Triangular | Trapezoid | Step
    | MultiStep | Exponential | Restarts | Plateau | OptaxSchedule
)  # fmt: skip


def spans_run(schedule: Schedule) -> bool:
    """Whether the rate at an update depends on how many there are in all."""
    return schedule.spans


def restarts(t_0: float, t_mult: int, longest: float = 1e9) -> Sequence[float]:
    """When each cosine of `Restarts` begins, in the unit of `t_0`, up to a time `longest`.

    Only for `t_mult` above 1; with 1 they are the multiples of `t_0`.

    >>> list(restarts(10, 2, longest=100))
    [0.0, 10.0, 30.0, 70.0]
    """
    starts, length = [0.0], t_0
    while starts[-1] + length <= longest:
        starts.append(starts[-1] + length)
        length *= t_mult
    return starts
