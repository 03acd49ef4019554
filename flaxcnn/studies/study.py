"""A study: every seed of every setting, trained in groups, recorded run by run, resumable.

The way of one seed of N:

1. `plan_runs` makes it a `PlannedRun`: its recipe, its setting, and its key.
2. `StudyDirectory.take` writes the plan to plan.json and locks the folder.
3. `Campaign.train` skips it if the folder has its row already.
4. `longest` puts it below a longer run of the same recipe, if there is one to read it off.
5. `grouped` puts it into the `Group` of runs that share its compiled program.
6. `JobPool.prepare` puts the pixels on every device; `choose_width` says how many runs to stack.
7. `run_groups` has a thread per device, which takes a group from the `Scheduler` and the run from
   the group's `Queue`.
8. `JobCache.get` makes the run's job; `_train_one`, or a slot of a `Stack`, trains it.
9. `Slot.after` notes each epoch; after the last one `conclude` tests the kept weights.
10. `Ledger.add` records its row in runs.jsonl and calls the listener; `aggregate` sums all up.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flaxcnn.backend import prepare
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.datasets import load_for, require_resident
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.errors import ConfigError, OutOfMemoryError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.fields import Role
from flaxcnn.recipe.networks import own_sources
from flaxcnn.records.folder import new_plan
from flaxcnn.records.read import StudyRecord, read_study
from flaxcnn.records.readme import study_readme
from flaxcnn.records.study import StudyDirectory
from flaxcnn.records.tables import csv_text, run_columns
from flaxcnn.studies.campaign import Campaign, status_of
from flaxcnn.studies.events import Listener, TooLarge
from flaxcnn.studies.plan import (
    Grid,
    How,
    PlannedRun,
    check_how,
    check_same_data,
    plan_runs,
)
from flaxcnn.studies.summary import aggregate


def study(
    config: Config,
    seeds: Sequence[int],
    *,
    grid: Grid | None = None,
    vary: Sequence[str] = (),
    how: How = "auto",
    max_memory: int | None = None,
    study_dir: Path | str | None = None,
    resume: bool = False,
    name: str = "",
    dataset: Dataset | None = None,
    tell: Listener | None = None,
    predictions: bool = False,
) -> StudyRecord:
    """Train every seed of every setting, and summarise what the seeds show.

    Args:
        config: the recipe.
        seeds: distinct seeds, such as `range(32)`.
        dataset: what `flaxcnn.data.datasets.load_for(config)` gives, if it is loaded already.
        grid, vary, how, max_memory, study_dir, resume, name, tell: as of `flaxcnn.study`.
        predictions: keep what is predicted for each test row, in one file `predictions-RUN.npz`
            per run (`row`, `label`, `predicted`, each [N]; `logits` [N, K] in half precision).

    Raises:
        ConfigError, DataError, ...: as `flaxcnn.study`.
    """
    prepare()
    planned = plan_runs(config, list(seeds), grid, vary)
    _check_exact(check_how(how), planned)
    data = load_for(config) if dataset is None else dataset
    _check_data(planned, config, data)
    values = {key: list(values) for key, values in (grid or {}).items()}
    plan = {"experiment": name, "config": config.to_dict(), "seeds": list(seeds), "grid": values,
            "vary": list(vary), "how": how}  # fmt: skip
    path = Path(study_dir) if study_dir else new_plan("study", name or "unnamed")
    campaign = Campaign(data, path, name, resume, how, max_memory, tell or Listener())
    return _carry_out(campaign, plan, planned, predictions)


def _carry_out(
    campaign: Campaign, plan: dict[str, Any], planned: Sequence[PlannedRun], predictions: bool
) -> StudyRecord:
    sources = own_sources(*(run.config for run in planned))
    folder = StudyDirectory(campaign.path)
    folder.predictions = predictions
    ended = lambda: f"{len(folder.rows())} of {len(planned)} runs"  # noqa: E731
    with (
        folder.take(plan, campaign.resume),
        Interrupt(planned[0].config.grace) as interrupt,
        status_of(folder, ended),
    ):
        began = time.perf_counter()
        folder.keep_sources(sources)
        folder.forget("study.json")  # of fewer seeds
        too_large = campaign.train(planned, folder, interrupt)
        _conclude(folder, planned, too_large, campaign.name)
        folder.set_status("complete", seconds=time.perf_counter() - began)
    return read_study(folder.path)


def _check_exact(how: How, planned: Sequence[PlannedRun]) -> None:
    """Refuse runs side by side that must have the bits of a run alone."""
    if how == "vmap" and any(run.config.determinism == "exact" for run in planned):
        raise ConfigError(
            "how=vmap does not work with determinism=exact, since the bits of stacked runs depend "
            "on how many there are; use map"
        )
    if how == "vmap" and any(run.config.on_nonfinite == "rollback" for run in planned):
        raise ConfigError(
            "how=vmap does not work with on_nonfinite=rollback, since runs side by side are at the "
            "same step; use map"
        )


def _check_data(planned: Sequence[PlannedRun], config: Config, data: Dataset) -> None:
    for run in planned:
        require_resident(run.config, data, "a study")
        check_same_data(run.config, config, "a study", Role.PIXELS)
    for run in {run.name: run for run in planned}.values():  # the seeds of a setting share theirs
        run.config.table(data.shape, data.num_classes)


def _conclude(
    folder: StudyDirectory, planned: Sequence[PlannedRun], too_large: Sequence[TooLarge], name: str
) -> None:
    """Write the figures over the seeds.

    Raises:
        OutOfMemoryError: some runs did not fit.
    """
    if len(too_large) == len(planned):
        raise OutOfMemoryError(too_large[0].reason)
    rows = folder.ordered_rows(run.key for run in planned)
    summary = {"experiment": name, **aggregate(rows, planned)}
    folder.write_text("runs.csv", csv_text(run_columns(rows)))
    folder.write_text("README.md", study_readme(summary, rows))
    folder.write_json("study.json", summary)
    if too_large:
        counts = Counter(each.run.name for each in too_large)
        names = ", ".join(f"{name} ({count} of them)" for name, count in counts.items())
        raise OutOfMemoryError(
            f"out of memory: {len(too_large)} of {len(planned)} runs do not fit ({names}); "
            f"{folder.path} has the others, and the same command with --resume tries these again"
        )
