"""Which recipe is best: candidates x folds x seeds, trained as a study, ranked without leaks.

Every candidate is trained on all but one fold and scored on that one; which epoch to keep is chosen
on rows held out of the training folds. The test rows are not looked at before the winner is chosen.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flaxcnn.backend import prepare
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.datasets import load_for
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.train import fit
from flaxcnn.errors import ConfigError, DivergedError, OutOfMemoryError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.splits import Archive, Fold
from flaxcnn.records.folder import runs_folder, stamp
from flaxcnn.records.run import RunDirectory
from flaxcnn.records.search import SearchDirectory
from flaxcnn.records.study import csv_text
from flaxcnn.studies import ranking
from flaxcnn.studies.candidates import (
    AS_IT_IS,
    Contender,
    Dropped,
    contenders,
    name_of,
    of_grid,
)
from flaxcnn.studies.plan import (
    EVERYTHING,
    Grid,
    PlannedRun,
    Scoring,
    longest,
)
from flaxcnn.studies.study import Tell, TooLarge, carry_out, recorded

REFIT = "refit"  # folder of the winner's run
PLACES = ("fold", "repeat")  # of a run's setting: not the candidate's own


@dataclass(frozen=True)
class SearchResult:
    """A finished search: a row a run, search.json as a dict, and its folder."""

    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    path: Path

    def to_dict(self) -> dict[str, list[Any]]:
        """Column -> values, a value a candidate, the best first: `pandas.DataFrame(...)` of it."""
        return ranking.columns(self.summary["candidates"])

    def to_csv(self, path: str | Path) -> None:
        """The table as a CSV file."""
        Path(path).write_text(csv_text(self.to_dict()), encoding="utf-8")

    def _repr_html_(self) -> str | None:
        """How a notebook shows it."""
        from flaxcnn.report.report import fragment  # not before it is to be seen: it draws

        return fragment(self.path)


def plan_search(found: Sequence[Contender], scoring: Scoring) -> list[PlannedRun]:
    """Every contender on every fold of every repeat, with every seed.

    Raises:
        ConfigError: two of them come to the same runs.
    """
    runs: list[PlannedRun] = []
    known: dict[str, str] = {}  # key of a first run -> label
    for one in found:
        base = replace(one.config, split=Archive())
        if scoring.document:
            base = replace(base, protocol="document", validation="test")
        begun = len(runs)
        split = one.config.split
        assert not isinstance(split, Fold)
        for repeat in range(scoring.repeats):
            for index in range(scoring.folds):
                fold = Fold(index, scoring.folds, one.config.split_seed + repeat, split)
                place = {"fold": index, "repeat": repeat}
                runs += [
                    PlannedRun(
                        replace(base, split=fold, seed=seed), {**one.settings, **place},
                        EVERYTHING, seed,
                    )
                    for seed in scoring.seeds
                ]  # fmt: skip
        if (twin := known.setdefault(runs[begun].key, one.label)) != one.label:
            raise ConfigError(
                f"{one.label}: is trained and scored exactly as {twin}; allowed are settings that "
                "make a difference" + (
                    " (with protocol=document the fold that scores validates)"
                    if scoring.document else "")
            )  # fmt: skip
    return runs


def search(
    config: Config,
    grid: Grid,
    scoring: Scoring | None = None,
    *,
    max_params: int | None = None,
    refit: bool = True,
    search_dir: Path | str | None = None,
    resume: bool = False,
    name: str = "",
    dataset: Dataset | None = None,
    tell: Tell | None = None,
) -> SearchResult:
    """Score every combination of a grid on folds, beside the recipe as it stands.

    Args:
        config: the recipe, which the others must beat.
        grid: dotted keys of Config to lists of values.
        scoring: how each is scored; 5 folds and the recipe's seed by default.
        max_params: candidates with more parameters are dropped.
        refit, search_dir, resume, name, tell: as in `search_candidates`.
        dataset: what `flaxcnn.data.datasets.load_for(config)` gives, if it is there already.

    Raises:
        ConfigError, DataError, WriteError: the plan, or it does not fit the data or the folder.
        OutOfMemoryError: no candidate fits the memory.
        InterruptedRun: SIGTERM or SIGINT; the runs that had ended are kept.
    """
    wanted = of_grid(config, grid)
    data = load_for(config) if dataset is None else dataset
    found, dropped = contenders(wanted, data, max_params)
    return search_candidates(
        found, dropped, data, scoring or Scoring(seeds=(config.seed,)), incumbent=AS_IT_IS,
        max_params=max_params,
        refit=refit, search_dir=search_dir, resume=resume, name=name, tell=tell,
    )  # fmt: skip


def search_candidates(
    found: Sequence[Contender],
    dropped: Sequence[Dropped],
    dataset: Dataset,
    scoring: Scoring,
    *,
    incumbent: str | None = None,
    max_params: int | None = None,
    refit: bool = True,
    search_dir: Path | str | None = None,
    resume: bool = False,
    name: str = "",
    tell: Tell | None = None,
) -> SearchResult:
    """Train, score and rank the contenders; train the winner once more and test it.

    Args:
        found: of `contenders`.
        dropped: candidates that are not tried, for the record.
        dataset: of them all.
        scoring: how each is scored.
        incumbent: label of the one that the others must beat; None for none.
        max_params: what the contenders were held to, for the record.
        refit: train the winner on the whole training split, and test it, once.
        search_dir: a new folder, or with `resume` that of an earlier start.
        resume: keep the runs that have ended and do the others.
        name, tell: of the experiment, for the records; what to say meanwhile.

    Raises:
        ConfigError, DataError, WriteError: the plan, or it does not fit the data or the folder.
        OutOfMemoryError: no candidate fits the memory; one of several is left out.
        InterruptedRun: SIGTERM or SIGINT; the runs that had ended are kept.
    """
    prepare()
    tell = tell or Tell()
    planned = plan_search(found, scoring)
    _say_if_none_is_read_off(found, planned, tell)
    folder = SearchDirectory(Path(search_dir or runs_folder() / "searches" / stamp()))
    plan = {
        "experiment": name, **scoring.to_dict(), "max_params": max_params,
        "incumbent": incumbent,
        "candidates": [one.to_dict() for one in found],
        "dropped": [vars(one) for one in dropped],
    }  # fmt: skip
    with folder.take(plan, resume), recorded(folder, len(planned)):
        began = time.perf_counter()
        (folder.path / "search.json").unlink(missing_ok=True)
        with Interrupt() as interrupt:
            left = carry_out(planned, dataset, folder, name, scoring.how, scoring.max_memory, tell,
                             interrupt)  # fmt: skip
        tried, too_large = _fitting(found, left)
        planned = plan_search(tried, scoring)
        rows = folder.ordered_rows(run.key for run in planned)
        summary = {
            **plan, "protocol": planned[0].config.protocol, "planned": len(planned),
            "trained": len(longest(planned)),
            "dropped": [vars(one) for one in (*dropped, *too_large)],
            **ranking.rank(scores(tried, rows), incumbent, 1 / (scoring.folds - 1)),
        }  # fmt: skip
        return conclude(folder, summary, rows, tried, dataset if refit else None, tell, began)


def _fitting(
    found: Sequence[Contender], left: Sequence[TooLarge]
) -> tuple[list[Contender], list[Dropped]]:
    """Candidates none of whose runs takes more memory than there is, and the others.

    Raises:
        OutOfMemoryError: there are only others.
    """
    reasons = {_label(one.run.setting): one.reason for one in left}
    tried = [one for one in found if one.label not in reasons]
    if not tried:
        raise OutOfMemoryError(left[0].reason)
    return tried, [Dropped(name, reason) for name, reason in reasons.items()]


def conclude(
    folder: SearchDirectory, summary: dict[str, Any], rows: list[dict[str, Any]],
    found: Sequence[Contender], dataset: Dataset | None, tell: Tell, began: float,
) -> SearchResult:  # fmt: skip
    """Train and test the winner, unless `dataset` is None, and write the tables.

    Args:
        folder: of the search.
        summary: the plan and the ranking.
        rows: of the runs, for the result.
        found: the candidates that are ranked.
        dataset: of them all.
        tell: for warnings.
        began: `time.perf_counter()` at the start.
    """
    _write_tables(folder, summary)  # not lost, whatever becomes of the winner
    if dataset is not None and summary["winner"] is not None:
        config = next(one.config for one in found if one.label == summary["winner"])
        own = replace(config, seed=summary["seeds"][0])
        try:
            summary["refit"] = _refit(own, dataset, folder.path, summary["experiment"], tell)
        except DivergedError as error:
            summary["refit_diverged"] = str(error)
        _write_tables(folder, summary)
    folder.set_status("complete", seconds=time.perf_counter() - began)
    return SearchResult(rows, summary, folder.path)


def _write_tables(folder: SearchDirectory, summary: dict[str, Any]) -> None:
    folder.write_text("candidates.csv", csv_text(ranking.columns(summary["candidates"])))
    folder.write_text("README.md", ranking.page(summary))
    folder.write_json("search.json", summary)


def _refit(config: Config, dataset: Dataset, path: Path, name: str, tell: Tell) -> dict[str, Any]:
    """Train the winner as a run of its own -> its summary.json; an earlier winner's is kept."""
    place = path / REFIT
    kept = lambda config: path / f"{REFIT}-{config.fingerprint()[:8]}"  # noqa: E731
    old = RunDirectory(place).config() if (place / "config.json").is_file() else config
    if old.fingerprint() != config.fingerprint():
        place.rename(kept(old))
        if kept(config).is_dir():  # it had won before
            kept(config).rename(place)
    again = (place / "config.json").is_file()
    return fit(config, dataset, place, name=name, resume=again, on_note=tell.note).summary


def _say_if_none_is_read_off(
    found: Sequence[Contender], planned: Sequence[PlannedRun], tell: Tell
) -> None:
    lengths = {one.config.epochs for one in found}
    if len(lengths) > 1 and len(longest(planned)) == len(planned):
        tell.note(
            "epochs: no candidate is the beginning of another (a schedule over all epochs, or "
            "settings that differ too): each number of epochs is trained on its own"
        )


def _label(setting: Mapping[str, Any]) -> str:
    """The candidate that a run's setting is of."""
    return name_of({key: value for key, value in setting.items() if key not in PLACES})


def scores(found: Sequence[Contender], rows: Sequence[dict[str, Any]]) -> list[ranking.Scored]:
    """What the runs of each contender scored, by its fold."""
    scored = {one.label: ranking.Scored(one.label, dict(one.settings), one.params) for one in found}
    for row in rows:
        one = scored[_label(row["setting"])]
        if row["status"] == "diverged":
            one.diverged += 1
            continue
        place = (row["setting"]["repeat"], row["setting"]["fold"])
        one.scores.setdefault(place, []).append(row["test_accuracy"])
        one.seconds.append(row["seconds"])
    return list(scored.values())
