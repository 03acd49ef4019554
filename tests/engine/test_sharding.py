"""A batch over several devices gives the sums, the weights and the predictions of one device."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import TINY
from test_step import CLASSES, DATA, HYPERS, NORMED, PLAIN, in_batches, plan_of, start

from flaxcnn.data.batches import take
from flaxcnn.engine import epoch as programs
from flaxcnn.engine import sharding
from flaxcnn.engine.devices import all_devices, devices_used, mesh, replicated
from flaxcnn.engine.digest import tree_digest
from flaxcnn.engine.sharding import BatchSharding
from flaxcnn.errors import ConfigError
from flaxcnn.model.cnn import CNN, Network
from flaxcnn.recipe.layers import BatchNorm, Conv, Dense, Dropout, Flatten
from flaxcnn.recipe.optimizers import Adam
from flaxcnn.recipe.traced import dropout_rates

# The same sums in another order, over an epoch of five updates.
CLOSE = {"rtol": 2e-5, "atol": 2e-6}
DROPPED = (Conv(3, 3, activation="relu"), Dropout(0.5), Flatten(), Dense(CLASSES))
MODELS = pytest.mark.parametrize(
    "layers", [PLAIN, NORMED, DROPPED], ids=["plain", "batch norm", "dropout"]
)
MODES = pytest.mark.parametrize("mode", ["shard_map", "pmap", "jit"])
ROWS = jnp.arange(38)


def slowly(*values):
    """A case for CI: what it adds to the quick ones is compiled for long."""
    return pytest.param(*values, marks=pytest.mark.slow, id="-".join(map(str, values)))


@functools.cache
def on(how, layers, batch_size=8, per_shard=False, **settings):
    """(weights after an epoch, its sums; sums, logits and live units of an evaluation)."""
    plan = plan_of(layers, rows=len(ROWS), batch_size=batch_size, **settings)
    axis = None if per_shard else how.axis
    plan = dataclasses.replace(plan, sharding=how, model=Network(CNN(layers, axis=axis)))
    place = replicated(how.devices)
    hypers = HYPERS.replace(dropout=jnp.asarray(dropout_rates(layers), jnp.float32))
    state, data, hypers, rows = jax.device_put((start(plan), DATA, hypers, ROWS), place)
    run = lambda program, *args: jax.jit(program, static_argnums=0)(plan, *args)  # noqa: E731
    after, sums = run(programs.train_epoch, state, hypers, data, rows)
    batches = jax.device_put(in_batches(plan, np.asarray(ROWS)), place)
    held, logits = run(programs.evaluate, after, data, *batches)
    return jax.device_get((
        after, sums, jax.tree.map(lambda x: np.float64(math.fsum(np.ravel(x))), held),
        logits.reshape(-1, CLASSES)[: len(ROWS)],
        run(programs.alive_units, after, data, *batches),
    ))  # fmt: skip


def close(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), a, b)


@MODELS
@pytest.mark.parametrize(
    ("how", "batch_size"),
    [
        (BatchSharding(4), 8),
        (BatchSharding(3), 10),
        slowly(BatchSharding(3, "pmap"), 10),
        slowly(BatchSharding(3, "jit"), 10),
    ],
    ids=str,
)
def test_devices_change_nothing_but_the_order_of_sums(layers, how, batch_size):
    """38 rows: the last batch is incomplete, and three devices do not divide ten rows."""
    one, several = on(BatchSharding(), layers, batch_size), on(how, layers, batch_size)
    close(one, several)
    assert one[2].count == len(ROWS)
    assert one[3].shape == (len(ROWS), CLASSES)


@pytest.mark.parametrize("layers", [PLAIN, DROPPED], ids=["plain", "dropout"])
@pytest.mark.parametrize(
    "how",
    [
        BatchSharding(),
        slowly(BatchSharding(2)),
        slowly(BatchSharding(2, "jit")),
        slowly(BatchSharding(2, "pmap")),
    ],
    ids=str,
)
def test_a_batch_in_parts_gives_the_same_update(layers, how):
    close(on(how, layers), on(dataclasses.replace(how, accumulate=2), layers))


@pytest.mark.slow
def test_parts_hold_the_rows_that_the_way_of_spreading_cannot_change():
    """Batch statistics are those of a part, and every way deals out the same rows."""
    found = [
        on(BatchSharding(2, mode, accumulate=2), NORMED) for mode in ("shard_map", "pmap", "jit")
    ]
    close(found[0], found[1])
    close(found[0], found[2])


@pytest.mark.slow
@MODELS
def test_exact_sums_have_the_same_bits_on_any_number_of_devices(layers):
    digests = {
        tree_digest(on(BatchSharding(devices, mode, virtual=4), layers, per_shard=True))
        for devices, mode in ((1, "shard_map"), (2, "shard_map"), (4, "shard_map"), (4, "pmap"))
    }
    assert len(digests) == 1


def test_what_would_not_be_exact():
    """The test above can fail: without virtual shards the bits differ."""
    found = {tree_digest(on(BatchSharding(devices), DROPPED)[:1]) for devices in (1, 2, 4)}
    assert len(found) > 1


def test_exact_sums_are_close_to_those_of_one_device():
    """10 rows in 4 shards: two of them are padding."""
    for how in (BatchSharding(1, virtual=4), BatchSharding(2, virtual=4, accumulate=2)):
        close(on(BatchSharding(), PLAIN, 10), on(how, PLAIN, 10, per_shard=True))


@pytest.mark.slow
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_a_sum_in_pairs_is_a_sum(count, seed):
    x = np.random.default_rng(seed).integers(-1000, 1000, (count, 3)).astype(np.float32)
    np.testing.assert_array_equal(sharding._pairwise_sum(jnp.asarray(x)), x.sum(0))


@MODES
def test_a_shard_of_padding_alone_does_no_harm(mode):
    """38 rows in batches of 8: the last has 6, and the fourth device none of them."""
    found = on(BatchSharding(4, mode), NORMED, per_shard=mode != "jit")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


@pytest.mark.slow
def test_statistics_of_a_shard_are_those_of_its_own_rows():
    """They differ from those of the batch, and on one device there is no difference."""
    whole, own = (on(BatchSharding(2), NORMED, per_shard=p)[0].batch_stats for p in (False, True))
    assert any(not np.allclose(a, b) for a, b in zip(*map(jax.tree.leaves, (whole, own)),
                                                     strict=True))  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, on(BatchSharding(), NORMED, per_shard=True),
                 on(BatchSharding(), NORMED))  # fmt: skip


@pytest.mark.parametrize("large", [1, 64, 10**9])
def test_large_leaves_are_exchanged_alone(large, monkeypatch):
    """To the bit what one exchange of everything gives."""
    together = on(BatchSharding(4), NORMED)
    monkeypatch.setattr(sharding, "LARGE", large)
    jax.tree.map(np.testing.assert_array_equal, on.__wrapped__(BatchSharding(4), NORMED), together)


@MODES
def test_every_device_ends_with_the_same_bits(mode):
    how = BatchSharding(4, mode)
    plan = dataclasses.replace(plan_of(NORMED, batch_size=8), sharding=how,
                               model=Network(CNN(NORMED, axis=how.axis)))  # fmt: skip
    args = jax.device_put((start(plan), HYPERS, DATA, jnp.arange(40)), replicated(4))
    after, _ = jax.jit(programs.train_epoch, static_argnums=0)(plan, *args)
    for leaf in jax.tree.leaves((after.params, after.batch_stats, after.opt_state)):
        parts = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(parts) == 4
        for part in parts[1:]:
            np.testing.assert_array_equal(part, parts[0])


@pytest.mark.slow
def test_an_optimizer_in_parts_takes_a_part_of_the_memory(digits):
    from flaxcnn.engine.make_job import make_job

    config = dataclasses.replace(TINY, optimizer=Adam(), learning_rate=0.01, batch_size=64,
                                 layers=(Flatten(), Dense(64, "relu"), Dense(10)))  # fmt: skip
    found = {}
    for shard in (False, True):
        job = make_job(dataclasses.replace(config, shard_optimizer=shard), digits)
        state, _ = job.train_epoch(job.init())
        first = jax.devices()[0]
        own = sum(part.data.nbytes for leaf in jax.tree.leaves(state.opt_state)
                  for part in leaf.addressable_shards if part.device == first)  # fmt: skip
        found[shard] = own, jax.device_get(state)
    assert found[True][0] < 0.3 * found[False][0]  # a quarter, and what does not divide by four
    close(found[True][1], found[False][1])


@pytest.mark.slow
def test_activations_computed_again_change_nothing(digits):
    """More convolutions in the program as it is handed to XLA, the same weights after it."""
    from flaxcnn.engine.make_job import make_job
    from flaxcnn.engine.step import gradients
    from flaxcnn.recipe.layers import Activation, MaxPool

    deep = (Conv(4, 3), BatchNorm(), Activation("relu"), Dropout(0.2), MaxPool(2))
    config = dataclasses.replace(TINY, layers=(*deep, Flatten(), Dense(10)), determinism="exact")
    found = {}
    for remat in (False, True):
        job = make_job(dataclasses.replace(config, remat=remat), digits)
        state, rows = job.init(), jnp.arange(8, dtype=jnp.int32)
        args = state, job.hypers, job.data.scaling, take(job.data, rows, rows >= 0)
        program = jax.jit(functools.partial(gradients, job.plan)).lower(*args).as_text()
        state, _ = job.train_epoch(state)
        found[remat] = program.count("stablehlo.convolution"), jax.device_get(state)
    assert found[True][0] > found[False][0]
    close(found[True][1], found[False][1])


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (15, 1), (16, 2), (31, 3), (128, 4)])
def test_a_device_has_a_batch_worth_its_while(batch_size, devices):
    assert jax.local_device_count() == 4
    assert (
        sharding.choose_sharding(dataclasses.replace(TINY, batch_size=batch_size)).devices
        == devices
    )


@pytest.mark.parametrize(("shards", "devices"), [(1, 1), (2, 2), (6, 3), (7, 1), (8, 4)])
def test_virtual_shards_are_dealt_out_evenly(shards, devices):
    config = dataclasses.replace(TINY, determinism="exact", virtual_shards=shards)
    assert sharding.choose_sharding(config).devices == devices


class Chip:
    """What `parallel` asks of a device: one of a slice, which jax lists in another order."""

    def __init__(self, number, process, platform="tpu"):
        self.id, self.process_index, self.platform = number, process, platform


# As jax.make_mesh orders 16 chips of a v5e: in a ring, in which those of a process do not lie next
# to each other.
RING = [
    Chip(n, process) for n, process in enumerate((0, 0, 1, 1, 1, 1, 0, 2, 3, 3, 3, 3, 2, 2, 2, 0))
]


def test_a_processs_devices_lie_next_to_each_other():
    """Or a process reads columns that other devices compute: predictions of wrong rows."""
    with devices_used(RING):
        found = [chip.process_index for chip in all_devices()]
    assert found == sorted(found)


def test_a_mesh_keeps_the_order():
    devices = jax.devices()
    with devices_used(devices[::-1]):
        assert mesh(3).devices.tolist() == devices[:3]
        assert replicated(3).device_set == set(devices[:3])


@pytest.mark.parametrize("chips", [1, 4, 8, 16])
@given(batch_size=st.integers(1, 4096), shards=st.integers(1, 64), exact=st.booleans())
def test_groups_of_tpu_chips_divide_the_slice(chips, batch_size, shards, exact):
    """Others abort the compiler, and the process with it."""
    settings = {"determinism": "exact", "virtual_shards": shards} if exact else {}
    config = dataclasses.replace(TINY, batch_size=batch_size, **settings)
    with devices_used([Chip(n, n // 4) for n in range(chips)]):
        how = sharding.choose_sharding(config)
    assert how.platform == "tpu"
    assert chips % how.devices == 0
    assert how.devices == 1 or exact or batch_size // how.devices >= sharding.LEAST_ROWS["tpu"]


@pytest.mark.parametrize(
    ("batch_size", "devices"), [(32, 1), (128, 1), (511, 1), (512, 2), (1024, 4), (4096, 8)]
)
def test_a_gpu_wants_a_large_part_of_a_batch(batch_size, devices):
    """Its step takes as long as its kernels take to launch, however few rows they have."""
    config = dataclasses.replace(TINY, batch_size=batch_size)
    with devices_used([Chip(n, 0, "cuda") for n in range(8)]):
        how = sharding.choose_sharding(config)
    assert (how.platform, how.devices) == ("gpu", devices)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"virtual_shards": 8}, "virtual_shards=8 fixes the order of sums and needs"),
        ({"virtual_shards": 8, "determinism": "exact", "parallel": "jit"}, "parallel=shard_map"),
        ({"virtual_shards": 0}, "virtual_shards must be from 1 to"),
        ({"accumulate": 101}, "accumulate must be at most batch_size=100"),
        ({"parallel": "pmpa"}, "parallel must be auto, jit, pmap or shard_map"),
        ({"shard_optimizer": True, "parallel": "pmap"}, "shard_optimizer=true does not work"),
        ({"learning_rate_scaling": "linear"}, "needs base_batch_size"),
        ({"base_batch_size": 32}, "base_batch_size=32 has no effect"),
        ({"layers": (*NORMED[:-1], Dense(10)), "parallel": "jit", "batch_norm": "per_shard"},
         "batch_norm=per_shard does not work with parallel=jit"),
        ({"layers": (*NORMED[:-1], Dense(10)), "determinism": "exact", "virtual_shards": 2},
         "batch_norm=global does not work with virtual_shards=2"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(changed, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(TINY, **changed)


@pytest.mark.parametrize(
    ("way", "factor"), [("linear", 4.0), ("sqrt", 2.0)]
)  # fmt: skip
def test_the_learning_rate_grows_with_the_batch(way, factor):
    config = dataclasses.replace(TINY, learning_rate_scaling=way, base_batch_size=25)
    assert config.scaled_learning_rate() == pytest.approx(factor * 0.05)
    assert TINY.scaled_learning_rate() == 0.05


def test_padding_that_costs_is_said():
    config = dataclasses.replace(TINY, batch_size=30)
    assert "each batch gets 2 rows of padding" in sharding.padding_warning(config, BatchSharding(4))
    assert not sharding.padding_warning(config, BatchSharding(3))


def test_older_records_keep_their_fingerprint():
    """New settings count where they are not what was done before there were any."""
    assert dataclasses.replace(TINY, parallel="auto").fingerprint() == TINY.fingerprint()
    assert dataclasses.replace(TINY, parallel="jit").fingerprint() != TINY.fingerprint()
