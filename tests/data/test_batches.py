"""Row order and batches: arithmetic on (seed, epoch), every row exactly once, padding masked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flaxcnn.data.batches import Scaling, in_order, resident, shuffled, take
from flaxcnn.data.splits import steps_per_epoch
from flaxcnn.errors import ConfigError
from flaxcnn.rng import Purpose, stream_key

# Every example compiles for shapes of its own; sampled sizes let many share one program.
SOME = settings(max_examples=20)
ROWS = st.sampled_from([1, 7, 12, 30])
BATCHES = st.sampled_from([1, 5, 12, 40])
SEEDS = st.integers(0, 2**32 - 1)
EPOCHS = st.integers(0, 1000)

order_of = jax.jit(shuffled, static_argnums=(3, 4))


def epoch_rows(seed, epoch, rows, batch_size, drop_last=False):
    """(row numbers [S, B], mask [S, B]) of rows 100, 103, 106, ... in NumPy."""
    numbers = 100 + 3 * jnp.arange(rows, dtype=jnp.int32)
    found = order_of(
        jnp.full(4, seed, jnp.uint32), jnp.int32(epoch), numbers, batch_size, drop_last
    )
    assert found[0].dtype == jnp.int32
    return tuple(map(np.asarray, found))


@SOME
@given(seed=SEEDS, epoch=EPOCHS, rows=ROWS, batch_size=BATCHES)
def test_every_row_exactly_once_and_padding_masked(seed, epoch, rows, batch_size):
    row, mask = epoch_rows(seed, epoch, rows, batch_size)
    steps = steps_per_epoch(rows, batch_size)
    assert row.shape == mask.shape == (steps, batch_size)
    assert sorted(row[mask]) == list(range(100, 100 + 3 * rows, 3))
    assert mask[:-1].all()  # padding only at the end of the last batch
    assert mask[-1].sum() == rows - (steps - 1) * batch_size
    assert (np.diff(mask[-1].astype(int)) <= 0).all()
    assert np.isin(row[~mask], row[mask]).all()  # padding is a row that exists


@SOME
@given(seed=SEEDS, epoch=EPOCHS, rows=ROWS, batch_size=BATCHES)
def test_drop_last_leaves_out_the_incomplete_batch(seed, epoch, rows, batch_size):
    if rows < batch_size:
        with pytest.raises(ConfigError, match="drop_last=true leaves no batch"):
            steps_per_epoch(rows, batch_size, drop_last=True)
        return
    row, mask = epoch_rows(seed, epoch, rows, batch_size, drop_last=True)
    whole, _ = epoch_rows(seed, epoch, rows, batch_size)
    assert len(row) == steps_per_epoch(rows, batch_size, drop_last=True) == rows // batch_size
    assert mask.all()
    np.testing.assert_array_equal(row, whole[: len(row)])
    assert len(set(row[mask])) == mask.sum()


@SOME
@given(seed=SEEDS, epoch=EPOCHS, rows=ROWS)
def test_order_depends_on_seed_and_epoch_only(seed, epoch, rows):
    by_twelve, mask = epoch_rows(seed, epoch, rows, 12)
    by_five, other = epoch_rows(seed, epoch, rows, 5)
    np.testing.assert_array_equal(by_twelve[mask], by_five[other])


def test_seeds_and_epochs_have_orders_of_their_own():
    orders = {(s, e): tuple(epoch_rows(s, e, 30, 30)[0][0]) for s in range(6) for e in range(6)}
    assert len(set(orders.values())) == 36
    first = [order[0] for order in orders.values()]
    assert len(set(first)) > 12  # every row may come first; 36 draws of 30 give about 21


@SOME
@given(rows=ROWS, batch_size=BATCHES)
def test_in_order_keeps_the_order(rows, batch_size):
    numbers = jnp.arange(rows, dtype=jnp.int32)[::-1] * 2
    row, mask = map(np.asarray, in_order(numbers, batch_size))
    assert row.shape == (steps_per_epoch(rows, batch_size), batch_size)
    np.testing.assert_array_equal(row[mask], numbers)
    assert (row[~mask] == numbers[0]).all()


def test_take_and_resident_bring_rows_labels_and_statistics():
    random = np.random.default_rng(0)
    train, test = (random.integers(0, 256, (n, 4, 3, 2), np.uint8) for n in (5, 3))
    label = [np.arange(5, dtype=np.int32), 10 + np.arange(3, dtype=np.int32)]
    one = np.ones((1, 1, 1), np.float32)
    data = jax.device_put(resident([train, test], label, Scaling(0 * one, one)))
    assert (data.image.dtype, data.label.dtype) == (jnp.uint8, jnp.int32)
    batch = take(data, jnp.array([6, 0, 4], jnp.int32), jnp.array([True, True, False]))
    np.testing.assert_array_equal(batch.image, [test[1], train[0], train[4]])
    np.testing.assert_array_equal(batch.label, [11, 0, 4])
    np.testing.assert_array_equal(batch.row, [6, 0, 4])
    np.testing.assert_array_equal(batch.mask, [True, True, False])


def test_numbers_of_the_random_streams_never_change():
    """Records of old runs are repeated by these numbers."""
    assert {p.name: p.value for p in Purpose} == {"INIT": 0, "ORDER": 1, "AUGMENT": 2, "DROPOUT": 3}
    key = stream_key(jnp.array([0, 7, 1, 2], jnp.uint32), Purpose.ORDER, 3)
    by_hand = jax.random.key(jnp.uint32(7), impl="threefry2x32")
    for number in (1, 3):
        by_hand = jax.random.fold_in(by_hand, number)
    np.testing.assert_array_equal(jax.random.key_data(key), jax.random.key_data(by_hand))
    assert jax.random.key_data(key).tolist() == [2645361454, 4044176579]
