"""A loss or a gradient that is not finite: the run stops, leaves the update out, or goes back."""

import dataclasses
import math
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import ABANDONED, TINY
from test_step import DATA, HYPERS, PLAIN, SHAPE, plan_of, seeds

from flaxcnn.engine import resident, step
from flaxcnn.engine.loop import ROLLBACKS, spike
from flaxcnn.engine.train import fit
from flaxcnn.errors import ConfigError, DivergedError, FlaxcnnError, InterruptedRun
from flaxcnn.records.run import RunDirectory

pytestmark = [*ABANDONED, pytest.mark.usefixtures("compile_once")]
STEPS = 13  # of an epoch of TINY
SHORT = dataclasses.replace(TINY, epochs=3, evaluate_train=False)


@pytest.fixture
def poison(monkeypatch):
    """Have some steps, counted from 0, give no finite gradient, while the rate is above a limit."""
    honest = step.gradients

    def plan(*steps, above=0.0, loss=True):
        def gradients(plan, state, hypers, scaling, batch):
            sums = honest(plan, state, hypers, scaling, batch)
            bad = jnp.isin(state.step, jnp.asarray(steps)) & (hypers.learning_rate > above)
            spoilt = lambda x: jnp.where(bad, jnp.nan, x)  # noqa: E731
            metrics = sums.metrics
            if loss:
                metrics = dataclasses.replace(metrics, loss=spoilt(metrics.loss))
            return dataclasses.replace(
                sums, grads=jax.tree.map(spoilt, sums.grads), metrics=metrics
            )

        monkeypatch.setattr(step, "gradients", gradients)

    return plan


def history(path):
    return RunDirectory(path).history()


def finite(tree):
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(tree)))


def test_stopped_within_the_part_and_the_step_is_named(digits, tmp_path, poison, monkeypatch):
    """The steps after it would be in vain, and the epoch before it stays."""
    poison(STEPS + 4)
    done = []
    monkeypatch.setattr(resident, "next_steps", lambda *_: done.append(1) or 1)
    with pytest.raises(DivergedError, match="epoch 2: train_loss is nan from step 5 on") as error:
        fit(SHORT, digits, tmp_path / "run")
    assert "keeps the weights of epoch 1" in str(error.value)
    assert len(done) == STEPS + 5
    assert history(tmp_path / "run")[1]["bad_step"] == 5
    assert "val_loss" not in history(tmp_path / "run")[1]


def test_an_update_that_is_not_finite_is_left_out(digits, tmp_path, poison):
    poison(4, STEPS + 2, STEPS + 3)
    config = dataclasses.replace(SHORT, on_nonfinite="skip")
    found = fit(config, digits, tmp_path / "run")
    assert [row["skipped_steps"] for row in found.history] == [1, 2, 0]
    assert int(found.state.step) == found.summary["kept_epoch"] * STEPS, "they count as steps"
    assert finite(found.state)
    assert config.fingerprint() != SHORT.fingerprint()


def test_nothing_of_the_update_is_left(poison):
    """Not its moments, nor its batch statistics; a gradient alone is enough."""
    plan = dataclasses.replace(plan_of(PLAIN), skip=True)
    state = step.init_state(plan, SHAPE, seeds(0), HYPERS)
    rows = jnp.arange(plan.batch_size, dtype=jnp.int32)
    batch = step.Batch(DATA.image[rows], DATA.label[rows], rows, jnp.ones(len(rows), bool))
    poison(0, loss=False)
    after, metrics = step.train_step(plan, state, HYPERS, DATA.scaling, batch)
    assert int(after.step) == 1
    same = dataclasses.replace(after, step=state.step)
    for one, other in zip(jax.tree.leaves(same), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (float(metrics.loss), float(metrics.count)) == (0.0, 0.0)
    again, metrics = step.train_step(plan, after, HYPERS, DATA.scaling, batch)
    assert float(metrics.count) == plan.batch_size
    assert not all(
        np.array_equal(one, other)
        for one, other in zip(
            jax.tree.leaves(again.params), jax.tree.leaves(state.params), strict=True
        )
    )


@pytest.mark.slow
def test_back_to_the_beginning_of_the_epoch_at_half_the_rate(digits, tmp_path, poison, monkeypatch):
    rate = SHORT.learning_rate
    config = dataclasses.replace(SHORT, on_nonfinite="rollback", save_every=50)
    poison(STEPS + 7, above=0.6 * rate)
    quiet = fit(config, digits, tmp_path / "quiet")
    assert [row.get("rollbacks") for row in quiet.history] == [None, 1, 1]
    assert quiet.history[1]["learning_rate"] == pytest.approx(rate / 2)
    assert finite(quiet.state)
    done = 0

    def one(*_):
        nonlocal done
        done += 1
        if done == STEPS + 3:
            signal.raise_signal(signal.SIGTERM)
        return 1

    monkeypatch.setattr(resident, "next_steps", one)
    with pytest.raises(InterruptedRun, match="in epoch 2 after 3 of"):
        fit(config, digits, tmp_path / "run")
    found = fit(config, digits, tmp_path / "run", resume=True)
    assert found.summary["params_digest"] == quiet.summary["params_digest"]


def test_what_no_rate_helps_ends_the_run(digits, tmp_path, poison, caplog):
    poison(2)
    config = dataclasses.replace(SHORT, on_nonfinite="rollback")
    with pytest.raises(DivergedError, match=f"from step 3 on after {ROLLBACKS} rollbacks"):
        fit(config, digits, tmp_path / "run")
    assert caplog.text.count("begins again with half the learning rate") == ROLLBACKS
    assert len(history(tmp_path / "run")) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("losses", "warned"),
    [([1.0], False), ([1.0, 2.0], False), ([0.5, 0.2, 0.7], True), ([0.5, None], False),
     ([None, 1.0], False), ([0.0, 1.0], False), ([0.5, math.inf], True),
     ([2.0, 0.001, 0.1], False)],
)  # fmt: skip
def test_a_loss_that_rises_far_is_warned_about(losses, warned):
    assert bool(spike([{"train_loss": loss} for loss in losses])) == warned


# -- silent corruption ---------------------------------------------------------------------------


def test_steps_that_are_computed_twice_change_no_bit(trained, digits, tmp_path, monkeypatch):
    twice, honest = [], resident.ResidentJob._twice

    def noted(self, state, done, order):
        twice.append(done + 1)
        return honest(self, state, done, order)

    monkeypatch.setattr(resident.ResidentJob, "_twice", noted)
    found = fit(dataclasses.replace(TINY, sdc_check=5), digits, tmp_path / "run")
    assert twice == [5, 10] * TINY.epochs
    assert found.summary["params_digest"] == trained.summary["params_digest"]


def test_one_other_bit_is_found(digits, tmp_path, monkeypatch):
    honest, calls = resident.ResidentJob._train, []

    def corrupting(self, state, done, count, order, most=0):
        state, sums, order = honest(self, state, done, count, order, most)
        calls.append(most)
        if sum(calls) == 3:  # the first of the two, the second time
            leaves, structure = jax.tree.flatten(state.params)
            words = np.asarray(leaves[0]).view(np.uint32).copy()
            words.flat[0] ^= 1
            leaves[0] = jax.device_put(words.view(np.float32), leaves[0].sharding)
            state = dataclasses.replace(state, params=jax.tree.unflatten(structure, leaves))
        return state, sums, order

    monkeypatch.setattr(resident.ResidentJob, "_train", corrupting)
    with pytest.raises(FlaxcnnError, match="epoch 1, step 10, computed twice, gave different bits"):
        fit(dataclasses.replace(TINY, sdc_check=5), digits, tmp_path / "run")
    assert RunDirectory(tmp_path / "run").read_json("status.json")["status"] == "failed"


def test_streamed_rows_are_not_computed_twice(digits, tmp_path):
    with pytest.raises(ConfigError, match=r"sdc_check=5 .* these are streamed"):
        fit(dataclasses.replace(TINY, sdc_check=5, input="stream"), digits, tmp_path / "run")
