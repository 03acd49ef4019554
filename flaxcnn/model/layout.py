"""Arrays as XLA's CPU compiler handles them well: padded, spread out, kept apart, in pieces.

Functions whose best form depends on the back end take `platform`, that of the devices the program
is compiled for: "cpu", "gpu" or "tpu". None means where jax computes by default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

Pair = tuple[int, int]
Tree = Any


def on_cpu(platform: str | None) -> bool:
    """Whether a program for `platform` gets the forms that XLA's CPU compiler runs fast."""
    return (platform or jax.default_backend()) == "cpu"


def padded(x: jax.Array, rows: Pair, columns: Pair) -> jax.Array:
    """x [B, H, W, C] with zeros before and after; negative widths crop."""
    widths = [(0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0)]
    return lax.pad(x, jnp.zeros((), x.dtype), widths)


def dilate_pad(
    x: jax.Array, axis: int, start: Sequence[int], stride: Pair, shape: Sequence[int]
) -> jax.Array:
    """x among zeros: two axes, from `axis` on, get `shape`; index i goes to start + i * stride."""
    widths = [(0, 0, 0)] * x.ndim
    for k, (low, s, n) in enumerate(zip(start, stride, shape, strict=True), start=axis):
        widths[k] = (low, n - low - (x.shape[k] - 1) * s - 1, s - 1)
    return lax.pad(x, jnp.zeros((), x.dtype), widths)


def materialize(x: jax.Array, shape: tuple[int, ...], platform: str | None = None) -> jax.Array:
    """x in another shape, or the same, written to memory: XLA's CPU fusions end here.

    A fusion that ends in a reshape runs on the axes of its result, and one that must find row,
    column and channel by division is three times slower; one that computes x again wherever it is
    read may be slower too (benchmarks/NOTES.md).
    """
    if not on_cpu(platform):
        return x.reshape(shape)
    with set_xla_metadata(inlineable="false"):
        return jax.jit(lambda x: x.reshape(shape))(x)


def isolate(function: Callable[..., Tree], platform: str | None = None) -> Callable[..., Tree]:
    """The function as a computation of its own, into which XLA's CPU compiler fuses nothing else.

    It drops optimization barriers before it fuses; other backends respect them.
    """
    if not on_cpu(platform):
        return function

    def called(*args: Tree) -> Tree:
        with set_xla_metadata(inlineable="false"):
            return jax.jit(function)(*args)

    return called


def piece_of(batch: int, bytes_of_one: int, limit: int, least: int) -> int:
    """How many images at once stay below `limit` bytes: a divisor of the batch, a power of two."""
    fits = max(limit // bytes_of_one, least)
    return math.gcd(batch, 2 ** int(math.log2(fits)))


def sum_over_pieces(one: Callable[..., Tree], piece: int, *arrays: jax.Array) -> Tree:
    """`one(*arrays)`, a sum over their first axis, of `piece` rows at a time in a fixed order."""
    if piece == arrays[0].shape[0]:
        return one(*arrays)
    pieces = [in_pieces(x, piece) for x in arrays]
    like = jax.eval_shape(one, *(x[0] for x in pieces))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)
    step = lambda sums, now: (jax.tree.map(jnp.add, sums, one(*now)), None)  # noqa: E731
    return lax.scan(step, nothing, pieces)[0]


def in_pieces(x: jax.Array, piece: int) -> jax.Array:
    """[B, ...] -> [B / piece, piece, ...]."""
    return materialize(x, (x.shape[0] // piece, piece, *x.shape[1:]), "cpu")
