"""Layer specifications with their geometry and parameter arithmetic. Plain values, no jax.

Shapes are `(H, W, C)` for maps and `(F,)` for flat features, without the batch axis. Each layer
knows its output shape, its parameters and its multiply-adds, so that an impossible model is
refused, and its table printed, before jax is imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.channels import (
    ChannelShuffle,
    EfficientChannelAttention,
    LayerScale,
    PadChannels,
    Scale,
    SqueezeExcitation,
    TakeChannels,
)
from flaxcnn.recipe.convolutions import WHITENED, Conv, DepthwiseConv, SeparableConv
from flaxcnn.recipe.norms import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from flaxcnn.recipe.own_layers import Own, own_layer
from flaxcnn.recipe.pools import AvgPool, BlurPool, GlobalAvgPool, GlobalMaxPool, MaxPool
from flaxcnn.recipe.shapes import (
    LEAKY_RELU_SLOPE,
    MAX_LAYERS,
    MAX_PARAMS,
    ConvInit,
    Function,
    Init,
    Padding,
    Shape,
    Size,
    pair,
    windows,
)
from flaxcnn.recipe.units import Activation, Dense, Dropout, Flatten, StochasticDepth

__all__ = [
    "LEAKY_RELU_SLOPE",
    "WHITENED",
    "Activation",
    "AvgPool",
    "BatchNorm",
    "BlurPool",
    "ChannelShuffle",
    "Conv",
    "ConvInit",
    "Dense",
    "DepthwiseConv",
    "Dropout",
    "EfficientChannelAttention",
    "Flatten",
    "Function",
    "GlobalAvgPool",
    "GlobalMaxPool",
    "GroupNorm",
    "Init",
    "InstanceNorm",
    "Layer",
    "LayerNorm",
    "LayerScale",
    "MaxPool",
    "Names",
    "Own",
    "PadChannels",
    "Padding",
    "Parallel",
    "RMSNorm",
    "Residual",
    "Row",
    "Scale",
    "SeparableConv",
    "Shape",
    "Size",
    "SqueezeExcitation",
    "StochasticDepth",
    "TakeChannels",
    "branches_of",
    "chain",
    "check_model",
    "contains",
    "every",
    "layers_of",
    "pair",
    "table",
    "totals",
    "windows",
    "with_branches",
]
Branches = tuple[tuple["Layer", ...], ...]


@dataclass(frozen=True)
class Residual:
    """`activation(layers(x) + shortcut(x))`; an empty shortcut is the identity (He et al. 2015)."""

    layers: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()
    activation: Function | None = "relu"

    label = "residual"

    @property
    def branches(self) -> Branches:
        """The layers of each way from input to output."""
        return self.layers, self.shortcut

    def __post_init__(self) -> None:
        if not self.layers:
            raise ConfigError("residual.layers must have at least one layer")

    def out(self, shape: Shape) -> Shape:
        main, side = chain(self.layers, shape), chain(self.shortcut, shape)
        if main != side:
            raise ConfigError(
                f"its layers give {main} but its shortcut gives {side}: "
                "add a 1x1 conv with the same filters and stride to the shortcut"
            )
        return main


@dataclass(frozen=True)
class Parallel:
    """Several ways from the input, joined by their channels or added; `[]` is the input itself.

    Their maps must be equally large. The channels of the first come first.
    """

    branches: tuple[tuple[Layer, ...], ...]
    join: Literal["concat", "add"] = "concat"

    label = "parallel"

    def __post_init__(self) -> None:
        if len(self.branches) < 2:
            raise ConfigError(
                "parallel.branches must have two lists of layers or more "
                f"(got {len(self.branches)})"
            )

    def out(self, shape: Shape) -> Shape:
        each = [chain(branch, shape) for branch in self.branches]
        if len({out if self.join == "add" else out[:-1] for out in each}) > 1:
            raise ConfigError(f"its branches give {', '.join(map(str, each))}, which do not fit")
        if self.join == "add":
            return each[0]
        return (*each[0][:-1], sum(out[-1] for out in each))


Layer = (
    Conv | DepthwiseConv | SeparableConv | MaxPool | AvgPool | GlobalAvgPool | GlobalMaxPool
    | BlurPool | BatchNorm | GroupNorm | InstanceNorm | LayerNorm | RMSNorm | Dropout
    | StochasticDepth | Flatten | Activation | Dense | SqueezeExcitation
    | EfficientChannelAttention | LayerScale | Scale | ChannelShuffle | TakeChannels | PadChannels
    | Residual | Parallel | Own
)  # fmt: skip


def chain(layers: tuple[Layer, ...], shape: Shape) -> Shape:
    """Shape after all `layers`."""
    for layer in layers:
        shape = layer.out(shape)
    return shape


def branches_of(layer: Layer) -> Branches:
    """The layers within a layer, way by way; none of most."""
    return layer.branches if isinstance(layer, Residual | Parallel) else ()


def with_branches(layer: Layer, branches: Branches) -> Layer:
    """The layer with others within it."""
    match layer:
        case Residual():
            return replace(layer, layers=branches[0], shortcut=branches[1])
        case Parallel():
            return replace(layer, branches=branches)
    return layer


def every(layers: tuple[Layer, ...]) -> Iterator[Layer]:
    """All layers in the order in which the network runs them, those within others too."""
    for layer in layers:
        yield layer
        for branch in branches_of(layer):
            yield from every(branch)


def contains(layers: tuple[Layer, ...], kind: type) -> bool:
    """Whether any layer is of that kind, inside others too."""
    return any(isinstance(layer, kind) for layer in every(layers))


def layers_of(given: Any) -> Any:
    """Layers given in Python, those of one's own as specifications.

    Raises:
        ConfigError: a layer of one's own that cannot be written down.
    """
    if not isinstance(given, list | tuple):
        return given
    return tuple(_layer_of(one) for one in given)


def _layer_of(given: Any) -> Any:
    if isinstance(given, Residual | Parallel):
        return with_branches(given, tuple(layers_of(branch) for branch in given.branches))
    return given if isinstance(given, Layer | str | dict) else own_layer(given)


class Names:
    """Keras's layer names in order of appearance: conv2d, conv2d_1, ..."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    def next(self, layer: Layer) -> str:
        count = self.seen.get(layer.label, 0)
        self.seen[layer.label] = count + 1
        return f"{layer.label}_{count}" if count else layer.label


@dataclass(frozen=True)
class Row:
    """One line of the model's table."""

    name: str
    layer: Any  # a Layer, or a part of a network of one's own
    input: Shape
    output: Shape
    trainable: int
    non_trainable: int
    macs: int

    @property
    def params(self) -> int:
        return self.trainable + self.non_trainable


def table(layers: tuple[Layer, ...], shape: Shape) -> list[Row]:
    """Every layer with shapes and counts, inner layers of a residual block after the block's row.

    Raises:
        ConfigError: naming the layer whose geometry is impossible.
    """
    return list(_rows(layers, shape, Names()))


def _rows(layers: tuple[Layer, ...], shape: Shape, names: Names) -> Iterator[Row]:
    for layer in layers:
        name = names.next(layer)
        inner = [row for branch in branches_of(layer) for row in _rows(branch, shape, names)]
        try:
            out = layer.out(shape)
        except ConfigError as error:
            raise ConfigError(f"layer {name}: {error}") from None
        trainable, non_trainable = layer.params(shape) if hasattr(layer, "params") else (0, 0)
        macs = layer.macs(shape) if hasattr(layer, "macs") else 0
        yield Row(name, layer, shape, out, trainable, non_trainable, macs)
        yield from inner
        shape = out


def check_model(layers: tuple[Layer, ...], shape: Shape, classes: int) -> list[Row]:
    """The model's table, once it is known to end in one logit per class."""
    if (count := sum(1 for _ in every(layers))) > MAX_LAYERS:
        raise ConfigError(f"layers: a network has at most {MAX_LAYERS} layers (got {count})")
    rows = table(layers, shape)
    if (params := sum(row.params for row in rows)) > MAX_PARAMS:
        raise ConfigError(f"layers: a network has at most {MAX_PARAMS:,} parameters (got {params})")
    if not layers:
        raise ConfigError("layers is empty; a model needs at least a dense layer")
    if (end := chain(layers, shape)) != (classes,):
        raise ConfigError(
            f"layers: the last layer ({rows[-1].name}) gives {end}, "
            f"but the data has {classes} classes: end with dense units={classes}"
        )
    whitens = [isinstance(layer, Conv) and layer.init == "whiten" for layer in every(layers)]
    if any(whitens[1:]):
        raise ConfigError("layers: init=whiten is for the first layer, which sees the images")
    last = layers[-1]
    if getattr(last, "activation", getattr(last, "function", None)) == "softmax":
        raise ConfigError(
            "layers: the last layer must give logits, without softmax; the loss applies it"
        )
    return rows


def totals(rows: list[Row]) -> dict[str, int]:
    """Sums over the table: parameters, multiply-adds of one image's forward pass, bytes.

    >>> totals(table((Flatten(), Dense(10)), (28, 28, 1)))["params"]
    7850
    """
    trainable = sum(row.trainable for row in rows)
    non_trainable = sum(row.non_trainable for row in rows)
    return {
        "params": trainable + non_trainable,
        "trainable_params": trainable,
        "non_trainable_params": non_trainable,
        "macs": sum(row.macs for row in rows),
        "bytes": 4 * (trainable + non_trainable),
    }
