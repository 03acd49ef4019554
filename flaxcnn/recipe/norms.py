"""Specifications of normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flaxcnn.recipe.fields import check_bounds, setting
from flaxcnn.recipe.shapes import Shape, check_groups, check_map


def _epsilon(default: float) -> Any:
    return setting(default, "added to the variance", above=0)


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation over the last axis; the moving variance is the biased one (Keras)."""

    momentum: float = setting(0.99, "decay of the moving statistics", at_least=0, below=1)
    epsilon: float = setting(1e-3, "added to the variance", above=0)
    scale: bool = setting(True, "whether there is a factor for each channel", before=True)
    bias: bool = setting(True, "whether there is a term for each channel", before=True)

    label = "batch_normalization"

    def __post_init__(self) -> None:
        check_bounds(self, "batchnorm.")

    def out(self, shape: Shape) -> Shape:
        return shape

    def params(self, shape: Shape) -> tuple[int, int]:
        return (self.scale + self.bias) * shape[-1], 2 * shape[-1]


class _OfARow:
    """Normalises each image by itself, with a factor and a term for each channel."""

    def __post_init__(self) -> None:
        check_bounds(self, f"{type(self).__name__.lower()}.")

    def out(self, shape: Shape) -> Shape:
        return shape

    def params(self, shape: Shape) -> tuple[int, int]:
        return 2 * shape[-1], 0


@dataclass(frozen=True)
class GroupNorm(_OfARow):
    """Over the places and the channels of each group (Wu and He 2018)."""

    groups: int = setting(32, "groups of channels", at_least=1, whole=True)
    epsilon: float = _epsilon(1e-3)

    label = "group_normalization"

    def out(self, shape: Shape) -> Shape:
        check_groups(shape, self.groups)
        return shape


@dataclass(frozen=True)
class InstanceNorm(_OfARow):
    """Over the places of each channel (Ulyanov et al. 2016)."""

    epsilon: float = _epsilon(1e-3)

    label = "instance_normalization"

    def out(self, shape: Shape) -> Shape:
        check_map(shape)
        return shape


@dataclass(frozen=True)
class LayerNorm(_OfARow):
    """Over the channels of each place (Ba et al. 2016; so in ConvNeXt)."""

    epsilon: float = _epsilon(1e-3)

    label = "layer_normalization"


@dataclass(frozen=True)
class RMSNorm(_OfARow):
    """Divides by the root of the mean square over the channels of each place; a factor, no term.

    Zhang and Sennrich 2019.
    """

    epsilon: float = _epsilon(1e-6)

    label = "rms_normalization"

    def params(self, shape: Shape) -> tuple[int, int]:
        return shape[-1], 0
