"""One run on real data: the kept weights, the means and the records are exactly what they say."""

import csv
import dataclasses
import json
import math
from xml.etree import ElementTree

import jax
import numpy as np
import pytest
from small_runs import TINY

from flaxcnn.engine import epoch as programs
from flaxcnn.engine.digest import tree_digest
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.loop import Progress, epochs
from flaxcnn.engine.make_job import make_job
from flaxcnn.engine.saved import evaluate_run, open_run
from flaxcnn.engine.train import fit
from flaxcnn.errors import DivergedError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Conv, Dense, Flatten, GlobalAvgPool
from flaxcnn.recipe.optimizers import SGD
from flaxcnn.recipe.weights import Weights
from flaxcnn.records.run import RunDirectory

pytestmark = pytest.mark.usefixtures("compile_once")

CONTRACT = {
    "experiment", "protocol", "seed", "params", "trainable_params", "epochs_run", "best_epoch",
    "val_loss", "val_accuracy", "test_loss", "test_accuracy", "seconds", "compile_seconds",
    "images_per_second", "params_digest", "data_digest", "fingerprint", "device", "versions",
}  # fmt: skip
FILES = {
    "config.json", "env.json", "split.json", "data.json", "metrics.jsonl", "history.csv",
    "summary.json", "status.json", "README.md", "curve.svg", "predictions.npz", "filters.npz",
    "checkpoints", "run.lock", "digests.json",
}  # fmt: skip


def checkpoints(run):
    return sorted(int(p.name) for p in (run / "checkpoints").iterdir() if p.name.isdigit())


def fast(**changes):
    """A recipe of one dense layer, trained for a few epochs of few steps."""
    base = Config(
        dataset="digits", layers=(Flatten(), Dense(10)), optimizer=SGD(), learning_rate=0.1,
        batch_size=500, epochs=4,
    )  # fmt: skip
    return dataclasses.replace(base, **changes)


def test_the_best_epoch_is_restored_exactly(trained, by_hand):
    curve = [metrics["val_accuracy"] for metrics, _, _ in by_hand]
    best = 1 + int(np.argmax(curve))
    assert best < TINY.epochs, "the recipe must overshoot, or this test shows nothing"
    assert trained.summary["best_epoch"] == trained.summary["kept_epoch"] == best
    metrics, _, params = by_hand[best - 1]
    assert trained.summary["params_digest"] == tree_digest(params)
    assert tree_digest(jax.device_get(trained.state.params)) == tree_digest(params)
    for name in ("val_loss", "val_accuracy"):
        assert trained.summary[name] == metrics[name]
    assert trained.summary["train_accuracy"] == metrics["clean_train_accuracy"]
    assert trained.summary["epochs_run"] == TINY.epochs
    assert checkpoints(trained.path) == [best, TINY.epochs]


def test_trained_twice_the_bits_are_the_same(trained, digits, tmp_path):
    again = fit(TINY, digits, tmp_path / "again")
    other = fit(dataclasses.replace(TINY, seed=1), digits, tmp_path / "other")
    same = ("params_digest", "test_loss", "test_accuracy", "fingerprint", "split_digest")
    for name in same:
        assert again.summary[name] == trained.summary[name], name
    assert other.summary["params_digest"] != trained.summary["params_digest"]
    assert other.summary["split_digest"] == trained.summary["split_digest"]


def test_keep_last(digits, tmp_path, by_hand):
    kept = fit(dataclasses.replace(TINY, keep="last"), digits, tmp_path / "run").summary
    assert kept["kept_epoch"] == TINY.epochs
    assert kept["best_epoch"] < TINY.epochs
    assert kept["params_digest"] == tree_digest(by_hand[-1][2])
    assert kept["val_loss"] == by_hand[-1][0]["val_loss"]


def test_epoch_means_are_exact(by_hand, digits):
    """Sums per batch added in float64 and divided once, the incomplete last batch included."""
    job = make_job(TINY, digits)
    state, sums = job.train_epoch(job.init())
    rows = len(job.rows.train)
    assert rows % TINY.batch_size, "the last batch must be incomplete"
    loss, hits, count = (
        [float(x) for x in np.asarray(s)] for s in (sums.loss, sums.hits, sums.count)
    )
    assert sum(count) == rows
    metrics = by_hand[0][0]
    assert metrics["train_loss"] == sum(loss) / rows
    assert metrics["train_accuracy"] == sum(hits) / rows
    logits = np.asarray(job.predict(state, "validation"), np.float64)
    label = np.asarray(job.data.label)[job.rows.validation]
    shifted = logits - logits.max(axis=1, keepdims=True)
    entropy = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(label)), label]
    assert metrics["val_accuracy"] == (logits.argmax(1) == label).mean()
    np.testing.assert_allclose(metrics["val_loss"], entropy.mean(), rtol=1e-5)  # float32 sums


def test_clean_and_running_training_accuracy_are_two_numbers(trained, by_hand):
    for metrics, _, _ in by_hand:
        assert metrics["clean_train_accuracy"] != metrics["train_accuracy"]
    assert "clean_train_accuracy" in RunDirectory(trained.path).history()[0]


def test_without_evaluate_train_no_epoch_pays_for_it(digits):
    job = make_job(fast(epochs=1), digits)
    (report,) = epochs(job, job.init(), Progress(), Interrupt())
    assert "clean_train_accuracy" not in report.metrics


def test_what_a_run_leaves_behind(trained):
    summary = json.loads((trained.path / "summary.json").read_text())
    assert summary == trained.summary
    assert set(summary) >= CONTRACT
    assert {p.name for p in trained.path.iterdir()} == FILES, "all of them, and none half-written"
    assert json.loads((trained.path / "status.json").read_text())["status"] == "complete"
    assert RunDirectory(trained.path).config() == TINY
    assert summary["params"] == summary["trainable_params"] == 4 * 10 + 4 * 9 * 10 + 10
    assert summary["fingerprint"] == TINY.fingerprint()
    assert summary["experiment"] == "tiny"
    card = (trained.path / "README.md").read_text()
    assert f"| test | {summary['test_accuracy']:.4f} |" in card
    assert summary["params_digest"] in card
    assert card.startswith("---\nlibrary_name: flaxcnn\n")  # what the Hub reads
    assert f"value: {summary['test_accuracy']:.6g}}}]" in card
    assert "(curve.svg)" in card
    ElementTree.parse(trained.path / "curve.svg")


def test_history_is_the_metrics(trained, by_hand):
    lines = [json.loads(x) for x in (trained.path / "metrics.jsonl").read_text().splitlines()]
    with (trained.path / "history.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [line["epoch"] for line in lines] == list(range(1, TINY.epochs + 1))
    assert [{k: str(v) for k, v in line.items()} for line in lines] == table
    clocks = ("seconds", "images_per_second")
    for line, (metrics, _, _) in zip(lines, by_hand, strict=True):
        assert {k: v for k, v in line.items() if k not in clocks} == {
            k: v for k, v in metrics.items() if k not in clocks
        }
    assert trained.summary["seconds"] == sum(line["seconds"] for line in lines)


def test_predictions_give_the_test_accuracy(trained, digits):
    with np.load(trained.path / "predictions.npz") as found:
        row, label, logits = found["row"], found["label"], found["logits"]
    first = len(digits.train)
    np.testing.assert_array_equal(row, np.arange(first, first + len(digits.test)))
    np.testing.assert_array_equal(label, digits.test.label)
    assert (logits.argmax(1) == label).mean() == trained.summary["test_accuracy"]


def test_a_program_is_traced_once_however_many_epochs(digits, tmp_path, monkeypatch):
    traced = []

    def counted(name):
        program = getattr(programs, name)

        def run(*args):
            traced.append((name, len(args[-1])))
            return program(*args)

        return run

    for name in ("train_part", "train_epoch", "evaluate", "alive_units"):
        monkeypatch.setattr(programs, name, counted(name))
    fit(fast(evaluate_train=True), digits, tmp_path / "run")
    assert len(traced) == len(set(traced)), traced
    names = [name for name, _ in traced]
    # With the initialisation they are all that a run compiles: on a TPU each takes minutes.
    assert sorted(names) == ["alive_units", "evaluate", "train_part"]


def test_an_epoch_uses_its_state_up(digits):
    """Donated: parameters and moments are updated where they lie, on every device."""
    job = make_job(fast(), digits)
    state = job.init()
    after, _ = job.train_epoch(state)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((after, job.data, job.hypers)))


def test_save_every_keeps_the_best_and_the_last(digits, tmp_path):
    found = fit(fast(save_every=3, epochs=5), digits, tmp_path / "run").summary
    usual = fit(fast(epochs=5), digits, tmp_path / "usual").summary
    assert found["params_digest"] == usual["params_digest"]
    assert checkpoints(tmp_path / "run") == sorted({found["best_epoch"], 5})


def test_patience_stops_and_says_so(digits, tmp_path):
    found = fit(fast(epochs=30, patience=1, min_delta=0.5), digits, tmp_path / "run").summary
    assert found["epochs_run"] == 2
    assert found["stopped_early"]
    assert found["kept_epoch"] == 1


@pytest.mark.parametrize(
    ("batch_size", "loss"), [(500, "train_loss"), (2000, "val_loss")], ids=["steps", "one step"]
)
def test_divergence_is_an_error_and_no_checkpoint(digits, tmp_path, batch_size, loss):
    """With one step an epoch the training loss is that of sound weights, and the new ones are not.

    One such step takes the logits out of float32, and the next one the weights.
    """
    lines = []
    with pytest.raises(DivergedError, match=r"epoch 1: .*learning_rate \(now 1e\+38\)") as error:
        fit(fast(learning_rate=1e38, batch_size=batch_size), digits, tmp_path / "run",
            on_epoch=lines.append)  # fmt: skip
    assert error.value.exit_code == 4
    assert loss in str(error.value)
    run = RunDirectory(tmp_path / "run")
    assert run.read_json("status.json")["status"] == "diverged"
    assert checkpoints(run.path) == []
    assert run.history()[0][loss] is None
    assert not run.history()[0]["best"]
    assert not math.isfinite(lines[0][loss])
    assert not (run.path / "summary.json").exists()


def test_divergence_leaves_the_sound_checkpoints(digits, tmp_path, monkeypatch):
    """A NaN from epoch 3 on: epochs 1 and 2 stay, and none of them is the NaN."""
    after = Progress.after

    def poisoned(self, metrics, config):
        if self.epoch == 2:
            metrics["train_loss"] = math.nan
        return after(self, metrics, config)

    monkeypatch.setattr(Progress, "after", poisoned)
    with pytest.raises(DivergedError, match="epoch 3: train_loss is nan"):
        fit(fast(), digits, tmp_path / "run")
    assert checkpoints(tmp_path / "run")[-1] == 2
    assert [row["train_loss"] is None for row in RunDirectory(tmp_path / "run").history()] == [
        False, False, True,
    ]  # fmt: skip


@pytest.mark.parametrize("keep", ["best", "last"])
def test_the_last_good_weights_of_a_diverged_run(digits, tmp_path, monkeypatch, caplog, keep):
    """They are those of a run that ended before: evaluated, predicted with, and started from."""
    after = Progress.after

    def poisoned(self, metrics, config):
        if self.epoch == 2:
            metrics["train_loss"] = math.nan
        return after(self, metrics, config)

    shorter = fit(fast(epochs=2, keep=keep), digits, tmp_path / "shorter")
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "after", poisoned)
        with pytest.raises(DivergedError, match="keeps the weights of epoch"):
            fit(fast(keep=keep), digits, tmp_path / "run")
    found = open_run(tmp_path / "run")
    assert "diverged in epoch 3" in caplog.text
    assert found.status["status"] == "diverged"
    assert found.summary["diverged_epoch"] == 3
    assert found.summary["epochs_run"] == 2
    for name in ("params_digest", "kept_epoch", "test_accuracy", "test_loss"):
        assert found.summary[name] == shorter.summary[name]
    assert evaluate_run(found)["loss"] == shorter.summary["test_loss"]
    assert "It diverged in epoch 3" in (tmp_path / "run" / "README.md").read_text()
    start = Weights(str(tmp_path / "run"))
    assert fit(fast(epochs=1, init_from=start), digits, tmp_path / "on").summary["epochs_run"] == 1


def one_filter(seed):
    """A 1x1 filter without bias on pixels 0..1: where its sign is drawn negative, it is dead."""
    return fast(
        layers=(Conv(1, 1, activation="relu", bias=False), GlobalAvgPool(), Dense(10)),
        epochs=1, seed=seed,
    )  # fmt: skip


@pytest.mark.slow
def test_dead_units_are_said_and_counted(digits, tmp_path):
    said = {}
    for seed in range(20):
        job = make_job(one_filter(seed), digits)
        said[bool(jax.device_get(job.init().params["conv2d"]["kernel"]).item() > 0)] = seed
        if len(said) == 2:
            break
    dead, alive = said[False], said[True]
    notes = []
    found = fit(one_filter(dead), digits, tmp_path / "dead", on_note=notes.append).summary
    (note,) = notes
    assert note.startswith("conv2d: all 1 relu units are dead at initialisation")
    assert "--seed" in note
    assert (found["dead_units_init"], found["dead_units"], found["relu_units"]) == (1, 1, 1)
    assert "Dead relu units: conv2d 1 of 1." in (tmp_path / "dead" / "README.md").read_text()
    notes.clear()
    found = fit(one_filter(alive), digits, tmp_path / "alive", on_note=notes.append).summary
    assert notes == []
    assert (found["dead_units_init"], found["dead_units"]) == (0, 0)


@pytest.mark.slow
def test_checkpoints_elsewhere_outlive_the_records(digits, tmp_path, compile_once):
    """A new run directory gets its records from the newest checkpoint."""
    from flaxcnn.engine.saved import evaluate_run, open_run
    from flaxcnn.errors import ConfigError

    config = dataclasses.replace(TINY, epochs=2, evaluate_train=False)
    place = tmp_path / "bucket"
    fit(config, digits, tmp_path / "first", checkpoint_dir=place)
    longer = dataclasses.replace(config, epochs=3)
    found = fit(longer, digits, tmp_path / "second", resume=True, checkpoint_dir=place)
    lines = (tmp_path / "second" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]
    whole = fit(longer, digits, tmp_path / "whole")
    assert found.summary["params_digest"] == whole.summary["params_digest"]
    measured = evaluate_run(open_run(tmp_path / "second"))
    assert measured["loss"] == found.summary["test_loss"]
    other = dataclasses.replace(longer, learning_rate=0.5)
    with pytest.raises(ConfigError, match="checkpoint holds a different recipe: learning_rate"):
        fit(other, digits, tmp_path / "third", resume=True, checkpoint_dir=place)
