"""Specifications of optimizers; `flaxcnn.model.optim` implements them.

Defaults are those of Keras 3 unless a field says otherwise; an experiment whose document used an
older Keras sets the fields that differed there (`epsilon_in_sqrt`, `schedule_decay`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from flaxcnn.errors import ConfigError, near_miss
from flaxcnn.recipe.fields import check_bounds, setting
from flaxcnn.recipe.references import Json, TakesArguments, name_of

# Recipes may take these from here too.
from flaxcnn.recipe.schedules import Constant as Constant
from flaxcnn.recipe.schedules import Cosine as Cosine
from flaxcnn.recipe.schedules import TimeDecay as TimeDecay


class _Checked:
    """Range checks of the optimizers."""

    default_learning_rate: ClassVar[float]
    # Numbers that a compiled program takes as arguments, so that a grid of them shares one.
    traced: ClassVar[tuple[str, ...]] = ("weight_decay",)

    def __post_init__(self) -> None:
        check_bounds(self, "optimizer.")
        if getattr(self, "nesterov", False) and not self.momentum:  # type: ignore[attr-defined]
            raise ConfigError("optimizer.nesterov=true needs a momentum above 0")


def _decay(default: float, sentence: str) -> float:
    """A rate of an exponential moving average."""
    return setting(default, sentence, at_least=0, below=1)


def _weight_decay() -> float:
    return setting(0.0, "decoupled weight decay, times the learning rate", at_least=0)


def _epsilon() -> float:
    return setting(1e-7, "added to the denominator", above=0)


@dataclass(frozen=True)
class SGD(_Checked):
    """Gradient descent; the velocity of Keras's momentum includes the learning rate."""

    momentum: float = _decay(0.0, "share of the last update that is kept")
    nesterov: bool = False
    weight_decay: float = _weight_decay()

    default_learning_rate = 0.01
    traced = ("weight_decay", "momentum")


@dataclass(frozen=True)
class Adam(_Checked):
    """Kingma and Ba 2015 in its "epsilon hat" form: epsilon is added before bias correction."""

    beta_1: float = _decay(0.9, "decay of the mean of gradients")
    beta_2: float = _decay(0.999, "decay of the mean of squared gradients")
    epsilon: float = _epsilon()
    weight_decay: float = _weight_decay()

    default_learning_rate = 0.001


@dataclass(frozen=True)
class Nadam(_Checked):
    """Dozat 2016. `schedule_decay` scales the exponent of the momentum warm-up: 1 in Keras 3,
    0.004 in Keras 2 and TensorFlow 1 and 2, whose default learning rate was 0.002 until TF 1.13."""

    beta_1: float = _decay(0.9, "decay of the mean of gradients")
    beta_2: float = _decay(0.999, "decay of the mean of squared gradients")
    epsilon: float = _epsilon()
    schedule_decay: float = setting(1.0, "exponent of the momentum warm-up", at_least=0)
    weight_decay: float = _weight_decay()

    default_learning_rate = 0.001


@dataclass(frozen=True)
class Adamax(_Checked):
    """The infinity-norm Adam. Any epsilon above 0 is legal: one document trains with 1."""

    beta_1: float = _decay(0.9, "decay of the mean of gradients")
    beta_2: float = _decay(0.999, "decay of the mean of squared gradients")
    epsilon: float = _epsilon()
    weight_decay: float = _weight_decay()

    default_learning_rate = 0.002  # Keras 2; Keras 3 has 0.001


@dataclass(frozen=True)
class RMSprop(_Checked):
    """Hinton 2012. Keras 3 adds epsilon inside the square root, Keras 2 outside it."""

    rho: float = _decay(0.9, "decay of the mean of squared gradients")
    momentum: float = _decay(0.0, "share of the last update that is kept")
    epsilon: float = _epsilon()
    epsilon_in_sqrt: bool = True
    centered: bool = False
    weight_decay: float = _weight_decay()

    default_learning_rate = 0.001
    traced = ("weight_decay", "momentum")


@dataclass(frozen=True)
class Adadelta(_Checked):
    """Zeiler 2012. Its rate is 1 in the paper, in Keras 2 and in TensorFlow until 1.13;
    Keras 3's default of 0.001 all but stops it."""

    rho: float = _decay(0.95, "decay of the mean of squared gradients")
    epsilon: float = _epsilon()
    weight_decay: float = _weight_decay()

    default_learning_rate = 1.0


@dataclass(frozen=True)
class Adagrad(_Checked):
    """Duchi et al. 2011. Keras 2 started the accumulator at 0 and had a rate of 0.01."""

    initial_accumulator: float = setting(0.1, "squared gradients before step 0", at_least=0)
    epsilon: float = _epsilon()
    epsilon_in_sqrt: bool = True
    weight_decay: float = _weight_decay()

    default_learning_rate = 0.001


@dataclass(frozen=True, init=False)
class Optax(TakesArguments):
    """An optimizer of optax, or a factory of one's own: `factory(learning_rate, **arguments)`.

    The factory returns an `optax.GradientTransformation`. It is called within the step with the
    scheduled learning rate, as `Optax("optax.lamb", b1=0.9, weight_decay=1e-4)` or
    `Optax("my_file.py:make", traced=("decay",), decay=0.1)`. Numbers named in `traced` are
    arguments of the compiled program, so that studies and grids over them share one.
    """

    factory: str
    traced: tuple[str, ...] = ()
    source: str = ""  # SHA-256 of the file that has the factory; empty for a library's
    arguments: tuple[tuple[str, Json], ...] = ()

    default_learning_rate: ClassVar[float] = 0.001

    def __init__(
        self, factory: str | Callable[..., Any], *, traced: Sequence[str] = (), source: str = "",
        **arguments: Any,
    ):  # fmt: skip
        factory, source = name_of(factory, source, "optimizer")
        fields = {"factory": factory, "traced": tuple(traced), "source": source}
        self._set("optimizer", fields, arguments)
        for name in self.traced:
            if not isinstance(self.named.get(name), float | int):
                raise ConfigError(
                    f"optimizer.traced: {name!r} must be the name of an argument that is a number"
                    f"{near_miss(name, self.named)}"
                )


@dataclass(frozen=True)
class Muon(_Checked):
    """Momentum made orthogonal, for convolution kernels; `other` is for all other weights.

    Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon): a kernel [H, W, I, O] is the
    matrix [H * W * I, O]. Its change is scaled by sqrt(max(1, O / (H * W * I))).
    """

    momentum: float = _decay(0.95, "share of the momentum that is kept")
    nesterov: bool = True
    ns_steps: int = setting(5, "Newton-Schulz iterations", at_least=1, whole=True)
    normalize: bool = setting(
        False, "bring each kernel to the norm sqrt(O) before its change, which is not scaled then"
    )
    weight_decay: float = _weight_decay()
    weights: tuple[str, ...] = setting(
        (), "patterns of the weights that it changes; empty: all convolution kernels"
    )
    other: SGD | Adam = setting(Adam(), "optimizer of all other weights")
    other_rate: float = setting(
        0.05, "their learning rate, as a factor of that of the kernels", at_least=0
    )

    default_learning_rate = 0.02
    traced = ("weight_decay", "momentum", "other_rate")


def has_momentum(optimizer: Optimizer) -> bool:
    """Whether a schedule can give it a momentum, or beta_1."""
    if isinstance(optimizer, RMSprop):
        return optimizer.momentum > 0
    return isinstance(optimizer, SGD | Muon | Adam | Nadam | Adamax)


Optimizer = SGD | Adam | Nadam | Adamax | RMSprop | Adadelta | Adagrad | Muon | Optax
