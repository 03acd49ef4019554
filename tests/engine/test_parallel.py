"""A batch over several devices gives the sums, the weights and the predictions of one device."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import CLASSES, DATA, HYPERS, NORMED, PLAIN, plan_of, start

from flaxcnn.engine import epoch as programs
from flaxcnn.engine import parallel
from flaxcnn.model.cnn import CNN
from flaxcnn.recipe.layers import Conv, Dense, Dropout, Flatten
from flaxcnn.recipe.leaves import dropout_rates

# The same sums in another order, over an epoch of five updates.
CLOSE = {"rtol": 2e-5, "atol": 2e-6}
DROPPED = (Conv(3, 3, activation="relu"), Dropout(0.5), Flatten(), Dense(CLASSES))
ROWS = jnp.arange(38)


def on(shards, layers, batch_size):
    """(weights after an epoch, its sums; sums, logits and live units of an evaluation)."""
    plan = plan_of(layers, rows=len(ROWS), batch_size=batch_size)
    axis = parallel.AXIS if shards > 1 else None
    plan = dataclasses.replace(plan, shards=shards, model=CNN(layers, axis=axis))
    place = parallel.everywhere(shards)
    hypers = HYPERS.replace(dropout=jnp.asarray(dropout_rates(layers), jnp.float32))
    state, data, hypers, rows = jax.device_put((start(plan), DATA, hypers, ROWS), place)
    run = lambda program, *args: jax.jit(program, static_argnums=0)(plan, *args)  # noqa: E731
    after, sums = run(programs.train_epoch, state, hypers, data, rows)
    held = run(programs.evaluate, after, data, rows)
    return jax.device_get((
        after, sums, jax.tree.map(lambda x: x.sum(), held),
        run(programs.predict, after, data, rows), run(programs.alive_units, after, data, rows),
    ))  # fmt: skip


@pytest.mark.parametrize("layers", [PLAIN, NORMED, DROPPED], ids=["plain", "batch norm", "dropout"])
@pytest.mark.parametrize(
    ("shards", "batch_size"), [(2, 8), (4, 8), (3, 10)], ids=["even", "four", "uneven"]
)
def test_devices_change_nothing_but_the_order_of_sums(layers, shards, batch_size):
    """38 rows: the last batch is incomplete, and three devices do not divide ten rows."""
    one, several = on(1, layers, batch_size), on(shards, layers, batch_size)
    assert jax.tree.structure(one) == jax.tree.structure(several)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), one, several)
    assert one[2].count == len(ROWS)
    assert one[3].shape == (len(ROWS), CLASSES)


@pytest.mark.parametrize("large", [1, 64, 10**9])
def test_large_leaves_are_exchanged_alone(large, monkeypatch):
    """To the bit what one exchange of everything gives."""
    together = on(4, NORMED, 8)
    monkeypatch.setattr(parallel, "LARGE", large)
    jax.tree.map(np.testing.assert_array_equal, on(4, NORMED, 8), together)


def test_every_device_ends_with_the_same_bits():
    plan = dataclasses.replace(plan_of(NORMED, batch_size=8), shards=4,
                               model=CNN(NORMED, axis=parallel.AXIS))  # fmt: skip
    args = jax.device_put((start(plan), HYPERS, DATA, jnp.arange(40)), parallel.everywhere(4))
    after, _ = jax.jit(programs.train_epoch, static_argnums=0)(plan, *args)
    for leaf in jax.tree.leaves((after.params, after.batch_stats, after.opt_state)):
        parts = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(parts) == 4
        for part in parts[1:]:
            np.testing.assert_array_equal(part, parts[0])


@pytest.mark.parametrize(("batch_size", "shards"), [(1, 1), (15, 1), (16, 2), (31, 3), (128, 4)])
def test_a_device_has_a_batch_worth_its_while(batch_size, shards):
    assert jax.local_device_count() == 4
    assert parallel.shards_of(batch_size) == shards
