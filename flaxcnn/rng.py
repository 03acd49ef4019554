"""Randomness as arithmetic: a key is a function of (seed, purpose, index); nothing is carried.

So resuming a run restores no generator, and any number of devices draws the same numbers.
"""

from __future__ import annotations

import enum

import jax


class Purpose(enum.IntEnum):
    """What a stream of random numbers is for. Part of every record: never renumber."""

    INIT = 0
    ORDER = 1
    AUGMENT = 2
    DROPOUT = 3


def stream_key(seed: jax.Array, purpose: Purpose, index: jax.Array | int = 0) -> jax.Array:
    """Threefry key of one stream; `seed` and `index` are [] integers, traced or not."""
    root = jax.random.key(seed, impl="threefry2x32")
    return jax.random.fold_in(jax.random.fold_in(root, int(purpose)), index)
