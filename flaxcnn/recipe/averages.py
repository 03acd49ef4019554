"""Averages of weights that a run keeps beside them."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, Literal

from flaxcnn.recipe.fields import about, check_bounds, setting

Statistics = Literal["average", "estimate"]
STATISTICS = (
    "moving statistics of batch normalisation: an `average` as of the weights, or an `estimate` "
    "from a pass over the training rows after each epoch"
)


@dataclass(frozen=True)
class _Average:
    """What the averages have in common."""

    _: KW_ONLY
    keep: bool = setting(
        True, "the average is monitored, kept and tested; false: it is only evaluated beside"
    )

    name: ClassVar[str]  # begins the names of its metrics, such as ema_val_accuracy

    def __post_init__(self) -> None:
        check_bounds(self, "average.")


@dataclass(frozen=True)
class EMA(_Average):
    """An exponential moving average: after each update, decay * average + (1 - decay) * weights.

    It begins with the initial weights, or with those after `start` epochs. With `warmup` the decay
    is (1 + t) / (10 + t) while that is less, t the updates since then, as in TensorFlow.
    """

    decay: float = setting(0.999, "share of the average that is kept", above=0, below=1)
    start: float = setting(0.0, "epochs before it begins", at_least=0)
    warmup: bool = setting(False, "a smaller decay at first")
    batch_stats: Statistics = setting("average", STATISTICS)

    name = "ema"


@dataclass(frozen=True)
class SWA(_Average):
    """Stochastic weight averaging: the mean of the weights after certain epochs.

    Izmailov et al. 2018 (arXiv:1803.05407): those after epoch `start`, and then every `every`
    epochs. Until then it follows the weights.
    """

    start: int = field(
        metadata=about("epochs before the first weights of the mean", at_least=1, whole=True)
    )
    every: int = setting(1, "epochs from one to the next", at_least=1, whole=True)
    batch_stats: Statistics = setting("estimate", STATISTICS)

    name = "swa"


@dataclass(frozen=True)
class ScheduleFree(_Average):
    """The weights x of `optax.contrib.schedule_free_sgd` and its like, which are to be evaluated.

    Defazio et al. 2024 (arXiv:2405.15682). The optimizer computes gradients at y, the weights of
    the run; x is between them and its own z.
    """

    batch_stats: Statistics = setting("estimate", STATISTICS)

    name = "schedulefree"


Average = EMA | SWA | ScheduleFree
