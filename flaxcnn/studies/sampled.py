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
from flaxcnn.records.environment import environment
from flaxcnn.records.folder import runs_folder, stamp
from flaxcnn.records.search import SampledDirectory
from flaxcnn.studies import ranking
from flaxcnn.studies.candidates import AS_IT_IS, contenders
from flaxcnn.studies.plan import Scoring
from flaxcnn.studies.samplers import Sampling, open_study
from flaxcnn.studies.search import SearchResult, conclude, plan_search, scores
from flaxcnn.studies.study import Tell
from flaxcnn.studies.trials import GIVEN_UP, Say, Work


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
    tell: Tell | None = None,
    say: Say = lambda text: None,
) -> SearchResult | None:
    """Draw recipes, score each on folds, rank them beside `config`, and test the winner once.

    Args:
        config: the recipe, which the others must beat.
        sampling: what is drawn, and how.
        scoring: how each is scored; 5 folds and the recipe's seed by default. The first seed also
            seeds the sampler.
        max_params: a recipe with more parameters is drawn but not trained.
        refit: train the winner on the whole training split, and test it, once.
        search_dir: a new folder, or with `resume` that of an earlier start, or of a process that is
            at work on it now: then both are.
        resume: take up trials that were cut short, and go on until there are enough.
        name: of the experiment, for the records.
        dataset: what `flaxcnn.data.datasets.load_for(config)` gives, if it is there already.
        tell: what to say of runs meanwhile.
        say: told of each trial that has ended.

    Returns:
        The result, or None where other processes are still at work: the last one concludes.

    Raises:
        ConfigError, DataError, WriteError: the plan, or it does not fit the data or the folder.
        InterruptedRun: SIGTERM or SIGINT; what has ended is kept.
    """
    prepare()
    began, scoring = time.perf_counter(), scoring or Scoring(seeds=(config.seed,))
    sampling.check(config, scoring.how)
    data = load_for(config) if dataset is None else dataset
    (hand_made,), _ = contenders([({}, config)], data, None)
    plan = {
        "experiment": name, **scoring.to_dict(), **sampling.to_dict(), "max_params": max_params,
        "incumbent": AS_IT_IS, "candidates": [hand_made.to_dict()],
    }  # fmt: skip
    folder = SampledDirectory(Path(search_dir or runs_folder() / "searches" / stamp()))
    _begin(folder, plan, resume)
    longest = _longest(config, sampling)
    study = open_study(folder.path, sampling, longest, len(plan_search([hand_made], scoring)))
    work = Work(hand_made, sampling, scoring, max_params, data, folder, name, study, longest,
                tell or Tell(), say)  # fmt: skip
    with work.recorded(), Interrupt() as interrupt:
        work.score_incumbent(interrupt)
        while (trial := work.next_trial()) is not None:
            work.carry_out(*trial, interrupt)
        work.score_incumbent(interrupt)  # where the process that had begun it is gone
        with folder.exclusive():
            return _conclude(work, plan, refit, began)


def _conclude(work: Work, plan: dict[str, Any], refit: bool, began: float) -> SearchResult | None:
    """The tables, and the winner's test; None where a process is still at work."""
    found = work.found()
    if found is None:
        return None
    tried, dropped, rows = found
    planned = work.planned(work.hand_made)
    summary = {
        **plan, "dropped": dropped, "protocol": planned[0].config.protocol,
        "planned": len(tried) * len(planned), "trained": len(rows),
        **ranking.rank(
            scores(tried, rows), AS_IT_IS, 1 / (work.scoring.folds - 1),
            given_up=sum(one["reason"].startswith(GIVEN_UP) for one in dropped),
        ),
    }  # fmt: skip
    data = work.data if refit else None
    return conclude(work.folder, summary, rows, tried, data, work.tell, began)


def _begin(folder: SampledDirectory, plan: dict[str, Any], resume: bool) -> None:
    """Make the folder, or join those who are at work in it."""
    there = resume and (folder.path / folder.proof).is_file()
    with folder.exclusive() if there else contextlib.nullcontext(), folder.take(plan, resume):
        (folder.path / "search.json").unlink(missing_ok=True)  # of fewer trials
        folder.write_json("space.json", plan["space"])  # for the command that does it again
        folder.write_json("env.json", environment())
        folder.set_status("running")


def _longest(config: Config, sampling: Sampling) -> int:
    """The most epochs that a drawn recipe can have."""
    ends = sampling.space["epochs"].ends() if "epochs" in sampling.space else ()
    return max([config.epochs, *ends])
