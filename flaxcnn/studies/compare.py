"""Runs and studies side by side: which differences their seeds show."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from flaxcnn.errors import CheckpointError, ConfigError, near_miss
from flaxcnn.recipe.config import decisive
from flaxcnn.records.folder import Folder, run_or_study
from flaxcnn.studies.contrasts import (
    Superiority,
    compare_paired,
    compare_unpaired,
    holm,
    probability_of_superiority,
)
from flaxcnn.studies.plan import EVERYTHING, label
from flaxcnn.studies.stats import METRICS, Interval
from flaxcnn.studies.verdict import Verdict, verdict

# What both sides must share for their numbers to mean the same.
SHARED = ("data_digest", "split_digest", "protocol")
NEEDED = (*SHARED, "seed", "experiment")  # of a run's record
NEEDED_OF_A_STUDY = (*SHARED, "seed", "setting", "vary")


@dataclass
class Side:
    """Runs of one recipe on the same rows that differ in their seed."""

    label: str
    path: Path  # of the first of them
    shared: dict[str, Any]
    rows: int | None = None  # that the metric is taken on
    values: dict[int, float] = field(default_factory=dict)  # seed -> metric
    failed: set[int] = field(default_factory=set)  # seeds of runs that diverged
    dead: set[int] = field(default_factory=set)  # of networks that let nothing through
    left_out: set[int] = field(default_factory=set)  # of those


@dataclass(frozen=True)
class Compared:
    """One side against the first."""

    label: str
    against: str
    verdict: Verdict
    superiority: Superiority
    p_corrected: float | None  # Holm's, over all comparisons of the call


def compare(
    paths: Sequence[Path], metric: str = "test_accuracy", *, paired: bool = False,
    margin: float | None = None, anyway: bool = False, alive: bool = False,
) -> tuple[list[Side], list[Compared], list[str]]:  # fmt: skip
    """Every recipe found in the folders against the first one.

    Run directories of one recipe are one side; so is each setting of a study.

    Args:
        paths: of run and study directories.
        metric: of a run's row.
        paired: equal seeds make pairs.
        margin: largest difference of no interest; by default the binomial standard error of the
            mean accuracy on the test rows, and none for a loss: equivalence is not tested then.
        anyway: compare sides that differ in data, rows or protocol.
        alive: leave out dead networks, those with a relu layer of which nothing comes; in pairs,
            the pair. What is compared is then how good the networks are that learn at all.

    Returns:
        the sides, a comparison for each but the first, and what a reader has to be told.

    Raises:
        ConfigError: fewer than two sides, one seed on a side, or sides that must not be compared.
        CheckpointError: a folder that holds neither, or nothing finished.
    """
    if metric not in METRICS:
        raise ConfigError(
            f"--metric: got {metric!r}; allowed are {', '.join(METRICS)}"
            f"{near_miss(metric, METRICS)}"
        )
    sides = _sides(paths, metric)
    if len(sides) < 2:
        raise ConfigError(
            f"compare: got {len(sides)} recipe in {len(paths)} folders; allowed are two or more, "
            "the first of which the others are held against"
        )
    notes = [_check_shared(sides[0], side, anyway) for side in sides[1:]]
    for side in sides:
        notes += [_failed_note(side), _dead_note(side, alive)]
        if alive:
            _leave_out_dead(side)
        if len(side.values) < 2:
            raise ConfigError(
                f"compare: {'; '.join(note for note in notes if note) or side.label}: "
                f"{side.label} is left with {len(side.values)} of the two or more seeds it takes"
            )
    return sides, _contrasts(sides, metric, paired, margin), [note for note in notes if note]


def _contrasts(
    sides: list[Side], metric: str, paired: bool, margin: float | None
) -> list[Compared]:
    first, others = sides[0], sides[1:]
    both = [_samples(side, first, METRICS[metric], paired) for side in others]
    raw = [(compare_paired if paired else compare_unpaired)(*pair).p_value for pair in both]
    # A comparison without a p value (no spread) counts in the family all the same.
    corrected = holm([1.0 if p is None else p for p in raw])
    rows = first.rows if metric.endswith("accuracy") else None
    found = []
    for side, pair, p_value, level in zip(others, both, raw, corrected, strict=True):
        p = None if p_value is None else level
        judged = verdict(*pair, margin, p_corrected=p, paired=paired, test_rows=rows,
                         comparisons=len(others))  # fmt: skip
        if not METRICS[metric]:
            judged = _turned(judged)
        chance = probability_of_superiority(*pair, paired)
        found.append(Compared(side.label, first.label, judged, chance, p))
    return found


def _samples(
    side: Side, first: Side, larger_is_better: bool, paired: bool
) -> tuple[dict[int, float], dict[int, float]]:
    """Seed -> value, where larger is better; of pairs, both or none."""
    sign = 1.0 if larger_is_better else -1.0
    lost = side.left_out | first.left_out | side.failed | first.failed
    own, against = (
        {seed: sign * v for seed, v in each.values.items() if not (paired and seed in lost)}
        for each in (side, first)
    )
    return own, against


def _turned(judged: Verdict) -> Verdict:
    """What was tested on losses times -1, in the losses themselves."""
    test, tost = judged.comparison, judged.equivalence
    test = replace(
        test, difference=-test.difference, interval=_mirrored(test.interval),
        hedges_g=None if test.hedges_g is None else -test.hedges_g,
        mean_a=-test.mean_a, mean_b=-test.mean_b,
    )  # fmt: skip
    if tost is not None:
        tost = replace(tost, difference=-tost.difference, interval=_mirrored(tost.interval))
    return replace(judged, comparison=test, equivalence=tost)


def _mirrored(interval: Interval | None) -> Interval | None:
    return None if interval is None else (-interval[1], -interval[0])


def _failed_note(side: Side) -> str:
    """What to say of runs that diverged; they have no value."""
    if not side.failed:
        return ""
    of = len(side.failed) + len(side.values)
    return f"{side.label}: {len(side.failed)} of {of} runs diverged and do not count"


def _dead_note(side: Side, alive: bool) -> str:
    """What to say of dead networks, which are to be left out if `alive`."""
    if not side.dead:
        return ""
    text = f"{side.label}: {len(side.dead)} of {len(side.values)} networks are dead"
    if not alive:
        return f"{text} and count like any other; --alive leaves them out"
    return f"{text} and left out: what is compared is how good those are that learn"


def _leave_out_dead(side: Side) -> None:
    side.left_out = side.dead
    side.values = {seed: v for seed, v in side.values.items() if seed not in side.dead}


def _check_shared(first: Side, other: Side, anyway: bool) -> str | None:
    differ = [key for key in SHARED if first.shared[key] != other.shared[key]]
    if not differ:
        return None
    key = differ[0]
    text = (
        f"{other.label} and {first.label} differ in {', '.join(differ)} "
        f"({key}: {str(other.shared[key])[:12]} and {str(first.shared[key])[:12]})"
    )
    if not anyway:
        raise ConfigError(f"compare: {text}; --anyway compares them, and says so")
    return f"{text}: a difference may come from there"


def _sides(paths: Sequence[Path], metric: str) -> list[Side]:
    sides: dict[str, Side] = {}
    for path in paths:
        for recipe, label_, row in _rows(path):
            shared = {name: row[name] for name in SHARED}
            side = sides.setdefault(
                json.dumps([recipe, shared], sort_keys=True), Side(label_, path, shared)
            )
            _add(side, row, metric)
    found = list(sides.values())
    labels = Counter(side.label for side in found)
    for side in found:
        if labels[side.label] > 1:
            side.label += f" ({side.path})"
    return found


def _add(side: Side, row: dict[str, Any], metric: str) -> None:
    seed = row["seed"]
    if seed in side.values or seed in side.failed:
        raise ConfigError(
            f"compare: seed {seed} of {side.label} is in more than one folder; "
            "allowed is each run once"
        )
    value = row.get(metric)
    if row.get("status") == "diverged" or value is None:
        side.failed.add(seed)
        return
    side.values[seed] = value
    side.rows = row.get(f"{metric.partition('_')[0]}_rows")
    if row.get("dead_layers"):
        side.dead.add(seed)


def _rows(path: Path) -> list[tuple[Any, str, dict[str, Any]]]:
    """(recipe without seed, label, row) of every run in the folder."""
    folder = Folder(path)
    if run_or_study(folder.path, "compare") == "run":
        row, config = folder.read_json("summary.json"), folder.read_json("config.json")
        _check_record(row, path)
        return [([_seedless(config), {}, EVERYTHING], row["experiment"] or path.name, row)]
    plan, rows = folder.read_json("plan.json"), folder.lines("runs.jsonl")
    if not {"experiment", "config"} <= plan.keys():
        raise CheckpointError(f"{path / 'plan.json'}: lacks experiment or config")
    found, config = [], _seedless(plan["config"])
    for row in rows:
        _check_record(row, path)
        name = f"{plan['experiment'] or path.name} {label(row['setting'], row['vary'])}"
        found.append(([config, row["setting"], row["vary"]], name.rstrip(), row))
    return found


def _check_record(row: dict[str, Any], path: Path) -> None:
    needed = NEEDED_OF_A_STUDY if "status" in row else NEEDED
    if lacking := [name for name in needed if name not in row]:
        raise CheckpointError(
            f"{path}: the record of seed {row.get('seed')} lacks {', '.join(lacking)}: "
            "it is damaged, or of another version"
        )


def _seedless(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in decisive(config).items() if key != "seed"}
