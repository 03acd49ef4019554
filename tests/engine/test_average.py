"""Averages as state: evaluated beside the weights, kept, resumed, and the same on all devices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sharding import ROWS
from test_step import DATA, HYPERS, NORMED, PLAIN, plan_of, start

from flaxcnn.data.batches import shuffled, take
from flaxcnn.engine import epoch
from flaxcnn.engine.average import averaged
from flaxcnn.engine.checkpoint import Checkpoints
from flaxcnn.engine.devices import replicated
from flaxcnn.engine.digest import tree_digest
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.loop import Progress, epochs
from flaxcnn.engine.make_job import make_job
from flaxcnn.engine.saved import evaluate_run, open_run
from flaxcnn.engine.sharding import BatchSharding
from flaxcnn.engine.step import init_state
from flaxcnn.engine.train import fit
from flaxcnn.errors import ConfigError
from flaxcnn.recipe.averages import EMA, SWA, ScheduleFree
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import BatchNorm, Conv, Dense, Flatten, MaxPool
from flaxcnn.recipe.optimizers import SGD, Optax
from flaxcnn.recipe.rules import Rules

BASE = Config(
    "digits", (Conv(4, 3, activation="relu"), BatchNorm(), MaxPool(2), Flatten(), Dense(10)),
    optimizer=SGD(0.9), learning_rate=0.1, batch_size=300, epochs=4, validation=200,
    average=SWA(2),
)  # fmt: skip
DECAY = {"average": jnp.float32(0.9)}
# Statistics of a batch by NumPy in float64, and by m * old + (1 - m) * new in float32, m 0.99:
# 1 - m has an error of 6e-6.
STATISTICS = {"rtol": 5e-5, "atol": 1e-5}

pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture(scope="module")
def run(digits, compiled, tmp_path_factory):
    return fit(BASE, digits, tmp_path_factory.mktemp("average") / "run")


@pytest.mark.slow
def test_it_is_monitored_kept_and_tested(run, digits):
    """Of the epochs as they come: the mean of the weights after epochs 2, 3 and 4."""
    job, weights = make_job(BASE, digits), []
    for report in epochs(job, job.init(), Progress(), Interrupt()):
        weights.append(jax.device_get(report.state.params))
        state = report.state
    mean = jax.tree.map(lambda *w: np.mean(w, axis=0), *weights[1:])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        jax.device_get(averaged(state).params), mean,
    )  # fmt: skip
    best = max(run.history, key=lambda line: line["swa_val_accuracy"])
    assert run.summary["kept_epoch"] == best["epoch"]
    assert run.summary["val_accuracy"] == best["swa_val_accuracy"]
    assert any(line["swa_val_loss"] != line["val_loss"] for line in run.history)


def test_what_is_kept_is_what_is_read_back(run):
    opened = open_run(run.path)
    assert tree_digest(jax.device_get(opened.state.params)) == run.summary["params_digest"]
    assert evaluate_run(opened)["accuracy"] == run.summary["test_accuracy"]


@pytest.mark.slow
def test_it_may_only_be_looked_at(digits, tmp_path):
    """The weights, and so the run, are those of a recipe without an average."""
    plain = fit(dataclasses.replace(BASE, average=None), digits, tmp_path / "plain")
    beside = dataclasses.replace(BASE, average=EMA(0.9, keep=False))
    found = fit(beside, digits, tmp_path / "beside")
    assert found.summary["params_digest"] == plain.summary["params_digest"]
    assert {"ema_val_loss", "ema_val_accuracy", "val_loss"} <= found.history[0].keys()
    assert found.summary["fingerprint"] != plain.summary["fingerprint"]


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_resumed_run_has_the_same_bits(run, digits, tmp_path, at):
    fit(dataclasses.replace(BASE, epochs=at), digits, tmp_path / "run")
    found = fit(BASE, digits, tmp_path / "run", resume=True)
    assert found.summary["params_digest"] == run.summary["params_digest"]
    keys = ("val_loss", "swa_val_loss", "swa_val_accuracy")
    assert [[line[k] for k in keys] for line in found.history] == [
        [line[k] for k in keys] for line in run.history
    ]


def test_statistics_are_the_means_over_the_batches_of_the_epoch():
    """torch's update_bn: of the averaged network, batch by batch."""
    plan = plan_of(NORMED, rows=len(ROWS), batch_size=10, rules=Rules(average=SWA(1)))
    plan = dataclasses.replace(plan, drop_last=True, steps_per_epoch=3)
    state, hypers = start(plan), HYPERS
    kernel = jax.tree.map(lambda k: k + 0.1, state.average["params"])
    state = state.replace(step=jnp.int32(6), average={**state.average, "params": kernel})
    found = jax.jit(epoch.estimate, static_argnums=0)(plan, state, hypers, DATA, ROWS)
    numbers, masks = shuffled(state.seeds, 1, ROWS, 10, True, 1)
    means, variances = [], []
    for number, mask in zip(numbers, masks, strict=True):
        image = np.asarray(take(DATA, number, mask).image, np.float32) / 255
        out = jax.lax.conv_general_dilated(
            image, kernel["conv2d"]["kernel"], (1, 1), "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest",
        )  # fmt: skip
        values = np.asarray(out, np.float64) + np.asarray(kernel["conv2d"]["bias"])
        means.append(values.mean((0, 1, 2)))
        variances.append(values.var((0, 1, 2)))
    (norm,) = found.values()
    np.testing.assert_allclose(norm["mean"], np.mean(means, 0), **STATISTICS)
    np.testing.assert_allclose(norm["var"], np.mean(variances, 0), **STATISTICS)


@pytest.mark.parametrize(
    "average", [EMA(0.5, warmup=True), pytest.param(SWA(1), marks=pytest.mark.slow)], ids=str
)
def test_the_bits_do_not_depend_on_the_number_of_devices(average):
    hypers, digests = HYPERS.replace(rules=DECAY), set()
    layers = PLAIN if isinstance(average, EMA) else NORMED
    for devices in (1, 4):
        plan = plan_of(layers, rows=len(ROWS), rules=Rules(average=average))
        plan = dataclasses.replace(plan, sharding=BatchSharding(devices, virtual=4))
        state = jax.jit(init_state, static_argnums=(0, 1))(
            plan, DATA.image[0].shape, jnp.zeros(4, jnp.uint32), hypers
        )
        args = jax.device_put((state, hypers, DATA, ROWS), replicated(devices))
        for _ in range(2):
            state, _ = jax.jit(epoch.train_epoch, static_argnums=0)(plan, *args)
            args = (state, *args[1:])
        stats = jax.jit(epoch.estimate, static_argnums=0)(plan, *args) if layers == NORMED else ()
        digests.add(tree_digest(jax.device_get((state.average, stats))))
    assert len(digests) == 1


@pytest.mark.slow
def test_in_parts_over_the_devices_it_is_the_same(digits):
    """With shard_optimizer each device holds a part of it."""
    config = dataclasses.replace(BASE, layers=(Flatten(), Dense(64), BatchNorm(), Dense(10)))
    found = []
    for parts in (False, True):
        job = make_job(dataclasses.replace(config, shard_optimizer=parts), digits)
        reports = epochs(job, job.init(), Progress(), Interrupt())
        *_, last = ((report.metrics, report.state) for report in reports)
        found.append(last)
        kernel = last[1].average["params"]["dense"]["kernel"]
        assert kernel.is_fully_replicated != parts
    for key in ("swa_val_loss", "val_loss"):
        assert found[0][0][key] == pytest.approx(found[1][0][key], rel=1e-4)


@pytest.mark.slow
def test_schedule_free_from_recipe_to_record(digits, tmp_path):
    config = dataclasses.replace(
        BASE, optimizer=Optax("optax.contrib.schedule_free_sgd"), average=ScheduleFree(),
        learning_rate=1.0,
    )  # fmt: skip
    found = fit(config, digits, tmp_path / "run")
    assert found.summary["val_accuracy"] == max(
        line["schedulefree_val_accuracy"] for line in found.history
    )
    assert found.summary["test_accuracy"] > 0.5


def test_a_streamed_run_cannot_estimate(digits):
    config = dataclasses.replace(BASE, input="stream")
    with pytest.raises(ConfigError, match="rows on the device, and these are streamed"):
        make_job(config, digits)


def test_a_checkpoint_from_before_there_were_averages_is_read(tmp_path):
    """What has no average is written without a place for one."""
    state = jax.device_get(start(plan_of(PLAIN)))
    before = {
        f.name: getattr(state, f.name) for f in dataclasses.fields(state) if f.name != "average"
    }
    with Checkpoints(tmp_path / "now") as now, Checkpoints(tmp_path / "then") as then:
        now.save(1, state, {}, None)
        then.save(1, before, {}, None)
        like = jax.tree.map(jnp.asarray, state)
        assert tree_digest(now.restore(1, like)[0]) == tree_digest(state)
    metadata = [(tmp_path / which / "1/state/_METADATA").read_text() for which in ("now", "then")]
    assert sorted(metadata[0]) == sorted(metadata[1])
