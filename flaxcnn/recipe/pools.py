"""Specifications of pooling."""

from __future__ import annotations

import math
from dataclasses import dataclass

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.fields import check_bounds, setting
from flaxcnn.recipe.shapes import Padding, Shape, Size, check_map, pair, windows


@dataclass(frozen=True)
class _Pool:
    size: Size = 2
    stride: Size | None = None  # None: the pool size, as in Keras
    padding: Padding = "valid"

    def __post_init__(self) -> None:
        pair(self.size, "pool.size")
        pair(self.strides, "pool.stride")

    @property
    def strides(self) -> tuple[int, int]:
        return pair(self.size if self.stride is None else self.stride, "pool.stride")

    def out(self, shape: Shape) -> Shape:
        return (*windows(shape, self.size, self.strides, self.padding, "pool"), shape[-1])


@dataclass(frozen=True)
class MaxPool(_Pool):
    """Largest value of each window. A pool of size 1 is legal and does nothing."""

    label = "max_pooling2d"


@dataclass(frozen=True)
class AvgPool(_Pool):
    """Mean of each window; padding counts for nothing, as in Keras."""

    label = "average_pooling2d"


class _OverAllPlaces:
    """One value for each channel."""

    def out(self, shape: Shape) -> Shape:
        check_map(shape)
        return shape[-1:]


@dataclass(frozen=True)
class GlobalAvgPool(_OverAllPlaces):
    """Mean over H and W: `(H, W, C)` -> `(C,)`."""

    label = "global_average_pooling2d"


@dataclass(frozen=True)
class GlobalMaxPool(_OverAllPlaces):
    """Largest value over H and W: `(H, W, C)` -> `(C,)`."""

    label = "global_max_pooling2d"


@dataclass(frozen=True)
class BlurPool:
    """A binomial filter on each channel, then every `stride`-th place (Zhang 2019).

    Pixels are mirrored at the edges, as in the author's code (arXiv:1904.11486).
    """

    size: int = setting(3, "rows and columns of the filter", at_least=2, at_most=7, whole=True)
    stride: int = setting(2, "step from place to place", at_least=1, whole=True)

    label = "blur_pooling2d"

    def __post_init__(self) -> None:
        check_bounds(self, "blurpool.")

    def out(self, shape: Shape) -> Shape:
        check_map(shape)
        if min(shape[:2]) <= self.size // 2:
            raise ConfigError(
                f"size={self.size} mirrors {self.size // 2} pixels at each edge, which needs more "
                f"than {shape[0]}x{shape[1]}"
            )
        rows, columns = (math.ceil(n / self.stride) for n in shape[:2])
        return rows, columns, shape[-1]

    def macs(self, shape: Shape) -> int:
        return math.prod(self.out(shape)) * self.size**2
