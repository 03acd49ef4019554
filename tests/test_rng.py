"""Our threefry is jax's; four draws from one hash are four independent uniform ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.extend.random import threefry_2x32

from flaxcnn.rng import (
    Purpose,
    bits16,
    bits32,
    coin,
    randint,
    row_keys,
    stream_key,
    threefry2x32,
    words_of,
)

WORDS = st.integers(0, 2**32 - 1)
ROWS, COUNT = 64, 1000


@given(st.tuples(WORDS, WORDS), st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=5))
def test_threefry_is_that_of_jax(key, counters):
    key = jnp.asarray(key, jnp.uint32)
    a, b = jnp.asarray(counters, jnp.uint32).T
    expected = threefry_2x32(key, jnp.concatenate([a, b]))
    found = threefry2x32((key[0], key[1]), (a, b))
    np.testing.assert_array_equal(jnp.concatenate(found), expected)


@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5),
    low=st.integers(-5, 5),
    span=st.one_of(st.integers(1, 9), st.integers(2**15, 2**20)),
)
def test_draws_are_those_of_jax_random(seed, rows, low, span):
    """As elementwise operations; records and seeds of earlier versions keep their meaning."""
    seeds, rows = jnp.full(4, seed, jnp.uint32), jnp.asarray(rows, jnp.int32)
    key = stream_key(seeds, Purpose.AUGMENT, rows[0])
    root = jax.random.fold_in(jax.random.key(seeds[2], impl="threefry2x32"), int(Purpose.AUGMENT))
    expected = jax.random.key_data(jax.random.fold_in(root, rows[0]))
    np.testing.assert_array_equal(jax.random.key_data(key), expected)
    theirs = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    ours = row_keys(key, rows)
    np.testing.assert_array_equal(jax.random.key_data(ours), jax.random.key_data(theirs))
    words = words_of(ours)
    for found, expected in (
        (bits32(words), lambda k: jax.random.bits(k)),
        (coin(words), lambda k: jax.random.bernoulli(k)),
        (randint(words, low, low + span), lambda k: jax.random.randint(k, (), low, low + span)),
    ):
        np.testing.assert_array_equal(found, jax.vmap(expected)(theirs))


@pytest.fixture(scope="module")
def keys():
    return row_keys(stream_key(jnp.zeros(4, jnp.uint32), Purpose.DROPOUT, 3), jnp.arange(ROWS))


def test_bits_are_uniform_and_their_parts_unrelated(keys):
    bits = np.asarray(bits16(keys, 1, COUNT))
    assert bits.shape == (ROWS, COUNT)
    assert bits.dtype == np.uint16
    counts = np.bincount(bits.ravel() >> 10, minlength=64)  # 1000 expected in each, sd 31
    assert abs(counts - ROWS * COUNT / 64).max() < 160
    # Pieces of one hash, neighbours, neighbouring rows, other streams: sd of a correlation 0.004
    other = np.asarray(bits16(keys, 2, COUNT))
    pairs = [(bits[:, :250], bits[:, k : k + 250]) for k in (1, 250, 500, 750)]
    for a, b in [*pairs, (bits[:-1], bits[1:]), (bits, other)]:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.045


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 17])
def test_any_count_and_every_row_alone(keys, count):
    bits = bits16(keys, 1, count)
    assert bits.shape == (ROWS, count)
    for row in (0, 5):
        np.testing.assert_array_equal(bits16(keys[row : row + 1], 1, count)[0], bits[row])


def test_a_row_draws_alike_wherever_it_is():
    key = stream_key(jnp.ones(4, jnp.uint32), Purpose.AUGMENT)
    there = jax.random.key_data(row_keys(key, jnp.asarray([7, 3, 9])))
    alone = jax.random.key_data(row_keys(key, jnp.asarray([3])))
    np.testing.assert_array_equal(there[1], alone[0])
