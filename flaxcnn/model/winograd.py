"""3x3 convolutions with 16 products where a direct one takes 36, on CPU.

Winograd's minimal filtering F(2x2, 3x3) as in Lavin & Gray 2015 (arXiv:1509.09308): tiles of 4x4
pixels, which overlap by two, and the kernel are transformed by additions (the kernel's are halved),
multiplied as 16 matrix products over the channels, and transformed back to 2x2 pixels. Rounding is
that of a direct convolution to within a small factor. It pays from the number of channels on where
products cost more than the passes of the transforms (benchmarks/NOTES.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax

from flaxcnn.model.layout import Pair, in_pieces, materialize, padded, piece_of, sum_over_pieces

Arrays = list[jax.Array]
# Channels in times out from which on it is faster, of a convolution and of its weight gradient.
LEAST_CHANNELS = 32 * 64
LEAST_CHANNELS_WEIGHTS = 64 * 128
LEAST_SIDE = 4  # of the output; smaller ones fill their tiles with zeros
TILE_BYTES = 6 * 2**20  # of transformed pixels at once, so that they stay in the cache, or
KERNELS = 2  # this many times the bytes of the transformed kernels, which are read for each piece


def pays(kernel: tuple[int, ...], side: int, least: int) -> bool:
    """Whether a kernel [kh, kw, I, O] is faster this way; no output side is below `side` pixels."""
    height, width, inputs, outputs = kernel
    return (height, width) == (3, 3) and inputs * outputs >= least and side >= LEAST_SIDE


def conv(x: jax.Array, w: jax.Array, rows: Pair, columns: Pair, turned: bool = False) -> jax.Array:
    """Cross-correlation of stride 1: x [B, H, W, I], w [3, 3, I, O] -> [B, H', W', O].

    `rows` and `columns` are zeros before and after, so H' is H - 2 and these. `turned`: w is
    [3, 3, O, I], and turned round, as for the gradient of the input. Its channels are exchanged
    within the products, which costs nothing; a transposed copy costs as much as they do.
    """
    height, width = x.shape[1] + sum(rows) - 2, x.shape[2] + sum(columns) - 2
    x = _whole_tiles(x, rows, columns)
    kernels = [_kernel(row) for row in _kernel(w[::-1, ::-1] if turned else w)]
    if turned:
        kernels = [[kernel.T for kernel in row] for row in kernels]
    outputs = kernels[0][0].shape[1]

    def one(x: jax.Array) -> jax.Array:
        batch, high, wide = x.shape[0], x.shape[1] // 2 - 1, x.shape[2] // 2 - 1
        tiles = _tiles(x)
        # Of every tile, 4 x 4 products, made 4 x 2 and then 2 x 2 pixels.
        half = [_back([tiles[i][j] @ kernels[i][j] for j in range(4)]) for i in range(4)]
        pixels = [_back([half[i][j] for i in range(4)]) for j in range(2)]  # by column and row
        lines = [
            jnp.stack([pixels[j][i].reshape(batch, high, wide, -1) for j in range(2)], 3)
            for i in range(2)
        ]
        return materialize(jnp.stack(lines, 2), (batch, 2 * high, 2 * wide, outputs), "cpu")

    batch = x.shape[0]
    piece = _piece(x, outputs)
    if piece == batch:
        y = one(x)
    else:
        y = lax.map(one, in_pieces(x, piece))
        y = y.reshape(batch, *y.shape[2:])
    return y[:, :height, :width]


def weight_gradient(x: jax.Array, dy: jax.Array, rows: Pair, columns: Pair) -> jax.Array:
    """dw [3, 3, I, O] of `conv` from its x [B, H, W, I], dy [B, H', W', O] and padding."""
    x = _whole_tiles(x, rows, columns)
    dy = padded(dy, (0, dy.shape[1] % 2), (0, dy.shape[2] % 2))

    def one(x: jax.Array, dy: jax.Array) -> list[jax.Array]:
        """The gradients of the 4 x 4 transformed kernels, each [I, O]."""
        tiles, sent = _tiles(x), _sent(dy)
        return [tiles[i][j].T @ sent[i][j] for i in range(4) for j in range(4)]

    total = sum_over_pieces(one, _piece(x, dy.shape[3]), x, dy)
    half = [_kernel_back(total[j::4]) for j in range(4)]
    return jnp.stack([jnp.stack(_kernel_back([half[j][i] for j in range(4)])) for i in range(3)])


def _piece(x: jax.Array, outputs: int) -> int:
    """How many images of x [B, H, W, I] to take at once."""
    limit = max(TILE_BYTES, KERNELS * 16 * x.shape[3] * outputs * x.dtype.itemsize)
    return piece_of(x.shape[0], 4 * x[0].size * x.dtype.itemsize, limit, least=1)


def _whole_tiles(x: jax.Array, rows: Pair, columns: Pair) -> jax.Array:
    """x padded, and by one more row or column of zeros where that makes its sides even."""
    height, width = x.shape[1] + sum(rows), x.shape[2] + sum(columns)
    x = padded(x, (rows[0], rows[1] + height % 2), (columns[0], columns[1] + width % 2))
    return lax.optimization_barrier(x)


def _kernel(w: jax.Array) -> Arrays:
    """G along the first axis: 3 -> 4."""
    return [w[0], (w[0] + w[1] + w[2]) * 0.5, (w[0] - w[1] + w[2]) * 0.5, w[2]]


def _kernel_back(u: Sequence[jax.Array]) -> Arrays:
    """G transposed: 4 -> 3."""
    return [u[0] + (u[1] + u[2]) * 0.5, (u[1] - u[2]) * 0.5, u[3] + (u[1] + u[2]) * 0.5]


def _tiles(x: jax.Array) -> list[Arrays]:
    """The 4 x 4 transformed pixels of every tile of x [B, H, W, C], each [B * h * w, C]."""
    return _rows_and_columns(x, _transformed)


def _rows_and_columns(x: jax.Array, along: Callable[[jax.Array, int], Arrays]) -> list[Arrays]:
    """A transform of rows, then of columns, each written out: 4 x 4 of [B * h * w, C]."""
    rows = [materialize(row, row.shape, "cpu") for row in along(x, 1)]
    return [[materialize(t, (-1, t.shape[-1]), "cpu") for t in along(row, 2)] for row in rows]


def _transformed(x: jax.Array, axis: int) -> Arrays:
    """B transposed along an axis: of every other index, four that lie next to each other -> 4."""
    count = x.shape[axis] // 2 - 1

    def each(first: int) -> jax.Array:
        return lax.slice_in_dim(x, first, first + 2 * count - 1, 2, axis)

    return [each(0) - each(2), each(1) + each(2), each(2) - each(1), each(1) - each(3)]


def _back(m: Sequence[jax.Array]) -> Arrays:
    """A transposed: 4 -> 2."""
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _sent(dy: jax.Array) -> list[Arrays]:
    """The 4 x 4 transformed gradients of every 2 x 2 of dy [B, H, W, C], each [B * h * w, C]."""

    def along(x: jax.Array, axis: int) -> Arrays:  # A: 2 -> 4
        first, second = (lax.slice_in_dim(x, i, x.shape[axis], 2, axis) for i in range(2))
        return [first, first + second, first - second, -second]

    return _rows_and_columns(dy, along)
