"""Networks of papers as functions that give layers, for images of any size.

>>> from flaxcnn.recipe.layers import table, totals
>>> totals(table(resnet(20), (32, 32, 3)))["trainable_params"]
269722

Convolutions with `padding="same"` put the odd row of zeros after the image where the stride is 2,
as Keras does, and PyTorch puts one on each side; the numbers of parameters are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    ChannelShuffle,
    Conv,
    Dense,
    DepthwiseConv,
    Flatten,
    Function,
    GlobalAvgPool,
    Layer,
    LayerNorm,
    LayerScale,
    MaxPool,
    PadChannels,
    Parallel,
    Residual,
    Scale,
    StochasticDepth,
    TakeChannels,
)

Layers = tuple[Layer, ...]
MOMENTUM, EPSILON = 0.9, 1e-5  # of batch normalisation, as PyTorch has it by default


def conv(filters: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> Conv:
    """A convolution before batch normalisation: no bias, He's initial weights."""
    return Conv(filters, kernel, stride, "same", init="he_normal", bias=False, groups=groups)


def norm(function: Function | None = None) -> Layers:
    """Batch normalisation, and an activation after it."""
    return BatchNorm(MOMENTUM, EPSILON), *((Activation(function),) if function else ())


def conv_norm(
    filters: int, kernel: int = 3, stride: int = 1, function: Function | None = "relu"
) -> Layers:
    """A convolution, batch normalisation and an activation."""
    return conv(filters, kernel, stride), *norm(function)


def head(classes: int) -> Layers:
    """Mean over the places, and logits."""
    return GlobalAvgPool(), Dense(classes)


def _check_depth(name: str, depth: int, each: int, rest: int) -> int:
    """How many blocks a stage has; ConfigError for a depth that the paper's rule cannot give."""
    if depth <= rest or (depth - rest) % each:
        raise ConfigError(f"{name}: depth must be {each} * n + {rest} (got {depth})")
    return (depth - rest) // each


# -- residual networks -----------------------------------------------------------------------------


def resnet(depth: int = 20, classes: int = 10) -> Layers:
    """He et al. 2015, section 4.2: 6n + 2 layers of 16, 32 and 64 channels.

    Shortcuts have no weights: where a block has more channels, its shortcut takes every second
    pixel and adds channels of zeros (option A). ResNet-20 has 0.27 million parameters, ResNet-56
    0.85.
    """
    layers, inputs = conv_norm(16), 16
    for filters in (16, 32, 64):
        for _ in range(_check_depth("resnet", depth, 6, 2)):
            stride = 1 if filters == inputs else 2
            main = (*conv_norm(filters, 3, stride), *conv_norm(filters, function=None))
            side: Layers = (MaxPool(1, 2), PadChannels(filters)) if stride > 1 else ()
            layers, inputs = (*layers, Residual(main, side)), filters
    return *layers, *head(classes)


def preact_block(filters: int, stride: int, inputs: int) -> Layers:
    """He et al. 2016: normalisation and activation before each of two 3x3 convolutions.

    Where the shape changes, the shortcut is a 1x1 convolution of what comes after the first
    activation.
    """
    rest = (*conv_norm(filters, 3, stride), conv(filters))
    if stride == 1 and filters == inputs:
        return (Residual((*norm("relu"), *rest), (), None),)
    return *norm("relu"), Residual(rest, (conv(filters, 1, stride),), None)


def preact(first: int, widths: Sequence[int], blocks: int, classes: int) -> Layers:
    """Stages of pre-activation blocks, each after the first with half as many rows and columns."""
    layers: Layers = (conv(first),)
    inputs = first
    for stage, filters in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            layers, inputs = (*layers, *preact_block(filters, stride, inputs)), filters
    return *layers, *norm("relu"), *head(classes)


def preact_resnet18(classes: int = 10) -> Layers:
    """Pre-activation ResNet-18 for small images: 64 to 512 channels, two blocks a stage."""
    return preact(64, (64, 128, 256, 512), 2, classes)


def wide_resnet(depth: int = 16, width: int = 4, classes: int = 10) -> Layers:
    """Zagoruyko and Komodakis 2016: 6n + 4 layers of 16, 32 and 64 times `width` channels.

    WRN-16-4 has 2.7 million parameters, WRN-28-10 36.5.
    """
    blocks = _check_depth("wide_resnet", depth, 6, 4)
    return preact(16, [width * n for n in (16, 32, 64)], blocks, classes)


def resnet50(classes: int = 1000) -> Layers:
    """ResNet-50 for 224 pixels, with the stride in the 3x3 convolutions: 25,557,032 parameters."""
    layers: Layers = (*conv_norm(64, 7, 2), MaxPool(3, 2, "same"))
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            main = (
                *conv_norm(width, 1), *conv_norm(width, 3, stride),
                *conv_norm(4 * width, 1, function=None),
            )  # fmt: skip
            side = () if block else conv_norm(4 * width, 1, stride, None)
            layers = (*layers, Residual(main, side))
    return *layers, *head(classes)


def pyramidnet(
    depth: int = 110, alpha: int = 84, bottleneck: bool = False, classes: int = 10
) -> Layers:
    """Han et al. 2017: each block has alpha / N channels more than the one before.

    PyramidNet-110 has 1.8, 3.9 and 28.5 million parameters with alpha 48, 84 and 270,
    PyramidNet-164 with bottlenecks 27.2 with alpha 270; the paper's table rounds them down.
    """
    blocks = _check_depth("pyramidnet", depth, 9 if bottleneck else 6, 2)
    layers, inputs, width = conv_norm(16, function=None), 16, 16.0
    for stage in range(3):
        for block in range(blocks):
            width += alpha / (3 * blocks)
            stride, filters = 2 if stage and not block else 1, round(width)
            if bottleneck:
                main = (*norm(), *conv_norm(filters, 1), *conv_norm(filters, 3, stride),
                        conv(4 * filters, 1), *norm())  # fmt: skip
            else:
                main = (*norm(), *conv_norm(filters, 3, stride), conv(filters), *norm())
            outputs = 4 * filters if bottleneck else filters
            smaller = (AvgPool(2, padding="same"),) if stride > 1 else ()
            wider = (PadChannels(outputs),) if outputs != inputs else ()
            layers, inputs = (*layers, Residual(main, (*smaller, *wider), None)), outputs
    return *layers, *norm("relu"), *head(classes)


# -- networks of joined channels -------------------------------------------------------------------


def densenet_bc(depth: int = 100, growth: int = 12, classes: int = 10) -> Layers:
    """Huang et al. 2017: each layer sees the maps of all before it in its block.

    With bottlenecks of 4 times `growth` channels, and half the channels after each block.
    DenseNet-BC-100-12 has 0.8 million parameters.
    """
    blocks, channels = _check_depth("densenet_bc", depth, 6, 4), 2 * growth
    layers: Layers = (conv(channels),)
    for stage in range(3):
        if stage:
            channels //= 2
            layers = (*layers, *norm("relu"), conv(channels, 1), AvgPool(2))
        new = (*norm("relu"), *conv_norm(4 * growth, 1), conv(growth))
        layers = (*layers, *[Parallel(((), new))] * blocks)
        channels += growth * blocks
    return *layers, *norm("relu"), *head(classes)


# -- networks of depthwise convolutions ------------------------------------------------------------


def depthwise(kernel: int = 3, stride: int = 1, function: Function | None = None) -> Layers:
    """A depthwise convolution, batch normalisation and an activation."""
    return DepthwiseConv(kernel, stride, "same", bias=False), *norm(function)


def mobilenet_v2(classes: int = 10, small: bool = True) -> Layers:
    """Sandler et al. 2018: residual blocks that are wide within, of depthwise convolutions.

    With `small` the first convolution and the first wide stage keep the size of the image, for 32
    pixels. With 1,000 classes it has 3,504,872 parameters.
    """
    layers, inputs = conv_norm(32, 3, 1 if small else 2, "relu6"), 32
    plan = ((1, 16, 1, 1), (6, 24, 2, 1 if small else 2), (6, 32, 3, 2), (6, 64, 4, 2),
            (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip
    for factor, filters, blocks, first in plan:
        for block in range(blocks):
            stride = 1 if block else first
            wide = conv_norm(factor * inputs, 1, 1, "relu6") if factor > 1 else ()
            main = (*wide, *depthwise(3, stride, "relu6"), *conv_norm(filters, 1, 1, None))
            joined = stride == 1 and inputs == filters
            layers = (*layers, *((Residual(main, (), None),) if joined else main))
            inputs = filters
    return *layers, *conv_norm(1280, 1, 1, "relu6"), *head(classes)


def shufflenet_v2(
    widths: Sequence[int] = (116, 232, 464), classes: int = 10, small: bool = True
) -> Layers:
    """Ma et al. 2018: half of the channels go through a block, and then all are shuffled.

    `widths` are those of the paper's 1x; of 0.5x (48, 96, 192). With `small` the first convolution
    keeps the size of the image and no pooling follows it, for 32 pixels. With 1,000 classes the 1x
    has 2,278,604 parameters.
    """
    layers: Layers = conv_norm(24, 3, 1 if small else 2)
    if not small:
        layers = (*layers, MaxPool(3, 2, "same"))
    for width, blocks in zip(widths, (4, 8, 4), strict=True):
        half = width // 2
        way = (*conv_norm(half, 1), *depthwise(3, 2), *conv_norm(half, 1))
        short = (*depthwise(3, 2), *conv_norm(half, 1))
        block = (*conv_norm(half, 1), *depthwise(), *conv_norm(half, 1))
        split = Parallel(((TakeChannels(0, half),), (TakeChannels(half, half), *block)))
        layers = (*layers, Parallel((short, way)), ChannelShuffle(2))
        layers = (*layers, *(split, ChannelShuffle(2)) * (blocks - 1))
    return *layers, *conv_norm(1024, 1), *head(classes)


def convnext(
    widths: Sequence[int] = (80, 160, 320, 640), blocks: Sequence[int] = (2, 2, 8, 2),
    classes: int = 10, patch: int = 1, drop: float = 0.0,
) -> Layers:  # fmt: skip
    """Liu et al. 2022: 7x7 depthwise convolutions, layer normalisation, GELU; here the nano size.

    `patch` is the size of the first convolution and its stride: 1 for 32 pixels, 4 in the paper.
    `drop` is the rate of stochastic depth. With widths (96, 192, 384, 768), blocks (3, 3, 9, 3),
    patch 4 and 1,000 classes it is ConvNeXt-T of 28,589,128 parameters.
    """
    layers: Layers = (Conv(widths[0], patch, patch, init="lecun_normal"), LayerNorm(1e-6))
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        if stage:
            layers = (*layers, LayerNorm(1e-6), Conv(width, 2, 2, init="lecun_normal"))
        block = (
            DepthwiseConv(7, 1, "same"), LayerNorm(1e-6), Conv(4 * width, 1, activation="gelu"),
            Conv(width, 1), LayerScale(), *((StochasticDepth(drop),) if drop else ()),
        )  # fmt: skip
        layers = (*layers, *[Residual(block, (), None)] * count)
    return *layers, GlobalAvgPool(), LayerNorm(1e-6), Dense(classes)


def airbench(
    widths: Sequence[int] = (64, 256, 256), classes: int = 10, residual: bool = False,
    momentum: float = 0.6, head: Layers = (),
) -> Layers:  # fmt: skip
    """Jordan 2024 (arXiv:2404.00498): the network behind 94 % on CIFAR-10 within seconds.

    A whitening convolution, three groups of two 3x3 convolutions that begin by handing their input
    on, and logits that start small. airbench95 has widths 128, 384 and 384; airbench96 128, 384 and
    512, a third convolution in each group, its last two with a shortcut (`residual`), and batch
    normalisation of momentum 0.9. `head` takes the place of the last two layers.
    """

    def normed() -> Layers:
        return BatchNorm(momentum, 1e-12, scale=False), Activation("gelu")

    layers: Layers = (Conv(24, 2, activation="gelu", init="whiten"),)
    for width in widths:
        start = Conv(width, 3, padding="same", init="dirac", bias=False)
        layers = (*layers, start, MaxPool(2), *normed())
        if residual:
            twice = (start, *normed(), start, BatchNorm(momentum, 1e-12, scale=False))
            layers = (*layers, Residual(twice, (), "gelu"))
        else:
            layers = (*layers, start, *normed())
    return *layers, MaxPool(3), Flatten(), *(head or (Dense(classes, bias=False), Scale(1 / 9)))
