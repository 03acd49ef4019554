"""Which recipe is best: candidates x folds x seeds, trained as a study, ranked without leaks.

Every candidate is trained on all but one fold and scored on that one; which epoch to keep is chosen
on rows held out of the training folds. The test rows are not used before the winner is chosen.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flaxcnn.backend import prepare
from flaxcnn.data.arrays import Dataset
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.train import fit
from flaxcnn.errors import ConfigError, DivergedError, OutOfMemoryError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.networks import own_sources
from flaxcnn.recipe.splits import Archive, Fold
from flaxcnn.records.folder import new_plan
from flaxcnn.records.format import EVERYTHING, UNCHANGED, candidate_label
from flaxcnn.records.read import SearchRecord, read_search
from flaxcnn.records.readme import search_readme
from flaxcnn.records.run import RunDirectory
from flaxcnn.records.search import SearchDirectory
from flaxcnn.records.tables import candidate_columns, csv_text
from flaxcnn.studies.campaign import Campaign, status_of
from flaxcnn.studies.candidates import Candidate, Candidates, Dropped
from flaxcnn.studies.events import Listener, TooLarge
from flaxcnn.studies.plan import PlannedRun, Scoring, longest
from flaxcnn.studies.ranking import Scored, rank

REFIT = "refit"  # folder of the winner's run


def plan_search(candidates: Sequence[Candidate], scoring: Scoring) -> list[PlannedRun]:
    """Every candidate on every fold of every repeat, with every seed.

    Raises:
        ConfigError: two of them come to the same runs.
    """
    runs: list[PlannedRun] = []
    known: dict[str, str] = {}  # key of a first run -> label
    for candidate in candidates:
        own = _plan_candidate(candidate, scoring)
        if (twin := known.setdefault(own[0].key, candidate.label)) != candidate.label:
            document = " (with protocol=document the fold that scores validates)"
            raise ConfigError(
                f"{candidate.label} is trained and scored exactly as "
                f"{'the recipe ' * (twin == UNCHANGED)}{twin}; give settings that "
                f"make a difference{document if scoring.document else ''}"
            )
        runs += own
    return runs


def _plan_candidate(candidate: Candidate, scoring: Scoring) -> list[PlannedRun]:
    split = candidate.config.split
    assert not isinstance(split, Fold)
    base = replace(candidate.config, split=Archive())
    if scoring.document:
        base = replace(base, protocol="document", validation="test")
    runs = []
    for repeat in range(scoring.repeats):
        for index in range(scoring.folds):
            fold = Fold(index, scoring.folds, candidate.config.split_seed + repeat, split)
            setting = {**candidate.settings, "fold": index, "repeat": repeat}
            for seed in scoring.seeds:
                config = replace(base, split=fold, seed=seed)
                runs.append(PlannedRun(config, setting, EVERYTHING, seed))
    return runs


def campaign_of(
    scoring: Scoring, data: Dataset, search_dir: Path | str | None = None, name: str = "",
    resume: bool = False, listener: Listener | None = None,
) -> Campaign:  # fmt: skip
    """The campaign of a search; by default in `runs/NAME/search-TIME`."""
    path = Path(search_dir or new_plan("search", name or "unnamed"))
    return Campaign(
        data, path, name, resume, scoring.how, scoring.max_memory, listener or Listener()
    )


def search_candidates(
    candidates: Candidates, scoring: Scoring, campaign: Campaign, refit: bool = True
) -> SearchRecord:
    """Train, score and rank the candidates; train the winner once more and test it.

    Args:
        candidates: the recipes.
        scoring: how each is scored.
        campaign: data, folder, and who hears of it.
        refit: train the winner on the whole training split, and test it, once.

    Raises:
        ConfigError, DataError, WriteError: the plan is wrong, or does not fit the data or folder.
        OutOfMemoryError: no candidate fits in memory; one of several is skipped.
        InterruptedRun: a signal (`flaxcnn.signals`); the runs that had ended are kept.
    """
    prepare()
    planned = plan_search(candidates.tried, scoring)
    _note_unshared_epochs(candidates.tried, planned, campaign.listener)
    sources = own_sources(*(candidate.config for candidate in candidates.tried))
    folder = SearchDirectory(campaign.path)
    plan = {"experiment": campaign.name, **scoring.to_dict(), **candidates.to_dict()}
    ended = lambda: f"{len(folder.rows())} of {len(planned)} runs"  # noqa: E731
    with folder.take(plan, campaign.resume), status_of(folder, ended):
        began = time.perf_counter()
        folder.keep_sources(sources)
        folder.forget("search.json")
        with Interrupt(planned[0].config.grace) as interrupt:
            too_large = campaign.train(planned, folder, interrupt)
        tried, dropped = _fitting(candidates.tried, too_large)
        planned = plan_search(tried, scoring)
        rows = folder.ordered_rows(run.key for run in planned)
        summary = {
            **plan, "protocol": planned[0].config.protocol, "planned": len(planned),
            "trained": len(longest(planned)),
            "dropped": [vars(each) for each in (*candidates.dropped, *dropped)],
            **rank(scores(tried, rows), candidates.incumbent, scoring.fold_ratio),
        }  # fmt: skip
        conclude(campaign, folder, tried, summary, refit)
        folder.set_status("complete", seconds=time.perf_counter() - began)
    return read_search(folder.path)


def _fitting(
    candidates: Sequence[Candidate], too_large: Sequence[TooLarge]
) -> tuple[list[Candidate], list[Dropped]]:
    """Candidates all of whose runs fit in memory, and the others.

    Raises:
        OutOfMemoryError: there are only others.
    """
    reasons = {candidate_label(each.run.setting): each.reason for each in too_large}
    tried = [candidate for candidate in candidates if candidate.label not in reasons]
    if not tried:
        raise OutOfMemoryError(too_large[0].reason)
    return tried, [Dropped(name, reason) for name, reason in reasons.items()]


def conclude(
    campaign: Campaign,
    folder: SearchDirectory,
    candidates: Sequence[Candidate],
    summary: dict[str, Any],
    refit: bool,
) -> None:
    """Write search.json and the tables; with `refit`, train and test the winner.

    Args:
        campaign: of the search.
        folder: opened for writing.
        candidates: that are ranked.
        summary: the plan and the ranking.
        refit: whether the winner is trained on the whole training split.
    """
    _write_tables(folder, summary)  # so that they exist even if the winner's training fails
    if not refit or summary["winner"] is None:
        return
    winner = next(each.config for each in candidates if each.label == summary["winner"])
    try:
        config = replace(winner, seed=summary["seeds"][0])
        summary = {**summary, "refit": refit_winner(campaign, folder.path, config)}
    except DivergedError as error:
        summary = {**summary, "refit_diverged": str(error)}
    _write_tables(folder, summary)


def _write_tables(folder: SearchDirectory, summary: Mapping[str, Any]) -> None:
    columns = candidate_columns(summary["candidates"])
    folder.write_text("candidates.csv", csv_text(columns))
    folder.write_text("README.md", search_readme(summary))
    folder.write_json("search.json", dict(summary))


def refit_winner(campaign: Campaign, folder: Path, config: Config) -> dict[str, Any]:
    """Train the winner as a run of its own -> its summary.json; an earlier winner is kept."""
    path = folder / REFIT
    kept = lambda recipe: folder / f"{REFIT}-{recipe.fingerprint()[:8]}"  # noqa: E731
    old = RunDirectory(path).config() if (path / "config.json").is_file() else config
    if old.fingerprint() != config.fingerprint():
        path.rename(kept(old))
        if kept(config).is_dir():  # it had won before
            kept(config).rename(path)
    resume = (path / "config.json").is_file()
    note = campaign.listener.note
    return fit(config, campaign.data, path, name=campaign.name, resume=resume, on_note=note).summary


def _note_unshared_epochs(
    candidates: Sequence[Candidate], planned: Sequence[PlannedRun], listener: Listener
) -> None:
    lengths = {candidate.config.epochs for candidate in candidates}
    if len(lengths) > 1 and len(longest(planned)) == len(planned):
        listener.note(
            "epochs: no candidate is the beginning of another (a schedule over all epochs, or "
            "settings that differ too), so each number of epochs is trained separately"
        )


def scores(candidates: Sequence[Candidate], rows: Sequence[Mapping[str, Any]]) -> list[Scored]:
    """What the runs of each candidate scored, by fold."""
    scored = {each.label: Scored(each.label, dict(each.settings), each.params)
              for each in candidates}  # fmt: skip
    for row in rows:
        own = scored[candidate_label(row["setting"])]
        if row["status"] == "diverged":
            own.diverged += 1
            continue
        fold = (row["setting"]["repeat"], row["setting"]["fold"])
        own.scores.setdefault(fold, []).append(row["test_accuracy"])
        own.seconds.append(row["seconds"])
    return list(scored.values())
