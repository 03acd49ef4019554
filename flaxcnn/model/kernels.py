"""Convolution, flattening and sums over channels in the form that each backend runs fast.

On CPU, XLA canonicalises convolutions in a program's entry computation only. Inside `lax.scan`, the
gradients that JAX writes for a convolution fall to an unoptimised emitter (jax issue 12868). Here
they are written as ordinary NHWC/HWIO convolutions of transposed arrays. On other backends the
convolution keeps JAX's own gradient, which cuDNN and the TPU compiler run natively.

Gradients are reverse-mode only (`jax.custom_vjp`).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from flaxcnn import backend
from flaxcnn.model import winograd
from flaxcnn.model.layout import (
    Pair,
    dilate_pad,
    materialize,
    on_cpu,
    padded,
    piece_of,
    sum_over_pieces,
)
from flaxcnn.recipe.layers import Padding

Pads = tuple[Pair, Pair]  # (low, high) of H, (low, high) of W
NO_PADS: Pads = ((0, 0), (0, 0))
LAYOUT = ("NHWC", "HWIO", "NHWC")
# A weight gradient takes this many bytes of dy at once, so that its transposed copy stays in the
# cache: 2 to 5 times faster than a whole batch (benchmarks/NOTES.md).
PIECE_BYTES = 200 * 1024
PIECE_BYTES_ONEDNN = 800 * 1024
FEW = 16  # channels up to which XLA leaves a convolution to Eigen
# An input gradient goes by rows of the kernel, or by parts of one larger than 5x5, where padding
# would add this part (1 / 4) of dy's rows or more on each side: 1.2 to 1.7 times faster then, and
# no slower at the limit (benchmarks/NOTES.md).
ROWS_PAY = 4
ROWS_ALONE = 5
PARTS = (3, 2)  # rows and columns of parts
WINDOW = 32  # elements, of the windows into which XLA's CPU compiler divides a long sum


def pads(shape: Pair, window: Pair, stride: Pair, padding: Padding) -> Pads:
    """Zero rows before and after H and W; SAME puts the odd one after, as Keras and XLA do."""
    if padding == "valid":
        return NO_PADS
    widths = []
    for n, k, s in zip(shape, window, stride, strict=True):
        total = max((-(-n // s) - 1) * s + k - n, 0)
        widths.append((total // 2, total - total // 2))
    return widths[0], widths[1]


def conv2d(
    x: jax.Array, w: jax.Array, stride: Pair, padding: Padding, platform: str | None = None
) -> jax.Array:
    """Cross-correlation: x [B, H, W, I], w [kh, kw, I, O] of one dtype -> [B, H', W', O]."""
    pad = pads((x.shape[1], x.shape[2]), (w.shape[0], w.shape[1]), stride, padding)
    if on_cpu(platform):
        return _canonical_conv(x, w, stride, pad)
    if platform == "tpu" and x.shape[-1] == 1 and x.dtype == jnp.float32:
        return _conv_of_columns(x, w, stride, pad)
    return _conv(x, w, stride, pad)


def _conv(x: jax.Array, w: jax.Array, stride: Pair, pad: Pads) -> jax.Array:
    return lax.conv_general_dilated(x, w, stride, pad, dimension_numbers=LAYOUT)


def _conv_of_columns(x: jax.Array, w: jax.Array, stride: Pair, pad: Pads) -> jax.Array:
    """As `_conv` of x [B, H, W, 1]: each column of the kernel sees a channel of its own.

    A TPU's compiler takes over 8 minutes for the weight gradient of a 9x9 kernel on one channel in
    float32, which is six products there, and half a minute for this (benchmarks/NOTES.md).
    """
    (height, width, _, outputs), (rows, columns) = w.shape, pad
    x = padded(x, (0, 0), columns)
    last = x.shape[2] - width
    shifted = [x[:, :, first : first + last + 1 : stride[1]] for first in range(width)]
    kernel = w.reshape(height, 1, width, outputs)
    return _conv(jnp.concatenate(shifted, axis=-1), kernel, (stride[0], 1), (rows, (0, 0)))


def _fast_channels(inputs: int, outputs: int) -> Pair:
    """(inputs, outputs), made up to numbers that XLA's CPU convolutions like better.

    2 to 7 times faster, measured over 1 to 64 by 1 to 128 channels; oneDNN takes them as they are
    (benchmarks/NOTES.md).
    """
    if backend.by_onednn():
        return inputs, outputs
    if max(inputs, outputs) <= FEW:
        outputs = FEW + 1  # up to here XLA takes Eigen's convolution, beyond it YNNPACK's
    if inputs % 2 and inputs > 1 and (outputs <= 32 or inputs > FEW):
        inputs = -(-inputs // 4) * 4
    return inputs, outputs


def _cpu_conv(x: jax.Array, w: jax.Array, stride: Pair, pad: Pads) -> jax.Array:
    """The same as `_conv`, with fewer products or with channels of zeros, where that is faster."""
    height, width, inputs, outputs = w.shape
    if stride == (1, 1) and _by_winograd(x, w, pad, winograd.LEAST_CHANNELS):
        return winograd.conv(x, w, *pad)
    wanted = _fast_channels(inputs, outputs)
    if height * width == 1 or wanted == (inputs, outputs):
        return _conv(x, w, stride, pad)
    more_inputs, more_outputs = wanted[0] - inputs, wanted[1] - outputs
    if more_inputs:
        x = _with_channels(x, 0, more_inputs)
    return _conv(x, _with_channels(w, more_inputs, more_outputs), stride, pad)[..., :outputs]


def _by_winograd(x: jax.Array, w: jax.Array, pad: Pads, least: int) -> bool:
    side = min(n + sum(p) - 2 for n, p in zip(x.shape[1:3], pad, strict=True))
    return x.dtype == jnp.float32 and winograd.pays(w.shape, side, least)


def _with_channels(array: jax.Array, inputs: int, outputs: int) -> jax.Array:
    """Zeros after the last two axes, written out: a convolution takes no fused operand."""
    widths = [(0, 0, 0), (0, 0, 0), (0, inputs, 0), (0, outputs, 0)]
    return lax.optimization_barrier(lax.pad(array, jnp.zeros((), array.dtype), widths))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _canonical_conv(x: jax.Array, w: jax.Array, stride: Pair, pad: Pads) -> jax.Array:
    return _cpu_conv(x, w, stride, pad)


def _conv_forward(
    x: jax.Array, w: jax.Array, stride: Pair, pad: Pads
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _cpu_conv(x, w, stride, pad), (x, w)


def _conv_backward(
    stride: Pair, pad: Pads, residuals: tuple[jax.Array, jax.Array], dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, w = residuals
    # Without the barrier XLA fuses what made dy into the transposes below, once per use.
    dy = lax.optimization_barrier(dy)
    if stride != (1, 1):
        return _by_phases(stride, pad, x, w, dy)
    around = [(k - 1 - low, k - 1 - high) for k, (low, high) in zip(w.shape[:2], pad, strict=True)]
    return _input_gradient(w, dy, (around[0], around[1])), _weight_gradient(w, x, dy, pad)


def _by_phases(
    stride: Pair, pad: Pads, x: jax.Array, w: jax.Array, dy: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """dx and dw of a strided convolution, the sum of some of stride 1 over every s-th pixel.

    Three times faster than dy spread out with zeros, of which most products would be.
    """
    (top, _), (left, _) = pad
    height, width = reached = [
        s * (m - 1) + k for s, m, k in zip(stride, dy.shape[1:3], w.shape[:2], strict=True)
    ]
    rows = (top, height - top - x.shape[1])  # the second is negative where the stride skips pixels
    columns = (left, width - left - x.shape[2])
    x = padded(x, rows, columns)
    dx, dw = jnp.zeros_like(x), jnp.zeros_like(w)
    for start in itertools.product(*map(range, map(min, stride, w.shape[:2]))):
        every = tuple(slice(first, None, step) for first, step in zip(start, stride, strict=True))
        part = w[every]
        high, wide = part.shape[0] - 1, part.shape[1] - 1
        sent = _input_gradient(part, dy, ((high, high), (wide, wide)))
        dx += dilate_pad(sent, 1, start, stride, reached)
        taps = _weight_gradient(part, x[:, *every], dy, NO_PADS)
        dw += dilate_pad(taps, 0, start, stride, w.shape[:2])
    return padded(dx, (-rows[0], -rows[1]), (-columns[0], -columns[1])), dw


def _input_gradient(w: jax.Array, dy: jax.Array, pad: Pads) -> jax.Array:
    """dx [B, H, W, I] as convolutions of dy with the kernel turned round, padded beforehand.

    A convolution that pads is slower, one whose output or kernel exceeds its input much slower,
    and with a kernel larger than its input it is not canonical.
    """
    height, width = w.shape[:2]
    if pad == ((height - 1,) * 2, (width - 1,) * 2) and (height - 1) * ROWS_PAY > dy.shape[1]:
        return (_by_parts if min(height, width) > ROWS_ALONE else _by_rows)(w, dy)
    return _turned_conv(w, dy, pad)


def _turned_conv(w: jax.Array, dy: jax.Array, pad: Pads) -> jax.Array:
    if _by_winograd(dy, w, pad, winograd.LEAST_CHANNELS):
        return winograd.conv(dy, w, *pad, turned=True)
    wide = dy if pad == NO_PADS else lax.optimization_barrier(padded(dy, *pad))
    return _cpu_conv(wide, w[::-1, ::-1].transpose(0, 1, 3, 2), (1, 1), NO_PADS)


def _by_rows(w: jax.Array, dy: jax.Array) -> jax.Array:
    """dx of a convolution without padding: every kernel row alone, then added in its place.

    A tall kernel on a low map multiplies mostly zeros where dy is padded by rows. Here one
    convolution with kernels of one row gives what each row of w sends back, [B, H', W, kh, I].
    """
    height, width, inputs, outputs = w.shape
    single = w[:, ::-1].transpose(1, 3, 0, 2).reshape(1, width, outputs, height * inputs)
    wide = lax.optimization_barrier(padded(dy, (0, 0), (width - 1, width - 1)))
    sent = lax.optimization_barrier(_cpu_conv(wide, single, (1, 1), NO_PADS))
    sent = sent.reshape(*sent.shape[:3], height, inputs)
    shifted = (padded(sent[:, :, :, i], (i, height - 1 - i), (0, 0)) for i in range(height))
    return functools.reduce(jnp.add, shifted)


def _by_parts(w: jax.Array, dy: jax.Array) -> jax.Array:
    """dx of a convolution without padding: parts of the kernel alone, then added where they lie.

    As `_by_rows`, of whose zeros along the width it saves the most, in more passes.
    """
    height, width = w.shape[:2]
    sent = []
    for rows, columns in itertools.product(_ranges(height, PARTS[0]), _ranges(width, PARTS[1])):
        part = w[slice(*rows), slice(*columns)]
        high, wide = part.shape[0] - 1, part.shape[1] - 1
        alone = lax.optimization_barrier(_turned_conv(part, dy, ((high, high), (wide, wide))))
        sent.append(padded(alone, (rows[0], height - rows[1]), (columns[0], width - columns[1])))
    return functools.reduce(jnp.add, sent)


def _ranges(length: int, parts: int) -> Iterator[Pair]:
    """`length` in `parts` runs of nearly one length, as (first, last + 1)."""
    return itertools.pairwise(round(i * length / parts) for i in range(parts + 1))


def _weight_gradient(w: jax.Array, x: jax.Array, dy: jax.Array, pad: Pads) -> jax.Array:
    """dw in w's shape [kh, kw, I, O], summed over pieces of the batch in a fixed order."""
    if _by_winograd(x, w, pad, winograd.LEAST_CHANNELS_WEIGHTS):
        return winograd.weight_gradient(x, dy, *pad)

    def one(x: jax.Array, dy: jax.Array) -> jax.Array:  # [I, H, W, b] * [H', W', b, O]
        return _cpu_conv(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), (1, 1), pad)

    batch = x.shape[0]
    limit = PIECE_BYTES_ONEDNN if backend.by_onednn() else PIECE_BYTES
    piece = piece_of(batch, dy[0].size * dy.dtype.itemsize, limit, least=2)
    total: jax.Array = sum_over_pieces(one, batch if piece == 1 else piece, x, dy)
    return total.transpose(1, 2, 0, 3)


_canonical_conv.defvjp(_conv_forward, _conv_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def flatten(x: jax.Array, platform: str | None = None) -> jax.Array:
    """[B, H, W, C] -> [B, H * W * C], in that order."""
    return materialize(x, (x.shape[0], math.prod(x.shape[1:])), platform)


def _flatten_forward(x: jax.Array, platform: str | None) -> tuple[jax.Array, jax.Array]:
    return flatten(x, platform), jnp.empty((0, *x.shape[1:]), bool)  # only carries a shape


def _flatten_backward(platform: str | None, like: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    return (materialize(dy, (dy.shape[0], *like.shape[1:]), platform),)


flatten.defvjp(_flatten_forward, _flatten_backward)


def channel_sums(x: jax.Array, platform: str | None = None) -> jax.Array:
    """Sum of x [B, ..., C] over all but the channels, [C].

    XLA's CPU compiler makes a sum over an axis longer than WINDOW a tree of windows, 30 times
    slower than a plain loop; axes are seen as several short ones instead, and the barrier keeps
    it from joining them again. On other back ends the barrier would write x to memory whole, and
    on a TPU short axes leave nearly all lanes idle: 65 to 90 % of a step (benchmarks/NOTES.md).
    """
    if not on_cpu(platform):
        return x.sum(tuple(range(x.ndim - 1)))
    shape = [part for length in x.shape[:-1] for part in _parts(length)]
    seen = lax.optimization_barrier(x.reshape(*shape, x.shape[-1]))
    return seen.sum(tuple(range(len(shape))))


def _parts(length: int) -> list[int]:
    """Factors of `length`, as few as have none above WINDOW but for a prime one."""
    largest = max(part for part in range(1, WINDOW + 1) if length % part == 0)
    return [length] if largest in (1, length) else [*_parts(length // largest), largest]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def add_bias(x: jax.Array, bias: jax.Array, platform: str | None = None) -> jax.Array:
    """x [B, ..., C] + bias [C]."""
    return x + bias.reshape(*[1] * (x.ndim - 1), -1)


def _add_bias_forward(
    x: jax.Array, bias: jax.Array, platform: str | None
) -> tuple[jax.Array, None]:
    return add_bias(x, bias, platform), None


def _add_bias_backward(platform: str | None, _: None, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    return dy, channel_sums(dy, platform)


add_bias.defvjp(_add_bias_forward, _add_bias_backward)
