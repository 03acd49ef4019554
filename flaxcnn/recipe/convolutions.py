"""Specifications of convolutions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.fields import about, check_bounds, setting
from flaxcnn.recipe.shapes import (
    MAX_FEATURES,
    ConvInit,
    Function,
    Init,
    Padding,
    Shape,
    Size,
    check_groups,
    pair,
    windows,
)


def _dilation() -> Any:
    return setting(
        1, "places from one row of the kernel to the next", at_least=1, whole=True, before=1
    )


def _multiplier() -> Any:
    return setting(
        1, "output channels of each input channel", at_least=1, at_most=MAX_FEATURES, whole=True
    )


@dataclass(frozen=True)
class Conv:
    """2-D convolution (cross-correlation, as in Keras and XLA), bias and activation included.

    `init` may also be `dirac`: the first output channels are the input channels. As the first layer
    it may be `whiten`: the kernel is computed from the training images so that its outputs are
    uncorrelated, and is not trained (Page 2019; Jordan 2024, arXiv:2404.00498).
    """

    filters: int = field(
        metadata=about("output channels", at_least=1, at_most=MAX_FEATURES, whole=True)
    )
    kernel: Size = 3
    stride: Size = 1
    padding: Padding = "valid"
    activation: Function | None = None
    init: ConvInit = "glorot_uniform"
    bias: bool = True
    dilation: int = _dilation()
    groups: int = setting(
        1, "parts of the channels, each convolved by itself", at_least=1, whole=True, before=1
    )

    label = "conv2d"

    def __post_init__(self) -> None:
        _check_windows(self, "conv.")
        if self.filters % self.groups:
            raise ConfigError(f"conv.groups={self.groups} must divide filters={self.filters}")
        plain = self.groups == self.dilation == 1 and self.filters % 2 == 0
        if self.init == "whiten" and not plain:
            raise ConfigError(
                "conv.init=whiten needs an even number of filters, groups=1 and dilation=1"
            )

    def out(self, shape: Shape) -> Shape:
        places = _places(self, shape)
        check_groups(shape, self.groups)
        if self.init == "whiten" and not self.filters <= 2 * _area(self) * shape[-1]:
            raise ConfigError(
                f"init=whiten has at most {2 * _area(self) * shape[-1]} filters, two for each "
                f"number of a patch (got {self.filters})"
            )
        return (*places, self.filters)

    def params(self, shape: Shape) -> tuple[int, int]:
        kernel = _area(self) * (shape[-1] // self.groups) * self.filters
        if self.init == "whiten":
            return self.bias * self.filters, kernel
        return kernel + self.bias * self.filters, 0

    def macs(self, shape: Shape) -> int:
        return math.prod(self.out(shape)) * _area(self) * (shape[-1] // self.groups)


@dataclass(frozen=True)
class DepthwiseConv:
    """2-D convolution of each channel by itself, as Keras's DepthwiseConv2D."""

    kernel: Size = 3
    stride: Size = 1
    padding: Padding = "valid"
    multiplier: int = _multiplier()
    activation: Function | None = None
    init: Init = "glorot_uniform"
    bias: bool = True
    dilation: int = _dilation()

    label = "depthwise_conv2d"

    def __post_init__(self) -> None:
        _check_windows(self, "depthwiseconv.")

    def out(self, shape: Shape) -> Shape:
        return (*_places(self, shape), shape[-1] * self.multiplier)

    def params(self, shape: Shape) -> tuple[int, int]:
        channels = shape[-1] * self.multiplier
        return (_area(self) + self.bias) * channels, 0

    def macs(self, shape: Shape) -> int:
        return math.prod(self.out(shape)) * _area(self)


@dataclass(frozen=True)
class SeparableConv:
    """A depthwise convolution and one with a 1x1 kernel, as Keras's SeparableConv2D."""

    filters: int = field(
        metadata=about("output channels", at_least=1, at_most=MAX_FEATURES, whole=True)
    )
    kernel: Size = 3
    stride: Size = 1
    padding: Padding = "valid"
    multiplier: int = _multiplier()
    activation: Function | None = None
    init: Init = "glorot_uniform"
    bias: bool = True
    dilation: int = _dilation()

    label = "separable_conv2d"

    def __post_init__(self) -> None:
        _check_windows(self, "separableconv.")

    def out(self, shape: Shape) -> Shape:
        return (*_places(self, shape), self.filters)

    def params(self, shape: Shape) -> tuple[int, int]:
        between = shape[-1] * self.multiplier
        return between * (_area(self) + self.filters) + self.bias * self.filters, 0

    def macs(self, shape: Shape) -> int:
        places, between = math.prod(self.out(shape)[:2]), shape[-1] * self.multiplier
        return places * between * (_area(self) + self.filters)


WHITENED = "conv2d/kernel"  # the weights of a first layer that whitens


Convolution = Conv | DepthwiseConv | SeparableConv


def reach(layer: Convolution) -> tuple[int, int]:
    """Rows and columns from the first to the last that a kernel looks at.

    >>> reach(Conv(4, 3, dilation=2))
    (5, 5)
    """
    rows, columns = pair(layer.kernel, "kernel")
    return (rows - 1) * layer.dilation + 1, (columns - 1) * layer.dilation + 1


def _places(layer: Convolution, shape: Shape) -> tuple[int, int]:
    return windows(shape, reach(layer), layer.stride, layer.padding, "kernel")


def _area(layer: Convolution) -> int:
    return math.prod(pair(layer.kernel, "kernel"))


def _check_windows(layer: Convolution, prefix: str) -> None:
    check_bounds(layer, prefix)
    pair(layer.kernel, f"{prefix}kernel")
    pair(layer.stride, f"{prefix}stride")
