"""A run in a study is that run alone: to the bit one by one, to rounding side by side."""

import dataclasses
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.resident import ResidentJob
from flaxcnn.engine.train import fit
from flaxcnn.errors import ConfigError
from flaxcnn.recipe.augment import Shift
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import BatchNorm, Conv, Dense, Dropout, Flatten, MaxPool
from flaxcnn.recipe.optimizers import SGD, Cosine
from flaxcnn.records.study import StudyDirectory
from flaxcnn.studies import runs as studies_runs
from flaxcnn.studies import slot
from flaxcnn.studies.events import Ledger, Listener
from flaxcnn.studies.groups import Group, GroupQueue, Scheduler, grouped
from flaxcnn.studies.plan import plan_runs
from flaxcnn.studies.runs import JobPool, run_groups

# Everything that a neighbour could disturb: batch statistics, dropout, augmentation, an incomplete
# last batch, early stopping.
RECIPE = Config(
    dataset="digits",
    layers=(Conv(4, 3, activation="relu"), BatchNorm(), MaxPool(2), Flatten(), Dropout(0.3),
            Dense(10)),
    augment=(Shift(),), optimizer=SGD(0.9), learning_rate=0.05, batch_size=200, epochs=3,
    validation=200, patience=2,
)  # fmt: skip
EXACT = dataclasses.replace(RECIPE, determinism="exact")
# Side by side, convolutions of a run are groups of one: other sums, off by float32's rounding in
# a step and by about ten times that after an epoch of seven steps.
CLOSE = {"rtol": 2e-3, "atol": 2e-3}


class Outcomes(StudyDirectory):
    """A folder that nothing is written to: outcomes are what they are."""

    def __init__(self, scores_only=False):
        super().__init__(Path("nowhere"), writes=False)
        self.scores_only = scores_only


def train(groups, dataset, listener, runs=None, scores_only=False):
    """Train groups, each with its width, and tell the listener."""
    pool = JobPool(dataset)
    pool.prepare(groups[0][0], runs)
    ledger = Ledger(Outcomes(scores_only), "test", listener, planned=100)
    run_groups(groups, pool, ledger, Interrupt())


def outcomes(runs, dataset, width=1):
    found = {}
    listener = Listener(run=lambda outcome, *_: found.__setitem__(outcome.run.key, outcome))
    for group in grouped(runs, dataset):
        train([(group, width)], dataset, listener)
    return [found[run.key] for run in runs]


def digests(found):
    return {o.run.seed: o.row["params_digest"] for o in found}


def steady(history):
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "images_per_second")}
        for line in history
    ]


@pytest.fixture(scope="module")
def eight(digits):
    return outcomes(plan_runs(EXACT, range(8)), digits)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [[3], [5, 3], [7, 0, 3, 2]], ids=str)
def test_exact_bits_whatever_runs_beside_it(seeds, eight, digits):
    """N = 1, 2, 4 against 8, at other places, on other devices."""
    found = outcomes(plan_runs(EXACT, seeds), digits)
    all_of_them = digests(eight)
    assert len(set(all_of_them.values())) == 8
    assert digests(found) == {seed: all_of_them[seed] for seed in seeds}


def test_exact_bits_are_those_of_train(eight, digits, tmp_path):
    solo = fit(dataclasses.replace(EXACT, seed=3), digits, tmp_path / "run")
    outcome = eight[3]
    assert solo.summary["params_digest"] == outcome.row["params_digest"]
    own = ("seconds", "compile_seconds", "images_per_second", "experiment")
    for key, value in solo.summary.items():
        if key not in own:
            assert outcome.row[key] == value, key


@pytest.mark.slow
def test_settings_of_one_program_do_not_mix(digits):
    """Rates, momentum, decay, smoothing and dropout are numbers of one program."""
    base = dataclasses.replace(EXACT, label_smoothing=0.1, optimizer=SGD(0.9, weight_decay=0.1))
    grid = {
        "learning_rate": [0.05, 0.01], "optimizer.momentum": [0.0, 0.9],
        "layers.4.rate": [0.3, 0.6], "label_smoothing": [0.1, 0.2],
        "optimizer.weight_decay": [0.1, 0.2],
    }  # fmt: skip
    runs = plan_runs(base, [0], grid)
    assert len(runs) == 32
    assert len(grouped(runs, digits)) == 1
    some = [runs[0], runs[1], runs[2], runs[4], runs[8], runs[16]]
    together = outcomes(some, digits)
    assert len({o.row["params_digest"] for o in together}) == len(some)
    for run, outcome in zip(some[1::2], together[1::2], strict=True):
        assert outcomes([run], digits)[0].row["params_digest"] == outcome.row["params_digest"]


def test_what_is_compiled_in_makes_groups(digits):
    grid = {"optimizer": ["sgd", "adam"], "batch_size": [100, 200], "epochs": [2, 3]}
    assert [len(g.runs) for g in grouped(plan_runs(RECIPE, [0, 1], grid), digits)] == [4] * 4
    cosine = dataclasses.replace(RECIPE, schedule=Cosine())
    assert len(grouped(plan_runs(cosine, [0], {"epochs": [2, 3]}), digits)) == 2


@pytest.mark.slow
def test_runs_on_other_rows_share_a_program(digits):
    """And have the bits that they have alone."""
    runs = plan_runs(EXACT, [0, 1], {"split_seed": [0, 1, 2]})
    (group,) = grouped(runs, digits)
    assert [len(part) for part in group.by_rows()] == [2, 2, 2]
    together = outcomes(runs, digits)
    assert len({o.row["params_digest"] for o in together}) == len(runs)
    for run, outcome in list(zip(runs, together, strict=True))[::3]:
        alone = outcomes([run], digits)[0]
        assert alone.row["params_digest"] == outcome.row["params_digest"]
        assert alone.row["split_digest"] == outcome.row["split_digest"]
    stacked = outcomes(plan_runs(RECIPE, [0, 1], {"split_seed": [0, 1, 2]}), digits, width=2)
    for one, other in zip(together, stacked, strict=True):
        assert one.row["split_digest"] == other.row["split_digest"]
        np.testing.assert_allclose(one.row["val_loss"], other.row["val_loss"], **CLOSE)


@pytest.mark.slow
def test_groups_share_the_devices(digits):
    """Each has devices to itself while there are enough; all have the bits they have alone."""
    runs = plan_runs(EXACT, range(3), {"batch_size": [100, 200]})
    groups = grouped(runs, digits)
    assert len(groups) == 2
    found, at_work = {}, {}

    def done(outcome, ended, planned):
        found[outcome.run.key] = outcome.row["params_digest"]

    def watch(run, metrics):
        if metrics["epoch"] == 1:
            at_work.setdefault(run.config.batch_size, set()).add(threading.get_ident())

    listener = Listener(run=done, epoch=watch)
    train([(group, 1) for group in groups], digits, listener, runs=2)
    alone = outcomes(runs, digits)
    assert found == {o.run.key: o.row["params_digest"] for o in alone}
    first, second = at_work.values()
    assert first != second  # one may have helped the other at the end


@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    turns=st.lists(st.integers(0, 3), max_size=60),
)
def test_every_run_is_started_once(sizes, turns):
    """Threads that take and end runs in any order: none is lost, none is started twice."""
    many = plan_runs(RECIPE, range(sum(sizes)))
    ends = np.cumsum(sizes).tolist()
    groups = [
        Group(f"plan {end}", tuple(many[end - size : end]))
        for end, size in zip(ends, sizes, strict=True)
    ]
    scheduler = Scheduler([GroupQueue(group, 1) for group in groups])
    taken, holds = [], {}
    for thread in [*turns, *[0] * (2 * len(many) + len(groups) + 1)]:
        group = holds.get(thread) or scheduler.take()
        if group is None:
            continue
        others = [one.threads for one in scheduler.groups if one.left and one is not group]
        if thread not in holds:
            assert group.threads - 1 <= min(others, default=group.threads)
            holds[thread] = group
        run = group.queues[0].take()
        if run is None:
            scheduler.release(holds.pop(thread))
        else:
            taken.append(run.seed)
    assert sorted(taken) == list(range(len(many)))
    assert scheduler.take() is None


def test_data_too_large_for_the_device_is_refused(digits, monkeypatch):
    """Streamed jobs are of one plan and one set of rows; those of a study serve many."""
    (group,) = grouped(plan_runs(RECIPE, [0]), digits)
    monkeypatch.setattr(studies_runs, "pixel_memory", lambda: digits.nbytes - 1)
    with pytest.raises(ConfigError, match="a study holds its data on the device"):
        JobPool(digits).prepare(group)


def test_scores_alone_take_no_other_pass(digits, monkeypatch):
    """No training accuracy and no dead units; what scores a run is what it is with them."""
    (run,) = plan_runs(EXACT, [0])
    (whole,) = outcomes([run], digits)
    ran, found = [], []

    def noted(name):
        honest = getattr(ResidentJob, name)

        def pass_(self, state, *more):
            ran.append((name, *(word for word in more if isinstance(word, str))))
            return honest(self, state, *more)

        monkeypatch.setattr(ResidentJob, name, pass_)

    for name in ("train_parts", "evaluate", "predict", "alive_units"):
        noted(name)
    (group,) = grouped([run], digits)
    listener = Listener(run=lambda outcome, *_: found.append(outcome))
    train([(group, 1)], digits, listener, scores_only=True)
    epoch = [("train_parts",), ("evaluate", "validation")]
    last = [("evaluate", "test"), ("evaluate", "validation")]
    assert ran == epoch * len(whole.history) + last
    left_out = {"train_loss", "train_accuracy", "dead_units", "dead_units_init", "dead_layers",
                "relu_units"}  # fmt: skip
    assert whole.row.keys() - found[0].row.keys() == left_out
    times = ("seconds", "compile_seconds", "images_per_second")
    for key, value in found[0].row.items():
        assert key in times or whole.row[key] == value, key


def test_exact_and_fast_runs_are_not_stacked_together(digits):
    runs = plan_runs(RECIPE, [0, 1], {"determinism": ["fast", "exact"]})
    assert [len(group.runs) for group in grouped(runs, digits)] == [2, 2]


@pytest.mark.slow
def test_a_last_metric_that_is_not_finite_is_a_diverged_run(digits, monkeypatch):
    """All epochs were finite, but the kept weights overflow on the test rows."""
    honest = slot.conclude
    monkeypatch.setattr(
        slot, "conclude", lambda *args: {**honest(*args), "test_loss": float("nan")}
    )
    (outcome,) = outcomes(plan_runs(RECIPE, [0]), digits)
    assert outcome.row["status"] == "diverged"
    assert "test_loss is nan" in outcome.row["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [2, 3])
def test_side_by_side_is_close_to_alone(width, digits):
    """Five runs in stacks: some end early and give their places away."""
    base = dataclasses.replace(RECIPE, epochs=2)
    runs = plan_runs(base, range(5), {"epochs": [1, 2]})
    alone = outcomes(runs, digits)
    stacked = outcomes(runs, digits, width)
    for one, other in zip(alone, stacked, strict=True):
        assert [len(o.history) for o in (one, other)] == [one.run.config.epochs] * 2
        for line, like in zip(steady(one.history), steady(other.history), strict=True):
            assert line["epoch"] == like["epoch"]
            np.testing.assert_allclose(like["train_loss"], line["train_loss"], **CLOSE)
            np.testing.assert_allclose(like["val_loss"], line["val_loss"], **CLOSE)
        np.testing.assert_allclose(other.row["test_loss"], one.row["test_loss"], **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 3])
def test_a_run_that_diverges_leaves_the_others_alone(width, digits):
    """A rate of 1e30 gives NaN in the first epoch; the others keep their bits."""
    runs = plan_runs(RECIPE, [0, 1], {"learning_rate": [1e30, 0.05]})
    found = outcomes(runs, digits, width)
    assert [o.row["status"] for o in found] == ["diverged"] * 2 + ["complete"] * 2
    assert "lower learning_rate (now 1e+30)" in found[0].row["reason"]
    assert len(found[0].history) == 1
    if width == 1:
        assert digests(found[2:]) == digests(outcomes(runs[2:], digits))
    else:
        assert all(np.isfinite(line["val_loss"]) for o in found[2:] for line in o.history)


@pytest.mark.slow
def test_one_source_varies(digits):
    """Order alone: the same initial weights, so the same first validation only if order agrees."""
    base = dataclasses.replace(EXACT, epochs=1, augment=())
    runs = plan_runs(base, [1, 2], vary=["init", "order", "dropout", "all"])
    found = outcomes(runs, digits)
    assert len({o.row["params_digest"] for o in found}) == len(found)
    again = outcomes(plan_runs(base, [1], vary=["order"]), digits)[0]
    assert again.row["params_digest"] == found[2].row["params_digest"]


def test_an_error_stops_all_threads_and_is_raised(digits):
    group = grouped(plan_runs(RECIPE, range(6)), digits)[0]

    def full(outcome, ended, planned):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        train([(group, 1)], digits, Listener(run=full))


def test_tests_have_several_devices():
    assert jax.local_device_count() == 4
