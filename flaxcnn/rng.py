"""Randomness as arithmetic: a key is a function of (seed, purpose, index); nothing is carried.

So resuming a run restores no generator, and any number of devices draws the same numbers.
"""

from __future__ import annotations

import enum

import jax
import jax.numpy as jnp

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))  # of alternate groups of four rounds
PARITY = 0x1BD11BDA


class Purpose(enum.IntEnum):
    """What a stream of random numbers is for. Part of every record: never renumber."""

    INIT = 0
    ORDER = 1
    AUGMENT = 2
    DROPOUT = 3


def stream_key(seeds: jax.Array, purpose: Purpose, index: jax.Array | int = 0) -> jax.Array:
    """Threefry key of one stream; `seeds` is [4] uint32, one a purpose, and `index` an integer."""
    root = jax.random.key(seeds[int(purpose)], impl="threefry2x32")
    return jax.random.fold_in(jax.random.fold_in(root, int(purpose)), index)


def row_keys(key: jax.Array, row: jax.Array) -> jax.Array:
    """A key for each row number of [B] int32: a row draws alike in any batch, on any device."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, row)


def threefry2x32(
    key: tuple[jax.Array, jax.Array], counter: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32 of 20 rounds (Salmon et al. 2011); four uint32 arrays that broadcast -> two.

    The function behind `jax.random`, written as one chain of elementwise operations: jax's own is a
    loop on CPU, which writes and reads memory five times over.
    """
    keys = (*key, key[0] ^ key[1] ^ jnp.uint32(PARITY))
    a, b = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for turn in ROTATIONS[group % 2]:
            a = a + b
            b = a ^ ((b << jnp.uint32(turn)) | (b >> jnp.uint32(32 - turn)))
        a = a + keys[(group + 1) % 3]
        b = b + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return a, b


def bits16(key: jax.Array, stream: int, count: int, once: bool = True) -> jax.Array:
    """`count` random uint16 for each typed threefry key of [B] -> [B, count].

    `stream` numbers independent draws from the same keys. Each hash gives four of them, where
    `jax.random.bits` gives one. With `once` hashes are written to memory before they are used:
    XLA's CPU compiler would compute them anew for each of the four.
    """
    words = jax.random.key_data(key)[:, :, None]  # [B, 2, 1] uint32
    number = jnp.arange(-(-count // 4), dtype=jnp.uint32)[None]
    hashed = threefry2x32((words[:, 0], words[:, 1]), (jnp.full_like(number, stream), number))
    if once:
        hashed = jax.lax.optimization_barrier(hashed)
    halves = [jax.lax.bitcast_convert_type(word, jnp.uint16) for word in hashed]
    return jnp.concatenate([half.reshape(len(key), -1) for half in halves], axis=1)[:, :count]
