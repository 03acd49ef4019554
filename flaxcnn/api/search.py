"""`flaxcnn.search`: which settings of a recipe are best."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from flaxcnn.api.arguments import Asked, asked, bytes_of, seed_list, speaking
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.given import Arrays
from flaxcnn.errors import ConfigError
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.records.folder import new_plan
from flaxcnn.records.format import UNCHANGED
from flaxcnn.records.read import SearchRecord
from flaxcnn.records.views import fold_line
from flaxcnn.studies.candidates import Candidates, Proposals, of_catalog, of_grid
from flaxcnn.studies.events import Listener
from flaxcnn.studies.plan import Grid, How, Scoring
from flaxcnn.studies.sampled import sampled_search
from flaxcnn.studies.samplers import Pruner, Sampler, Sampling
from flaxcnn.studies.search import campaign_of, search_candidates
from flaxcnn.studies.space import parse_space


def search(
    recipe: Config | str = catalog.DEFAULT_EXPERIMENT, grid: Grid | None = None, *,
    space: Mapping[str, Any] | None = None, trials: int = 50, sampler: Sampler = "tpe",
    pruner: Pruner = "median", folds: int = 5, repeats: int = 1, seeds: int | Iterable[int] = 1,
    max_params: int | None = None, refit: bool = True, model: Any = None,
    dataset: Dataset | str | None = None, data: Arrays | None = None,
    search_dir: Path | str | None = None, resume: bool = False, name: str = "", how: How = "auto",
    max_memory: int | str | None = None, verbose: bool = True, tell: Listener | None = None,
    **settings: Any,
) -> SearchRecord | None:  # fmt: skip
    """Score settings on folds, beside the recipe as it is, and test the winner once.

    >>> rates = {"learning_rate": [0.01]}
    >>> best = search(grid=rates, folds=2, epochs=1, search_dir="runs/rates", verbose=False)
    >>> len(best.summary["candidates"])
    2

    Args:
        recipe, model, dataset, data, settings: as of `flaxcnn.train`; or an experiment with
            candidates, such as "fashion-slim/grid".
        grid: dotted settings to lists of values; all combinations are tried.
        space: settings to what is drawn, in place of a grid: a list of choices, or a range such
            as `{"low": 1e-4, "high": 1e-1, "log": True}`.
        trials, sampler, pruner: of a space: how many are drawn; "tpe" or "random"; and which are
            stopped early: "median", "hyperband" or "none".
        folds, repeats, seeds: parts of the training rows, how often they are chosen anew, and
            seeds of each training, so many or these.
        max_params: candidates with more parameters are dropped.
        refit: train the winner on the whole training split, and test it, once.
        search_dir: a new folder, or that to `resume`; by default `runs/NAME/search-TIME`.
        how, max_memory, name, resume, verbose, tell: as of `flaxcnn.study`.

    Returns:
        SearchRecord: `summary` (search.json), `rows`, `path`, `to_dict()`, `to_csv()`. None while
            other processes draw from the same space; the last of them concludes.

    Raises:
        ConfigError, DataError, WriteError: the plan is wrong, or does not fit the data or folder.
        OutOfMemoryError, InterruptedRun: as `flaxcnn.study`.
    """
    over = functools.partial(
        asked, name=name, model=model, dataset=dataset, data=data, settings=settings
    )
    ask, proposals, incumbent = _proposals(recipe, over, grid, space)
    seed_numbers = tuple(seed_list(seeds, ask.config.seed))
    document, memory = ask.config.protocol == "document", bytes_of(max_memory)
    scoring = Scoring(folds, repeats, seed_numbers, document, how, memory)
    place = search_dir or new_plan("search", ask.name or "unnamed")
    listener = speaking(tell, verbose, fold_line)
    if space is None:
        rows = ask.data()
        tried = Candidates.of(proposals, rows, max_params, incumbent)
        campaign = campaign_of(scoring, rows, place, ask.name, resume, listener)
        return search_candidates(tried, scoring, campaign, refit)
    drawn = Sampling(parse_space(space), sampler, trials, pruner)
    drawn.check(ask.config, how)
    return sampled_search(
        ask.config, drawn, scoring, max_params=max_params, refit=refit, search_dir=place,
        resume=resume, name=ask.name, dataset=ask.data(), tell=listener,
    )  # fmt: skip


def _proposals(
    recipe: Config | str, over: Callable[[Any], Asked], grid: Grid | None,
    space: Mapping[str, Any] | None,
) -> tuple[Asked, Proposals, str | None]:  # fmt: skip
    """What is asked for, the recipes that are tried, and the label of the one they must beat."""
    experiment = None if isinstance(recipe, Config) else catalog.find(recipe)
    if experiment is not None and experiment.candidates:
        if space is not None:
            raise ConfigError(
                f"space: all candidates of the grid {experiment.name} are tried; draw around an "
                "experiment with one recipe"
            )
        proposals, incumbent = of_catalog(experiment, lambda each: over(each).config, grid)
        ask = over(proposals[0][1])
        return dataclasses.replace(ask, name=ask.name or experiment.name), proposals, incumbent
    ask = over(recipe)
    if (not grid) == (not space):
        raise ConfigError(
            "search needs either grid, such as {'learning_rate': [0.1, 0.01]}, or space, such as "
            "{'learning_rate': {'low': 1e-4, 'high': 0.1}}"
        )
    return ask, of_grid(ask.config, grid) if grid else [({}, ask.config)], UNCHANGED
