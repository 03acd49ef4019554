"""Recipes drawn by Optuna: scored as a grid's candidates are, and nothing lost or done twice."""

import contextlib
import dataclasses
import json
import math
import re
import signal

import jax
import optuna
import pytest
from optuna.trial import TrialState
from small_runs import TINY

from flaxcnn.engine.resident import ResidentJob
from flaxcnn.errors import ConfigError, InterruptedRun
from flaxcnn.recipe.layers import Dense, Flatten
from flaxcnn.recipe.splits import Ranges
from flaxcnn.studies import runs as studies_runs
from flaxcnn.studies import trials
from flaxcnn.studies.candidates import Candidates
from flaxcnn.studies.events import Listener
from flaxcnn.studies.plan import Scoring
from flaxcnn.studies.sampled import sampled_search
from flaxcnn.studies.samplers import JOURNAL, NAME, Sampling, open_study
from flaxcnn.studies.search import campaign_of, search_candidates
from flaxcnn.studies.space import parse_space

SMALL = dataclasses.replace(
    TINY, layers=(Flatten(), Dense(10)), epochs=2, determinism="exact", evaluate_train=False
)
FOLDS = Scoring(folds=2)
RATES = parse_space({"learning_rate": {"low": 1e-4, "high": 1.0, "log": True}})
DRAWN = Sampling(RATES, "tpe", trials=4, pruner="none")


def journal(path):
    """Optuna's study as another program reads it."""
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(path / JOURNAL))
    )
    return optuna.load_study(study_name=NAME, storage=storage)


def timeless(result):
    """The table without times."""
    return [
        {k: v for k, v in row.items() if k != "seconds"} for row in result.summary["candidates"]
    ]


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """A search that nobody touched."""
    place = tmp_path_factory.mktemp("whole") / "search"
    return sampled_search(SMALL, DRAWN, FOLDS, dataset=digits, search_dir=place, name="tiny")


def test_what_is_drawn_is_ranked_beside_the_recipe(whole):
    rows = {row["label"]: row for row in whole.summary["candidates"]}
    assert len(rows) == 5
    assert rows["unchanged"]["label"] == whole.summary["incumbent"]
    rates = [row["setting.learning_rate"] for label, row in rows.items() if label != "unchanged"]
    assert all(1e-4 <= rate <= 1 for rate in rates)
    assert all(row["folds"] == 2 for row in rows.values())
    assert whole.summary["refit"]["test_rows"] == 360
    assert json.loads((whole.path / "search.json").read_text())["sampler"] == "tpe"
    assert "drawn by tpe" in (whole.path / "README.md").read_text()
    assert whole.summary["importance"] == {"learning_rate": 1.0}  # Optuna's, of the only setting


def test_a_trial_has_the_scores_of_a_grids_candidate(whole, digits, tmp_path):
    best = next(r for r in whole.summary["candidates"] if r["label"] != "unchanged")
    rate = best["setting.learning_rate"]
    config = dataclasses.replace(SMALL, learning_rate=rate)
    candidates = Candidates.of([({"learning_rate": rate}, config)], digits)
    campaign = campaign_of(FOLDS, digits, tmp_path / "grid")
    own = search_candidates(candidates, FOLDS, campaign, refit=False)
    assert own.summary["candidates"][0]["scores"] == best["scores"]


def test_others_read_the_journal(whole):
    study = journal(whole.path)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 4
    means = {row["label"]: row["mean"] for row in whole.summary["candidates"]}
    assert study.best_value == max(mean for label, mean in means.items() if label != "unchanged")
    steps = [sorted(trial.intermediate_values) for trial in study.trials]
    assert steps == [[1, 2, 3, 4]] * 4  # 2 epochs of 2 runs


@pytest.mark.parametrize(
    "stop_after",
    [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(5, marks=pytest.mark.slow)],
)
def test_stopped_and_resumed_it_ends_the_same(whole, digits, tmp_path, stop_after):
    """In the recipe's own runs, between the runs of a trial, at a trial's end."""
    told = []

    def stop(outcome, ended, planned):
        told.append(outcome.run.key)
        if len(told) == stop_after:
            signal.raise_signal(signal.SIGTERM)

    arguments = {"dataset": digits, "search_dir": tmp_path / "s", "name": "tiny"}
    with contextlib.suppress(InterruptedRun):  # a fast machine is done before it hears
        sampled_search(SMALL, DRAWN, FOLDS, **arguments, tell=Listener(run=stop))
    note = Listener(run=lambda outcome, *_: told.append(outcome.run.key))
    again = sampled_search(SMALL, DRAWN, FOLDS, **arguments, resume=True, tell=note)
    assert len(told) == len(set(told)) == 10
    assert timeless(again) == timeless(whole)


@pytest.mark.slow
def test_a_trial_lost_while_it_was_drawn_is_drawn_again(whole, digits, tmp_path):
    def stop(outcome, ended, planned):
        raise RuntimeError("power cut")

    arguments = {"dataset": digits, "search_dir": tmp_path / "s", "name": "tiny"}
    with pytest.raises(RuntimeError, match="power cut"):
        sampled_search(SMALL, DRAWN, FOLDS, **arguments, tell=Listener(run=stop))
    open_study(tmp_path / "s", DRAWN, 2, 2).ask()  # in the journal, without values
    again = sampled_search(SMALL, DRAWN, FOLDS, **arguments, resume=True)
    assert timeless(again) == timeless(whole)


def test_more_trials_go_on_from_there(digits, tmp_path):
    arguments = {"dataset": digits, "search_dir": tmp_path / "s", "refit": False}
    few = dataclasses.replace(DRAWN, trials=2)
    sampled_search(SMALL, few, FOLDS, **arguments)
    more = sampled_search(SMALL, dataclasses.replace(DRAWN, trials=3), FOLDS, **arguments,
                          resume=True)  # fmt: skip
    assert len(more.summary["candidates"]) == 4
    with pytest.raises(ConfigError, match=r"--trials must be at least .*, which search directory"):
        sampled_search(SMALL, few, FOLDS, **arguments, resume=True)
    with pytest.raises(ConfigError, match=r"another search \(sampler differ\)"):
        sampled_search(SMALL, dataclasses.replace(DRAWN, sampler="random", trials=3), FOLDS,
                       **arguments, resume=True)  # fmt: skip


@pytest.mark.slow
def test_trials_of_one_program_compile_it_once(digits, tmp_path, monkeypatch):
    """Learning rates are numbers of a program; runs in turn are spread over all devices."""
    made = []
    honest = studies_runs.make_resident_job
    monkeypatch.setattr(
        studies_runs, "make_resident_job", lambda *args: made.append(args) or honest(*args)
    )
    # As many rows in each fold: that number is compiled in.
    config = dataclasses.replace(SMALL, determinism="fast", split=Ranges(700, 100, 300))
    sampled_search(config, Sampling(RATES, "tpe", 2, "median"), FOLDS, dataset=digits,
                   search_dir=tmp_path / "s", refit=False)  # fmt: skip
    assert len(made) == 1


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_what_does_badly_is_given_up(digits, tmp_path, pruner):
    """Learning rates of which half learn nothing in these epochs."""
    space = parse_space({"learning_rate": [1e-6, 1e-5, 2e-6, 5e-6, 0.05, 0.1, 0.06, 0.2]})
    config = dataclasses.replace(SMALL, epochs=3)
    result = sampled_search(config, Sampling(space, "random", 16, pruner), FOLDS, dataset=digits,
                            search_dir=tmp_path / "s", refit=False)  # fmt: skip
    reasons = [one["reason"] for one in result.summary["dropped"]]
    assert any("given up in epoch" in reason for reason in reasons)
    assert any("is the same recipe as" in reason for reason in reasons)  # 16 draws of 8
    trials = journal(result.path).trials
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:  # one that is that of a trial given up has no score either
        reason = trial.user_attrs.get("reason", "")
        if found := re.search(r"same recipe as trial (\d+)", reason):
            assert trial.state == trials[int(found[1])].state
    assert float(result.summary["winner"].partition("=")[2] or 1) > 0.01


def test_no_trial_is_given_up_in_its_first_epochs(tmp_path):
    """A quarter of the first run: a small rate has learnt little by then."""
    study = open_study(tmp_path, dataclasses.replace(DRAWN, pruner="median"), 20, 5)
    for _ in range(6):  # Optuna gives none of the first five up
        good = study.ask()
        for step in range(1, 101):
            good.report(0.9, step)
        study.tell(good, 0.9)
    bad, given_up = study.ask(), []
    for step in range(1, 9):
        bad.report(0.1, step)
        given_up.append(bad.should_prune())
    assert given_up == [step >= 5 for step in range(1, 9)]


@pytest.mark.slow
def test_what_cannot_be_built_is_told(digits, tmp_path):
    space = parse_space({"optimizer": ["adam", "sgd"], "optimizer.momentum": [0.5, 0.6]})
    result = sampled_search(SMALL, Sampling(space, "random", 6, "none"), FOLDS, dataset=digits,
                            search_dir=tmp_path / "s", refit=False)  # fmt: skip
    drawn = {one["label"]: one["reason"] for one in result.summary["dropped"]}
    assert any("adam" in label and "momentum" in reason for label, reason in drawn.items())
    assert any("sgd" in row["label"] for row in result.summary["candidates"])


def test_what_is_too_large_is_told(digits, tmp_path):
    own = [{"type": "flatten"}, {"type": "dense", "units": 10}]
    wide = [own[0], {"type": "dense", "units": 99}, own[1]]
    space = parse_space({"layers": [own, wide]})
    result = sampled_search(SMALL, Sampling(space, "random", 6, "none"), FOLDS, dataset=digits,
                            max_params=1000, search_dir=tmp_path / "s", refit=False)  # fmt: skip
    reasons = [one["reason"] for one in result.summary["dropped"]]
    assert "is the same recipe as the recipe unchanged" in reasons
    assert any("parameters are more than max_params=1,000" in reason for reason in reasons)
    assert [row["label"] for row in result.summary["candidates"]] == ["unchanged"]
    drawn = [str(trial.params) for trial in journal(result.path).trials]
    assert len(set(drawn)) == 2  # all there are: it ends with the one that was missing
    assert len(set(drawn[:-1])) == 1


@pytest.mark.parametrize(
    ("space", "count"),
    [
        ({"learning_rate": [0.1, 0.2], "batch_size": {"low": 16, "high": 64, "step": 16}}, 8),
        ({"batch_size": {"low": 16, "high": 17, "log": True}}, 2),
        ({"learning_rate": {"low": 0.1, "high": 0.2}, "batch_size": [8, 16]}, math.inf),
    ],
)
def test_a_space_knows_how_many_trials_it_has(space, count):
    assert Sampling(parse_space(space)).combinations() == count


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["none", "median"])
def test_what_takes_too_much_memory_is_told(digits, tmp_path, monkeypatch, pruner):
    """And the search goes on: it must not stop at the same trial each time it is resumed."""
    honest, tried = ResidentJob._program, []

    def compile_(self, function, state, **more):
        if self.config.batch_size == 64:
            tried.append(self.config.split.index)
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
        return honest(self, function, state, **more)

    monkeypatch.setattr(ResidentJob, "_program", compile_)
    space = parse_space({"batch_size": [64, 300]})
    result = sampled_search(SMALL, Sampling(space, "random", 4, pruner), FOLDS, dataset=digits,
                            search_dir=tmp_path / "s", refit=False)  # fmt: skip
    assert {one["label"] for one in result.summary["dropped"]} >= {"batch_size=64"}
    assert pruner == "none" or tried == [0], "the first run is enough to know"
    reasons = [one["reason"] for one in result.summary["dropped"]]
    assert any("out of memory (RESOURCE_EXHAUSTED" in text for text in reasons)
    assert {row["label"] for row in result.summary["candidates"]} == {"unchanged", "batch_size=300"}


def test_a_recipe_whose_process_is_gone_is_scored_by_another(digits, tmp_path, monkeypatch):
    """The first is killed within the recipe's own runs, while the second does the trials."""
    tries = []
    honest = trials.Trials.score_incumbent

    def lost(self, interrupt):
        tries.append(1)
        if len(tries) > 1:  # at first another process is at work on it
            honest(self, interrupt)

    monkeypatch.setattr(trials.Trials, "score_incumbent", lost)
    result = sampled_search(SMALL, dataclasses.replace(DRAWN, trials=1), FOLDS, dataset=digits,
                            search_dir=tmp_path / "s", refit=False)  # fmt: skip
    assert {row["folds"] for row in result.summary["candidates"]} == {2}


def test_a_trial_that_ends_meanwhile_is_not_taken_up(digits, tmp_path, monkeypatch):
    """Another process ends it between the look at the journal and the lock on its folder."""
    honest = trials.Trials._take_trial
    ended = []

    def late(self, trial):
        own = honest(self, trial)
        if not ended:
            ended.append(trial.number)
            journal(self.folder.path).tell(trial.number, 0.5)
        return own

    place = tmp_path / "s"
    arguments = {"dataset": digits, "search_dir": place, "refit": False}
    with pytest.raises(RuntimeError, match="power cut"):
        sampled_search(SMALL, DRAWN, FOLDS, **arguments, tell=Listener(run=cut_after(3)))
    monkeypatch.setattr(trials.Trials, "_take_trial", late)
    sampled_search(SMALL, DRAWN, FOLDS, **arguments, resume=True)
    assert ended == [0]
    assert [one.state for one in journal(place).trials] == [TrialState.COMPLETE] * 4


def cut_after(runs):
    """A teller that ends the process when so many runs have ended."""
    told = []

    def tell(outcome, ended, planned):
        told.append(outcome)
        if len(told) == runs:
            raise RuntimeError("power cut")

    return tell


def test_a_rate_that_diverges_cannot_win(digits, tmp_path):
    space = parse_space({"learning_rate": [3e38, 2e38]})
    result = sampled_search(SMALL, Sampling(space, "random", 1, "none"), FOLDS, dataset=digits,
                            search_dir=tmp_path / "s", refit=False)  # fmt: skip
    assert result.summary["winner"] == "unchanged"
    assert result.summary["candidates"][-1]["diverged"] == 2
    assert journal(result.path).trials[0].state == TrialState.PRUNED


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampler": "tpee"}, "--sampler must be .*\\(got 'tpee'\\); did you mean 'tpe'"),
        ({"pruner": "meidan"}, "--pruner must be .*\\(got 'meidan'\\); did you mean 'median'"),
        ({"trials": 0}, "--trials must be at least 1"),
        ({"space": {}}, "space is empty; give at least one setting"),
    ],
)
def test_samplings_that_are_none(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(DRAWN, **changes).check(SMALL)


def test_runs_side_by_side_cannot_be_given_up(digits, tmp_path):
    pruned = dataclasses.replace(DRAWN, pruner="median")
    with pytest.raises(ConfigError, match="how vmap does not work with --pruner median"):
        sampled_search(SMALL, pruned, Scoring(folds=2, how="vmap"), dataset=digits,
                       search_dir=tmp_path / "s")  # fmt: skip


def test_without_optuna_it_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'flaxcnn\[search\]'"):
        DRAWN.check(SMALL)
