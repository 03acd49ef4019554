"""`flaxcnn.study`: one recipe with many seeds, or many settings of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from flaxcnn.api.arguments import asked, bytes_of, seed_list, speaking
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.given import Arrays
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.records.folder import new_plan
from flaxcnn.records.read import StudyRecord
from flaxcnn.records.views import run_line
from flaxcnn.studies.events import Listener
from flaxcnn.studies.plan import Grid, How, plan_runs
from flaxcnn.studies.study import study as carry_out


def study(
    recipe: Config | str = catalog.DEFAULT_EXPERIMENT,
    seeds: int | Iterable[int] = 8,
    *,
    grid: Grid | None = None, vary: Sequence[str] = (), model: Any = None,
    dataset: Dataset | str | None = None, data: Arrays | None = None,
    study_dir: Path | str | None = None, resume: bool = False, name: str = "", how: How = "auto",
    max_memory: int | str | None = None, predictions: bool = False, verbose: bool = True,
    tell: Listener | None = None, **settings: Any,
) -> StudyRecord:  # fmt: skip
    """Train every seed of every setting, and summarise what the seeds show.

    >>> record = study("digits/quickstart", seeds=2, epochs=1, study_dir="runs/two", verbose=False)
    >>> [row["seed"] for row in record.rows]
    [0, 1]

    Args:
        recipe, model, dataset, data, settings: as of `flaxcnn.train`.
        seeds: how many, from the recipe's seed on, or which, such as `range(32)` or `[3, 5]`.
        grid: dotted settings to lists of values, such as `{"optimizer.momentum": [0.0, 0.9]}`; all
            combinations are run.
        vary: which sources of randomness the seed drives, one at a time: of "init", "order",
            "augment", "dropout", "all". None of them: all together.
        study_dir: a new folder, or that to `resume`; by default `runs/NAME/study-TIME`.
        resume: keep the runs that have ended and train the others.
        name: for the records; by default that of the experiment.
        how: "map" trains one run after the other on each device, "vmap" as many as fit side by
            side, "auto" whichever is faster in a few steps.
        max_memory: for the arrays of runs, in bytes or as "2G"; half of what is free by default.
        predictions: keep the logits and the class predicted for each test row, in a file a run.
        verbose: print a line a run.
        tell: a `flaxcnn.studies.events.Listener`, called while the runs train.

    Returns:
        StudyRecord: `rows`, `summary` (study.json), `path`, `to_dict()`, `to_csv()`.

    Raises:
        ConfigError, DataError, WriteError: the plan is wrong, or does not fit the data or folder.
        OutOfMemoryError: some runs do not fit in memory; the others are kept.
        InterruptedRun: a signal (`flaxcnn.signals`); the runs that had ended are kept.
    """
    ask = asked(recipe, name, model, dataset, data, settings)
    numbers = seed_list(seeds, ask.config.seed)
    plan_runs(ask.config, numbers, grid, vary)  # a wrong plan is an error before data is loaded
    return carry_out(
        ask.config, numbers, grid=grid, vary=vary, how=how, max_memory=bytes_of(max_memory),
        study_dir=study_dir or new_plan("study", ask.name or "unnamed"), resume=resume,
        name=ask.name, dataset=ask.data(), tell=speaking(tell, verbose, run_line),
        predictions=predictions,
    )  # fmt: skip
