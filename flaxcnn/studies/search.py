"""Which recipe is best: candidates x folds x seeds, trained as a study, ranked without leaks.

Every candidate is trained on all but one fold and scored on that one; which epoch to keep is chosen
on rows held out of the training folds. The test rows are not looked at before the winner is chosen.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flaxcnn.backend import prepare
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.datasets import require_resident
from flaxcnn.engine.folder import runs_folder, stamp
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.train import fit
from flaxcnn.errors import CheckpointError, ConfigError
from flaxcnn.recipe.config import Archive, Config, Fold
from flaxcnn.recipe.layers import totals
from flaxcnn.studies import ranking
from flaxcnn.studies.plan import EVERYTHING, How, PlannedRun, check_seeds, label, longest
from flaxcnn.studies.record import StudyDirectory
from flaxcnn.studies.study import Tell, carry_out, recorded

REFIT = "refit"  # folder of the winner's run
PLACES = ("fold", "repeat")  # of a run's setting: not the candidate's own


@dataclass(frozen=True)
class Contender:
    """A recipe that is tried; `label` tells it from the others."""

    settings: Mapping[str, Any]
    config: Config
    params: int

    @property
    def label(self) -> str:
        """`learning_rate=0.1, epochs=20`."""
        return label(self.settings) or "as it is"


@dataclass(frozen=True)
class Dropped:
    """A candidate that is not tried, and why."""

    label: str
    reason: str


@dataclass(frozen=True)
class SearchResult:
    """A finished search: a row a run, search.json as a dict, and its folder."""

    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    path: Path

    def _repr_html_(self) -> str | None:
        """How a notebook shows it."""
        from flaxcnn.report.report import fragment  # not before it is to be seen: it draws

        return fragment(self.path)


class SearchDirectory(StudyDirectory):
    """`plan.json` (candidates, folds, seeds), `runs.jsonl`, `epochs.jsonl`, `search.json`, ...

    Raises:
        ConfigError: it holds another search, or something else.
        WriteError: it is in use, or cannot be written.
    """

    kind = "search"

    def check(self, recipe: dict[str, Any]) -> None:
        """ConfigError for other candidates or folds; more seeds and repeats are welcome."""
        old = self.read_json(self.proof)
        if lacking := [key for key in recipe if key not in old]:
            raise CheckpointError(f"{self.path / self.proof}: lacks {', '.join(lacking)}")
        fixed = ("experiment", "candidates", "folds", "document")
        differ = [key for key in fixed if old[key] != recipe[key]]
        missing = [seed for seed in old["seeds"] if seed not in recipe["seeds"]]
        if differ or missing or recipe["repeats"] < old["repeats"]:
            what = ", ".join(differ) or "fewer seeds or repeats"
            raise ConfigError(
                f"search directory {self.path}: holds another search ({what} differ); allowed is "
                "the same one, with the same seeds and repeats or more"
            )


def contenders(
    wanted: Sequence[tuple[Mapping[str, Any], Config]], dataset: Dataset, max_params: int | None
) -> tuple[list[Contender], list[Dropped]]:
    """The recipes that can be built on the data, within the budget of parameters; and the others.

    Raises:
        ConfigError: none is left, or two are the same recipe.
    """
    found: list[Contender] = []
    dropped: list[Dropped] = []
    for settings, config in wanted:
        name = label(settings) or "as it is"
        try:
            counts = totals(config.table(dataset.shape, dataset.num_classes))
        except ConfigError as error:
            dropped.append(Dropped(name, str(error)))
            continue
        if max_params is not None and counts["params"] > max_params:
            reason = f"{counts['params']:,} parameters; allowed are {max_params:,}"
            dropped.append(Dropped(name, reason))
            continue
        if twin := next((c for c in found if c.config == config), None):
            dropped.append(Dropped(name, f"is the same recipe as {twin.label}"))
            continue
        require_resident(config, dataset, "a search")
        found.append(Contender(settings, config, counts["params"]))
    if not found:
        why = "; ".join(f"{d.label}: {d.reason}" for d in dropped) or "there are none"
        raise ConfigError(f"search: no candidate is left ({why})")
    return found, dropped


def plan_search(
    found: Sequence[Contender], folds: int, repeats: int, seeds: Sequence[int],
    document: bool = False,
) -> list[PlannedRun]:  # fmt: skip
    """Every contender on every fold of every repeat, with every seed.

    `document`: the epoch is chosen on the fold that is scored, as the documents' searches did.

    Raises:
        ConfigError: fewer than 2 folds, fewer than 1 repeat, or wrong seeds.
    """
    if folds < 2:
        raise ConfigError(f"--folds: got {folds}; allowed is 2 or more")
    if repeats < 1:
        raise ConfigError(f"--repeats: got {repeats}; allowed is 1 or more")
    check_seeds(seeds)
    runs = []
    for one in found:
        base = replace(one.config, split=Archive())
        if document:
            base = replace(base, protocol="document", validation="test")
        split = one.config.split
        assert not isinstance(split, Fold)
        for repeat in range(repeats):
            for index in range(folds):
                fold = Fold(index, folds, one.config.split_seed + repeat, split)
                place = {"fold": index, "repeat": repeat}
                runs += [
                    PlannedRun(
                        replace(base, split=fold, seed=seed), {**one.settings, **place},
                        EVERYTHING, seed,
                    )
                    for seed in seeds
                ]  # fmt: skip
    return runs


def search(
    found: Sequence[Contender], dropped: Sequence[Dropped], dataset: Dataset, *,
    folds: int = 5, repeats: int = 1, seeds: Sequence[int] = (0,), incumbent: str | None = None,
    how: How = "auto", max_memory: int | None = None, refit: bool = True, document: bool = False,
    search_dir: Path | str | None = None, resume: bool = False, name: str = "",
    tell: Tell | None = None,
) -> SearchResult:  # fmt: skip
    """Train, score and rank the contenders; train the winner once more and test it.

    Args:
        found: of `contenders`.
        dropped: candidates that are not tried, for the record.
        dataset: of them all.
        folds: K; each is scored once in every repeat.
        repeats: how often the rows are dealt into folds anew.
        seeds: of the trainings; scores of a fold are averaged over them.
        incumbent: label of the one that the others must beat; None for none.
        how, max_memory: as in `flaxcnn.study`.
        refit: train the winner on the whole training split, and test it, once.
        document: choose the epoch on the fold that is scored, as the documents did; flagged.
        search_dir: a new folder, or with `resume` that of an earlier start.
        resume: keep the runs that have ended and do the others.
        name, tell: of the experiment, for the records; what to say meanwhile.

    Raises:
        ConfigError, DataError, WriteError: the plan, or it does not fit the data or the folder.
        InterruptedRun: SIGTERM or SIGINT; the runs that had ended are kept.
    """
    prepare()
    tell = tell or Tell()
    planned = plan_search(found, folds, repeats, seeds, document)
    _say_if_none_is_read_off(found, planned, tell)
    folder = SearchDirectory(Path(search_dir or runs_folder() / "searches" / stamp()))
    plan = {
        "experiment": name, "folds": folds, "repeats": repeats, "seeds": list(seeds),
        "incumbent": incumbent, "document": document,
        "candidates": [{"label": one.label, "settings": dict(one.settings), "params": one.params,
                        "config": one.config.to_dict()} for one in found],
        "dropped": [vars(one) for one in dropped],
    }  # fmt: skip
    with folder.take(plan, resume), recorded(folder, len(planned)):
        began = time.perf_counter()
        (folder.path / "search.json").unlink(missing_ok=True)
        with Interrupt() as interrupt:
            carry_out(planned, dataset, folder, name, how, max_memory, tell, interrupt)
        rows = folder.ordered_rows(planned)
        summary = {
            **plan, "protocol": planned[0].config.protocol, "planned": len(planned),
            "trained": len(longest(planned)),
            **ranking.rank(_scores(found, rows), incumbent, 1 / (folds - 1)),
        }  # fmt: skip
        if refit and summary["winner"] is not None:
            config = next(one.config for one in found if one.label == summary["winner"])
            own, path = replace(config, seed=seeds[0]), folder.path / REFIT
            summary["refit"] = _refit(own, dataset, path, name, tell)
        folder.write_text("candidates.csv", _table(summary["candidates"]))
        folder.write_text("README.md", ranking.page(summary))
        folder.write_json("search.json", summary)
        folder.set_status("complete", seconds=time.perf_counter() - began)
    return SearchResult(rows, summary, folder.path)


def _refit(config: Config, dataset: Dataset, path: Path, name: str, tell: Tell) -> dict[str, Any]:
    """Train the winner as a run of its own -> its summary.json."""
    again = (path / "config.json").is_file()
    return fit(config, dataset, path, name=name, resume=again, on_note=tell.note).summary


def _say_if_none_is_read_off(
    found: Sequence[Contender], planned: Sequence[PlannedRun], tell: Tell
) -> None:
    lengths = {one.config.epochs for one in found}
    if len(lengths) > 1 and len(longest(planned)) == len(planned):
        tell.note(
            "epochs: no candidate is the beginning of another (a schedule over all epochs, or "
            "settings that differ too): each number of epochs is trained on its own"
        )


def _scores(found: Sequence[Contender], rows: Sequence[dict[str, Any]]) -> list[ranking.Scored]:
    """What the runs of each contender scored, by its fold."""
    scored = {one.label: ranking.Scored(one.label, dict(one.settings), one.params) for one in found}
    for row in rows:
        own = {key: value for key, value in row["setting"].items() if key not in PLACES}
        one = scored[label(own) or "as it is"]
        if row["status"] == "diverged":
            one.diverged += 1
            continue
        place = (row["setting"]["repeat"], row["setting"]["fold"])
        one.scores.setdefault(place, []).append(row["test_accuracy"])
        one.seconds.append(row["seconds"])
    return list(scored.values())


def _table(candidates: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    names = [key for key in candidates[0] if not isinstance(candidates[0][key], dict | list)]
    writer = csv.DictWriter(text, names, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(candidates)
    return text.getvalue()
