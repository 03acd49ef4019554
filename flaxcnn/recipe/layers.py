"""Layer specifications with their geometry and parameter arithmetic. Plain values, no jax.

Shapes are `(H, W, C)` for maps and `(F,)` for flat features, without the batch axis. Each layer
knows its output shape, its parameters and its multiply-adds, so that an impossible model is
refused, and its table printed, before jax is imported.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.fields import about, check_bounds, setting

Shape = tuple[int, ...]
Size = int | tuple[int, int]
Padding = Literal["valid", "same"]
Function = Literal[
    "relu", "leaky_relu", "relu6", "elu", "selu", "gelu", "silu", "mish",
    "tanh", "sigmoid", "softplus", "softsign", "softmax",
]  # fmt: skip
Init = Literal[
    "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal"
]

LEAKY_RELU_SLOPE = 0.3  # Keras's LeakyReLU layer; the documents use it throughout


def pair(value: Size, what: str) -> tuple[int, int]:
    """The two sides of a size; ConfigError unless both are positive.

    >>> pair(3, "kernel"), pair((3, 5), "kernel")
    ((3, 3), (3, 5))
    """
    two = value if isinstance(value, tuple) else (value, value)
    if len(two) != 2 or not all(type(n) is int and n >= 1 for n in two):
        raise ConfigError(f"{what} must be a positive integer or a pair of them (got {value!r})")
    return two


def windows(shape: Shape, size: Size, stride: Size, padding: Padding, what: str) -> tuple[int, int]:
    """Number of window positions along H and W, as Keras and XLA count them.

    >>> windows((28, 28, 1), 3, 2, "valid", "kernel"), windows((28, 28, 1), 3, 2, "same", "kernel")
    ((13, 13), (14, 14))
    """
    if len(shape) != 3:
        raise ConfigError(f"needs a map (H, W, C) as its input, got {shape}")
    out = []
    for n, k, s in zip(shape[:2], pair(size, what), pair(stride, "stride"), strict=True):
        if padding == "valid" and k > n:
            rows, columns = pair(size, what)
            raise ConfigError(
                f"{what} {rows}x{columns} does not fit its {shape[0]}x{shape[1]} input"
            )
        out.append(math.ceil(n / s) if padding == "same" else (n - k) // s + 1)
    return out[0], out[1]


@dataclass(frozen=True)
class Conv:
    """2-D convolution (cross-correlation, as in Keras and XLA), bias and activation included."""

    filters: int = field(metadata=about("output channels", at_least=1, whole=True))
    kernel: Size = 3
    stride: Size = 1
    padding: Padding = "valid"
    activation: Function | None = None
    init: Init = "glorot_uniform"
    bias: bool = True

    label = "conv2d"

    def __post_init__(self) -> None:
        check_bounds(self, "conv.")
        pair(self.kernel, "conv.kernel")
        pair(self.stride, "conv.stride")

    def out(self, shape: Shape) -> Shape:
        return (*windows(shape, self.kernel, self.stride, self.padding, "kernel"), self.filters)

    def params(self, shape: Shape) -> tuple[int, int]:
        rows, columns = pair(self.kernel, "kernel")
        return rows * columns * shape[-1] * self.filters + self.bias * self.filters, 0

    def macs(self, shape: Shape) -> int:
        rows, columns = pair(self.kernel, "kernel")
        return math.prod(self.out(shape)) * rows * columns * shape[-1]


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


@dataclass(frozen=True)
class GlobalAvgPool:
    """Mean over H and W: `(H, W, C)` -> `(C,)`."""

    label = "global_average_pooling2d"

    def out(self, shape: Shape) -> Shape:
        if len(shape) != 3:
            raise ConfigError(f"needs a map (H, W, C) as its input, got {shape}")
        return shape[-1:]


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation over the last axis; the moving variance is the biased one (Keras)."""

    momentum: float = setting(0.99, "decay of the moving statistics", at_least=0, below=1)
    epsilon: float = setting(1e-3, "added to the variance", above=0)

    label = "batch_normalization"

    def __post_init__(self) -> None:
        check_bounds(self, "batchnorm.")

    def out(self, shape: Shape) -> Shape:
        return shape

    def params(self, shape: Shape) -> tuple[int, int]:
        return 2 * shape[-1], 2 * shape[-1]


@dataclass(frozen=True)
class Dropout:
    """Zeroes each value with probability `rate` in training and scales the others up."""

    rate: float = field(metadata=about("probability of a zero", at_least=0, below=1))

    label = "dropout"

    def __post_init__(self) -> None:
        check_bounds(self, "dropout.")

    def out(self, shape: Shape) -> Shape:
        return shape


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

    units: int = field(metadata=about("output features", at_least=1, whole=True))
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
class Residual:
    """`activation(layers(x) + shortcut(x))`; an empty shortcut is the identity (He et al. 2015)."""

    layers: tuple[Layer, ...]
    shortcut: tuple[Layer, ...] = ()
    activation: Function | None = "relu"

    label = "residual"

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


Layer = (
    Conv | MaxPool | AvgPool | GlobalAvgPool | BatchNorm | Dropout | Flatten | Activation | Dense
    | Residual
)  # fmt: skip


def chain(layers: tuple[Layer, ...], shape: Shape) -> Shape:
    """Shape after all `layers`."""
    for layer in layers:
        shape = layer.out(shape)
    return shape


def contains(layers: tuple[Layer, ...], kind: type) -> bool:
    """Whether any layer is of that kind, inside residuals too."""
    return any(
        isinstance(layer, kind)
        or (isinstance(layer, Residual) and contains(layer.layers + layer.shortcut, kind))
        for layer in layers
    )


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
        inner: list[Row] = []
        if isinstance(layer, Residual):
            inner = [*_rows(layer.layers, shape, names), *_rows(layer.shortcut, shape, names)]
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
    rows = table(layers, shape)
    if not layers:
        raise ConfigError("layers is empty; a model needs at least a dense layer")
    if (end := chain(layers, shape)) != (classes,):
        raise ConfigError(
            f"layers: the last layer ({rows[-1].name}) gives {end}, "
            f"but the data has {classes} classes: end with dense units={classes}"
        )
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
