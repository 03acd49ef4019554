"""Randomness as arithmetic: a key is a function of (seed, purpose, index); nothing is carried.

So resuming a run restores no generator, and any number of devices draws the same numbers.
"""

from __future__ import annotations

import enum

import jax
import jax.numpy as jnp

Words = tuple[jax.Array, jax.Array]  # of keys
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
    seed = seeds[int(purpose)]
    root = jnp.zeros_like(seed), seed  # as jax.random.key(seed)
    return key_of(fold_in(fold_in(root, int(purpose)), index))


def row_keys(key: jax.Array, row: jax.Array) -> jax.Array:
    """A key for each row number of [B] int32: a row draws alike in any batch, on any device."""
    return key_of(fold_in(words_of(key), row))


# -- what jax.random does, as elementwise operations ---------------------------------------------
# A key is its two words, arrays of any one shape; all of it becomes a single kernel, where
# jax.random takes slices, joins and several. The numbers are the same.


def key_of(words: Words) -> jax.Array:
    """Typed threefry keys of two words, the reverse of `words_of`."""
    return jax.random.wrap_key_data(jnp.stack(words, -1), impl="threefry2x32")


def words_of(key: jax.Array) -> Words:
    """The two uint32 words of typed threefry keys."""
    data = jax.random.key_data(key)
    return data[..., 0], data[..., 1]


def fold_in(words: Words, number: jax.Array | int) -> Words:
    """As `jax.random.fold_in`, and the i-th key of `jax.random.split`."""
    counter = jnp.asarray(number).astype(jnp.uint32)
    return threefry2x32(words, (jnp.zeros_like(counter), counter))


def bits32(words: Words) -> jax.Array:
    """As `jax.random.bits(key)`: a uint32 for each key."""
    zero = jnp.zeros_like(words[0])
    high, low = threefry2x32(words, (zero, zero))
    return high ^ low


def coin(words: Words) -> jax.Array:
    """As `jax.random.bernoulli(key)`: True for half of all keys."""
    return bits32(words) >> jnp.uint32(31) == 0


def uniform(words: Words, low: float = 0.0, high: float = 1.0) -> jax.Array:
    """As `jax.random.uniform(key)`, scaled: a float32 from `low` to below `high` for each key."""
    ones = jax.lax.bitcast_convert_type(
        (bits32(words) >> jnp.uint32(9)) | jnp.uint32(0x3F800000), jnp.float32
    )
    return (ones - 1.0) * jnp.float32(high - low) + jnp.float32(low)


def randint(words: Words, low: int, high: int) -> jax.Array:
    """As `jax.random.randint(key, (), low, high)`: an int32 from `low` to `high` - 1 for each."""
    span = jnp.uint32(high - low)
    first, second = bits32(fold_in(words, 0)), bits32(fold_in(words, 1))
    factor = jnp.uint32(2**16 % (high - low))
    factor = factor * factor % span
    offset = (first % span * factor + second % span) % span
    return offset.astype(jnp.int32) + low


def threefry2x32(key: Words, counter: Words) -> Words:
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
    XLA's CPU compiler would compute them again for each of the four.
    """
    first, second = words_of(key)
    number = jnp.arange(-(-count // 4), dtype=jnp.uint32)[None]
    words = first[:, None], second[:, None]
    hashed = threefry2x32(words, (jnp.full_like(number, stream), number))
    if once:
        hashed = jax.lax.optimization_barrier(hashed)
    halves = [jax.lax.bitcast_convert_type(word, jnp.uint16) for word in hashed]
    return jnp.concatenate([half.reshape(len(key), -1) for half in halves], axis=1)[:, :count]
