"""Shapes of what layers take and give, without the batch axis, and their windows. No jax."""

from __future__ import annotations

import math
from typing import Literal

from flaxcnn.errors import ConfigError

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
# `dirac`: each output channel is an input channel, as far as there are any (PyTorch's dirac_).
ConvInit = Literal[
    "glorot_uniform", "glorot_normal", "he_uniform", "he_normal", "lecun_uniform", "lecun_normal",
    "dirac", "whiten",
]  # fmt: skip

# Far beyond what anybody trains, so that a recipe from elsewhere is refused before it is built
MAX_WINDOW = 4096  # pixels of a side of a kernel, a pooling window or a stride
MAX_FEATURES = 2**20  # of a layer
MAX_LAYERS = 4096  # ResNet-1202 has 3,000
MAX_PARAMS = 2**35  # 128 GB in float32
LEAKY_RELU_SLOPE = 0.3  # Keras's LeakyReLU layer; the documents use it throughout


def check_map(shape: Shape) -> None:
    """ConfigError unless `shape` is that of a map, (H, W, C)."""
    if len(shape) != 3:
        raise ConfigError(f"needs a map (H, W, C) as its input, got {shape}")


def check_groups(shape: Shape, groups: int) -> None:
    """ConfigError unless the channels of `shape` are a multiple of `groups`."""
    if shape[-1] % groups:
        raise ConfigError(f"groups={groups} must divide its {shape[-1]} input channels")


def pair(value: Size, what: str) -> tuple[int, int]:
    """The two sides of a size; ConfigError unless both are positive.

    >>> pair(3, "kernel"), pair((3, 5), "kernel")
    ((3, 3), (3, 5))
    """
    two = value if isinstance(value, tuple) else (value, value)
    if len(two) != 2 or not all(type(n) is int and n >= 1 for n in two):
        raise ConfigError(f"{what} must be a positive integer or a pair of them (got {value!r})")
    if max(two) > MAX_WINDOW:
        raise ConfigError(f"{what} must be at most {MAX_WINDOW} (got {value!r})")
    return two


def windows(shape: Shape, size: Size, stride: Size, padding: Padding, what: str) -> tuple[int, int]:
    """Number of window positions along H and W, as Keras and XLA count them.

    >>> windows((28, 28, 1), 3, 2, "valid", "kernel"), windows((28, 28, 1), 3, 2, "same", "kernel")
    ((13, 13), (14, 14))
    """
    check_map(shape)
    out = []
    for n, k, s in zip(shape[:2], pair(size, what), pair(stride, "stride"), strict=True):
        if padding == "valid" and k > n:
            rows, columns = pair(size, what)
            raise ConfigError(
                f"{what} {rows}x{columns} does not fit its {shape[0]}x{shape[1]} input"
            )
        out.append(math.ceil(n / s) if padding == "same" else (n - k) // s + 1)
    return out[0], out[1]
