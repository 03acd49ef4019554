"""Specifications of layers on channels: attention, scales, and channels moved, taken or added."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.fields import about, check_bounds, setting
from flaxcnn.recipe.shapes import MAX_FEATURES, Shape, check_groups, check_map


class _Checked:
    def __post_init__(self) -> None:
        check_bounds(self, f"{type(self).__name__.lower()}.")


@dataclass(frozen=True)
class SqueezeExcitation(_Checked):
    """x * sigmoid(W2 relu(W1 mean(x) + b1) + b2), C // ratio numbers between (Hu et al. 2018)."""

    ratio: int = setting(16, "channels to one of the numbers between", at_least=1, whole=True)

    label = "squeeze_excitation"

    def between(self, channels: int) -> int:
        """How many numbers there are between the two products; at least one."""
        return max(channels // self.ratio, 1)

    def out(self, shape: Shape) -> Shape:
        check_map(shape)
        return shape

    def params(self, shape: Shape) -> tuple[int, int]:
        channels, between = shape[-1], self.between(shape[-1])
        return 2 * channels * between + between + channels, 0

    def macs(self, shape: Shape) -> int:
        return 2 * shape[-1] * self.between(shape[-1]) + math.prod(shape)


@dataclass(frozen=True)
class EfficientChannelAttention(_Checked):
    """x * sigmoid(k * mean(x)): a convolution along the channels, without bias (Wang et al. 2020).

    Without `kernel` its size is the odd number next to log2(C) / 2 + 1 / 2, as in the paper.
    """

    kernel: int | None = setting(None, "channels that a gate looks at, an odd number", at_least=1)

    label = "efficient_channel_attention"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel is not None and self.kernel % 2 == 0:
            raise ConfigError(
                f"efficientchannelattention.kernel must be an odd number (got {self.kernel})"
            )

    def size(self, channels: int) -> int:
        """The size of the kernel for so many channels."""
        if self.kernel is not None:
            return self.kernel
        near = int(abs((math.log2(channels) + 1) / 2))
        return near if near % 2 else near + 1

    def out(self, shape: Shape) -> Shape:
        check_map(shape)
        return shape

    def params(self, shape: Shape) -> tuple[int, int]:
        return self.size(shape[-1]), 0

    def macs(self, shape: Shape) -> int:
        return shape[-1] * self.size(shape[-1]) + math.prod(shape)


@dataclass(frozen=True)
class LayerScale(_Checked):
    """A factor for each channel, small at first (Touvron et al. 2021; so in ConvNeXt)."""

    initial: float = setting(1e-6, "value of the factors before the first step", above=0)

    label = "layer_scale"

    def out(self, shape: Shape) -> Shape:
        return shape

    def params(self, shape: Shape) -> tuple[int, int]:
        return shape[-1], 0


@dataclass(frozen=True)
class Scale(_Checked):
    """Times a constant, such as 1/9 after the last layer, to start with small logits."""

    factor: float = field(metadata=about("what values are multiplied by"))

    label = "scale"

    def out(self, shape: Shape) -> Shape:
        return shape


@dataclass(frozen=True)
class ChannelShuffle(_Checked):
    """Channel (g, c) to (c, g): one of each group after the other (Zhang et al. 2018)."""

    groups: int = setting(2, "groups of channels", at_least=1, whole=True)

    label = "channel_shuffle"

    def out(self, shape: Shape) -> Shape:
        check_groups(shape, self.groups)
        return shape


@dataclass(frozen=True)
class TakeChannels(_Checked):
    """Channels `first` to `first + count - 1`; the rest is left out."""

    first: int = field(metadata=about("number of the first channel", at_least=0, whole=True))
    count: int = field(metadata=about("how many", at_least=1, whole=True))

    label = "take_channels"

    def out(self, shape: Shape) -> Shape:
        if self.first + self.count > shape[-1]:
            raise ConfigError(
                f"first={self.first} and count={self.count} end after its {shape[-1]} channels"
            )
        return (*shape[:-1], self.count)


@dataclass(frozen=True)
class PadChannels(_Checked):
    """Channels of zeros after those there are: a shortcut without weights (He et al. 2015, A)."""

    channels: int = field(
        metadata=about("channels in all", at_least=1, at_most=MAX_FEATURES, whole=True)
    )

    label = "pad_channels"

    def out(self, shape: Shape) -> Shape:
        if self.channels < shape[-1]:
            raise ConfigError(f"channels={self.channels} is below its {shape[-1]} input channels")
        return (*shape[:-1], self.channels)
