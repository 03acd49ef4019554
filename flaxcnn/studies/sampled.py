"""Recipes drawn from a space by Optuna, ranked beside the one they must beat.

A trial is one recipe on all folds: the same trainings as a grid's candidate has.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

from flaxcnn.backend import prepare
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.datasets import load_for
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.networks import own_sources
from flaxcnn.records.environment import check_jax_settings, environment
from flaxcnn.records.format import UNCHANGED
from flaxcnn.records.read import SearchRecord, read_search
from flaxcnn.records.search import SampledDirectory
from flaxcnn.studies.campaign import status_of
from flaxcnn.studies.candidates import Candidates
from flaxcnn.studies.events import Listener
from flaxcnn.studies.plan import Scoring
from flaxcnn.studies.ranking import rank
from flaxcnn.studies.samplers import Sampling, importances
from flaxcnn.studies.search import campaign_of, conclude, scores
from flaxcnn.studies.trials import GIVEN_UP, Trials


def sampled_search(
    config: Config,
    sampling: Sampling,
    scoring: Scoring | None = None,
    *,
    max_params: int | None = None,
    refit: bool = True,
    search_dir: Path | str | None = None,
    resume: bool = False,
    name: str = "",
    dataset: Dataset | None = None,
    tell: Listener | None = None,
) -> SearchRecord | None:
    """Draw recipes, score each on folds, rank them beside `config`, and test the winner once.

    Args:
        config: the recipe, which the others must beat.
        sampling: what is drawn, and how.
        scoring: how each is scored, by default on 5 folds; its first seed seeds the sampler too.
        max_params: a recipe with more parameters is drawn but not trained.
        refit: train the winner on the whole training split, and test it, once.
        search_dir: a new folder, or with `resume` one that was begun, also if it is at work now.
        resume: take up trials that were cut short, and go on until there are enough.
        name: of the experiment, for the records.
        dataset: what `flaxcnn.data.datasets.load_for(config)` gives, if it is loaded already.
        tell: a `flaxcnn.studies.events.Listener`, called while the runs train and after trials.

    Returns:
        SearchRecord: as of `search`; None while other processes are at work: the last concludes.

    Raises:
        ConfigError, DataError, WriteError: the plan is wrong, or does not fit the data or folder.
        InterruptedRun: a signal (`flaxcnn.signals`); what has ended is kept.
    """
    prepare()
    began, scoring = time.perf_counter(), scoring or Scoring(seeds=(config.seed,))
    sampling.check(config, scoring.how)
    data = load_for(config) if dataset is None else dataset
    (incumbent,) = Candidates.of([({}, config)], data).tried
    about = {"max_params": max_params, "incumbent": UNCHANGED, "candidates": [incumbent.to_dict()]}
    plan = {"experiment": name, **scoring.to_dict(), **sampling.to_dict(), **about}
    campaign = campaign_of(scoring, data, search_dir, name=name, resume=resume, listener=tell)
    folder = SampledDirectory(campaign.path)
    _begin(folder, plan, resume)
    folder.keep_sources(own_sources(config))
    trials = Trials(incumbent, sampling, scoring, max_params, campaign, folder)
    with status_of(folder, trials.ended), Interrupt(config.grace) as interrupt:
        trials.score_incumbent(interrupt)
        while (trial := trials.next()) is not None:
            trials.carry_out(*trial, interrupt)
        trials.score_incumbent(interrupt)  # if the process that had begun it is gone
        with folder.exclusive():
            if not _conclude(trials, plan, refit):
                return None
            folder.set_status("complete", seconds=time.perf_counter() - began)
            return read_search(folder.path)


def _conclude(trials: Trials, plan: dict[str, Any], refit: bool) -> bool:
    """Write the tables and test the winner; False while a process is still at work."""
    outcome = trials.outcome()
    if outcome is None:
        return False
    tried, dropped, rows = outcome
    planned = trials.planned(trials.incumbent)
    summary = {
        **plan, "dropped": [vars(each) for each in dropped],
        "protocol": planned[0].config.protocol,
        "planned": len(tried) * len(planned), "trained": len(rows),
        **rank(
            scores(tried, rows), UNCHANGED, trials.scoring.fold_ratio,
            given_up=sum(each.reason.startswith(GIVEN_UP) for each in dropped),
        ),
        "importance": importances(trials.study, trials.scoring.seeds[0]),
    }  # fmt: skip
    conclude(trials.campaign, trials.folder, tried, summary, refit)
    return True


def _begin(folder: SampledDirectory, plan: dict[str, Any], resume: bool) -> None:
    """Make the folder, or join the processes that are at work in it."""
    joins = resume and (folder.path / folder.proof).is_file()
    with folder.exclusive() if joins else contextlib.nullcontext(), folder.take(plan, resume):
        if joins and (folder.path / "env.json").is_file():
            check_jax_settings(str(folder.path), folder.read_json("env.json"))
        (folder.path / "search.json").unlink(missing_ok=True)  # of fewer trials
        folder.write_json("space.json", plan["space"])  # for the command that does it again
        folder.write_json("env.json", environment())
        folder.set_status("running")
