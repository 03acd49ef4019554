"""A whole study: planned, trained group by group, recorded run by run, resumable."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from flaxcnn.backend import enough_memory, prepare
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.datasets import load_for, require_resident
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.resident import ResidentJob
from flaxcnn.engine.saved import check_data
from flaxcnn.errors import ConfigError, InterruptedRun, OutOfMemoryError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.fields import Role
from flaxcnn.records.environment import environment, other_software
from flaxcnn.records.folder import runs_folder, stamp
from flaxcnn.records.study import StudyDirectory, columns, table_csv
from flaxcnn.studies import page
from flaxcnn.studies.groups import Group, grouped
from flaxcnn.studies.plan import (
    Grid,
    How,
    PlannedRun,
    check_how,
    check_same_data,
    longest,
    plan_runs,
)
from flaxcnn.studies.runs import Outcome, Recorder, Watch, ends_all, make_jobs, run_groups
from flaxcnn.studies.summary import aggregate
from flaxcnn.studies.width import alike, choose_width

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudyResult:
    """A finished study: a row a run in the plan's order, study.json as a dict, and its folder."""

    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    path: Path

    def to_dict(self) -> dict[str, list[Any]]:
        """Column -> values, a value a run: `pandas.DataFrame(result.to_dict())`."""
        return columns(self.rows)

    def to_csv(self, path: str | Path) -> None:
        """The table as a CSV file."""
        Path(path).write_text(table_csv(self.rows), encoding="utf-8")

    def _repr_html_(self) -> str | None:
        """How a notebook shows it."""
        from flaxcnn.report.report import fragment  # not before it is to be seen: it draws

        return fragment(self.path)


@dataclass(frozen=True)
class Tell:
    """What a study says while it runs; a warning is logged, the others are not said, by default."""

    note: Callable[[str], None] = log.warning
    group: Callable[[Group, list[ResidentJob], int], None] = lambda group, jobs, width: None
    run: Callable[[Outcome, int, int], None] = lambda outcome, ended, planned: None


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
    tell: Tell | None = None,
    predictions: bool = False,
) -> StudyResult:
    """Train every seed of every setting, and summarise what the seeds show.

    Args:
        config: the recipe.
        seeds: distinct seeds, such as `range(32)`.
        grid: dotted keys of Config to lists of values; all combinations are run.
        vary: which sources of randomness the seed drives, one at a time: of "init", "order",
            "augment", "dropout", "all". None of them: all together.
        how: "map" trains one run after the other on each device, "vmap" as many as fit side by
            side, "auto" what a few steps of each say is faster.
        max_memory: bytes for the arrays of runs; half of what is free by default.
        study_dir: a new folder, or with `resume` that of an earlier start; by default
            `runs/studies/TIME`.
        resume: keep the runs that have ended and do the others.
        name: of the experiment, for the records.
        dataset: what `flaxcnn.data.datasets.load_for(config)` gives, if it is there already.
        tell: what to say meanwhile.
        predictions: keep the class predicted for each test row, in a file
            `predictions-RUN.npz` a run (`row`, `label`, `predicted`, each [N]).

    Raises:
        ConfigError, DataError, WriteError: the plan, or it does not fit the data or the folder.
        OutOfMemoryError: runs that take more memory than there is; the others are kept.
        InterruptedRun: SIGTERM or SIGINT; the runs that had ended are kept.
    """
    prepare()
    seeds = list(seeds)
    check_how(how)
    planned = plan_runs(config, seeds, grid, vary)
    _check_exact(how, planned)
    data = load_for(config) if dataset is None else dataset
    _check_data(planned, config, data)
    folder = StudyDirectory(Path(study_dir) if study_dir else runs_folder() / "studies" / stamp())
    folder.predictions = predictions
    plan = {
        "experiment": name, "config": config.to_dict(), "seeds": seeds,
        "grid": {key: list(values) for key, values in (grid or {}).items()},
        "vary": list(vary), "how": how,
    }  # fmt: skip
    with folder.take(plan, resume), Interrupt() as interrupt, recorded(folder, len(planned)):
        began = time.perf_counter()
        (folder.path / "study.json").unlink(missing_ok=True)  # of fewer seeds
        left = carry_out(planned, data, folder, name, how, max_memory, tell or Tell(), interrupt)
        return _conclude(folder, planned, left, name, time.perf_counter() - began)


def _check_exact(how: How, planned: Sequence[PlannedRun]) -> None:
    """Refuse runs side by side that are to have the bits of runs alone."""
    if how == "vmap" and any(run.config.determinism == "exact" for run in planned):
        raise ConfigError(
            "how: got 'vmap' with determinism=exact; allowed is 'map', since a run's bits depend "
            "on what lies beside it otherwise"
        )


class TooLarge(NamedTuple):
    """A run that the memory is too small for."""

    run: PlannedRun
    reason: str


@enough_memory()
def carry_out(
    planned: Sequence[PlannedRun], data: Dataset, folder: StudyDirectory, name: str, how: How,
    max_memory: int | None, tell: Tell, interrupt: Interrupt, jobs: list[ResidentJob] | None = None,
    watch: Watch = lambda run, metrics: None, in_turn: bool = False, all_or_none: bool = False,
) -> list[TooLarge]:  # fmt: skip
    """Train what is planned and has not ended yet, and record each run as it ends.

    `jobs` of an earlier call give their programs and data, and are replaced by the last ones of
    this call; `watch` is told of every epoch; `in_turn` trains one run after the other, in the
    order of the plan; `all_or_none` ends with the first run that takes more memory than there is.

    Returns:
        Runs that take more memory than there is; they have no row, and are tried again on resuming.

    Raises:
        ConfigError, DataError: a recipe does not fit the data, or the folder is of other data.
        OutOfMemoryError: the data, or the runs that are side by side, do not fit; with
            `all_or_none`, a run does not.
        InterruptedRun: a signal came.
    """
    for row in folder.rows():
        check_data(data, row["data_digest"])
    ended = folder.tidy()
    if ended and (text := other_software(folder.read_json("env.json"))):
        tell.note(text)
    folder.write_json("env.json", environment())
    folder.set_status("running", ended=len(ended), planned=len(planned))

    def done(outcome: Outcome) -> None:
        if outcome.run.key in ended:  # read off a longer run once more
            return
        folder.add(outcome.row, outcome.history, outcome.predictions)
        ended.add(outcome.run.key)
        tell.run(outcome, len(ended), len(planned))

    left: list[TooLarge] = []

    def too_large(run: PlannedRun, reason: str) -> None:
        for one in (*run.shorter, run):
            if one.key not in ended:
                left.append(TooLarge(one, reason))
                tell.note(f"{one.label or 'as it is'} seed {one.seed}: {reason}")

    jobs = [] if jobs is None else jobs
    lacking = ends_all if all_or_none else too_large
    recorder = Recorder(name, done, lacking, watch, folder.scores_only, folder.predictions)
    widths: dict[Hashable, int] = {}
    parts = [[run] for run in planned] if in_turn else [planned]
    for part in parts:
        groups = grouped(longest(part), data)
        chosen: list[tuple[Group, int]] = []
        runs = sum(len(group.runs) for group in groups)
        for group in groups:
            interrupt.check()  # to measure a width takes seconds
            if not (rest := group.without(ended)).runs:
                continue
            kind = alike(rest, data)
            unknown = kind not in widths or max_memory is not None
            if unknown or not chosen:
                jobs[:] = make_jobs(group, data, jobs, runs)
            if unknown:
                widths[kind] = choose_width(rest, jobs, how, max_memory)
            tell.group(rest, jobs, widths[kind])
            chosen.append((rest, widths[kind]))
        if chosen:
            run_groups(chosen, jobs, interrupt, recorder)
    return left


def _names(left: Sequence[TooLarge]) -> str:
    """`batch_size=8192 (4 of them), ...`."""
    counts = Counter(one.run.label or "as it is" for one in left)
    return ", ".join(f"{name} ({count} of them)" for name, count in counts.items())


@contextlib.contextmanager
def recorded(folder: StudyDirectory, planned: int) -> Iterator[None]:
    """What ends the work inside is the folder's status."""
    try:
        yield
    except InterruptedRun as error:
        folder.set_status("interrupted", reason=str(error))
        status = f"{len(folder.rows())} of {planned} runs have ended and are kept"
        raise InterruptedRun(
            error.signal, f"{status}; the same command with --resume does the others",
            error.exit_code,
        ) from None  # fmt: skip
    except Exception as error:
        folder.set_status("failed", reason=f"{type(error).__name__}: {error}")
        raise


def _check_data(planned: Sequence[PlannedRun], config: Config, data: Dataset) -> None:
    for run in planned:
        require_resident(run.config, data, "a study")
        check_same_data(run.config, config, "a study", Role.PIXELS)


def _conclude(
    folder: StudyDirectory, planned: list[PlannedRun], left: Sequence[TooLarge], name: str,
    seconds: float,
) -> StudyResult:  # fmt: skip
    if len(left) == len(planned):
        raise OutOfMemoryError(left[0].reason)
    rows = folder.ordered_rows(run.key for run in planned)
    summary = {"experiment": name, **aggregate(rows, planned)}
    folder.write_text("runs.csv", table_csv(rows))
    folder.write_text("README.md", page.page(summary, rows))
    folder.write_json("study.json", summary)
    if left:
        raise OutOfMemoryError(
            f"memory: {len(left)} of {len(planned)} runs take more than there is ({_names(left)}); "
            f"{folder.path} has the others, and the same command with --resume tries these again"
        )
    folder.set_status("complete", seconds=seconds)
    return StudyResult(rows, summary, folder.path)
