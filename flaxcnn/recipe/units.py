"""Specifications of layers that act on each value: dense, activation, dropout, flattening."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.fields import about, check_bounds
from flaxcnn.recipe.shapes import MAX_FEATURES, Function, Init, Shape


@dataclass(frozen=True)
class _Drops:
    rate: float = field(metadata=about("probability of a zero", at_least=0, below=1))

    def __post_init__(self) -> None:
        check_bounds(self, f"{type(self).__name__.lower()}.")

    def out(self, shape: Shape) -> Shape:
        return shape


@dataclass(frozen=True)
class Dropout(_Drops):
    """Zeroes each value with probability `rate` in training and scales the others up."""

    label = "dropout"


@dataclass(frozen=True)
class Flatten:
    """`(H, W, C)` -> `(H*W*C,)`, row by row, channels last."""

    label = "flatten"

    def out(self, shape: Shape) -> Shape:
        return (math.prod(shape),)


@dataclass(frozen=True)
class Activation:
    """An activation as a layer of its own. `slope` is leaky_relu's and no other's."""

    function: Function
    slope: float | None = None

    def __post_init__(self) -> None:
        if self.slope is not None and self.function != "leaky_relu":
            raise ConfigError(f"activation.slope: only leaky_relu has a slope, not {self.function}")

    @property
    def label(self) -> str:
        return "leaky_re_lu" if self.function == "leaky_relu" else "activation"

    def out(self, shape: Shape) -> Shape:
        return shape


@dataclass(frozen=True)
class Dense:
    """Fully connected layer on flat features. The last one of a model gives the logits."""

    units: int = field(
        metadata=about("output features", at_least=1, at_most=MAX_FEATURES, whole=True)
    )
    activation: Function | None = None
    init: Init = "glorot_uniform"
    bias: bool = True

    label = "dense"

    def __post_init__(self) -> None:
        check_bounds(self, "dense.")

    def out(self, shape: Shape) -> Shape:
        if len(shape) != 1:
            raise ConfigError(
                f"needs flat features, got {shape}: put flatten or globalavgpool before it"
            )
        return (self.units,)

    def params(self, shape: Shape) -> tuple[int, int]:
        return shape[0] * self.units + self.bias * self.units, 0

    def macs(self, shape: Shape) -> int:
        return shape[0] * self.units


@dataclass(frozen=True)
class StochasticDepth(_Drops):
    """In training 0 for a whole image with probability `rate`, the others scaled up.

    The last of a residual block's `layers`, it leaves the block out (Huang et al. 2016). Which
    images, their row keys decide.
    """

    label = "stochastic_depth"
