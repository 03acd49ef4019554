"""Runs and studies side by side: which differences their seeds show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flaxcnn.engine.folder import Folder
from flaxcnn.errors import CheckpointError, ConfigError, near_miss
from flaxcnn.recipe.config import STREAMS
from flaxcnn.studies.contrasts import (
    Superiority,
    compare_paired,
    compare_unpaired,
    holm,
    probability_of_superiority,
)
from flaxcnn.studies.plan import EVERYTHING, label
from flaxcnn.studies.verdict import Verdict, verdict

METRICS = {  # whether larger is better
    "test_accuracy": True, "val_accuracy": True, "train_accuracy": True,
    "test_loss": False, "val_loss": False, "train_loss": False,
}  # fmt: skip
# What both sides must share for their numbers to mean the same.
SHARED = ("data_digest", "split_digest", "protocol")
SEEDS = {"seed", *STREAMS}


@dataclass
class Side:
    """Runs of one recipe that differ in their seed."""

    label: str
    shared: dict[str, Any]
    test_rows: int
    values: dict[int, float] = field(default_factory=dict)  # seed -> metric
    failed: int = 0  # runs that diverged
    dead: set[int] = field(default_factory=set)  # seeds whose network lets nothing through
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
    notes += [f"{side.label}: {side.failed} diverged runs do not count" for side in sides
              if side.failed]  # fmt: skip
    notes += [_leave_out_dead(side, alive) for side in sides if side.dead]
    return sides, _contrasts(sides, metric, paired, margin), [note for note in notes if note]


def _contrasts(
    sides: list[Side], metric: str, paired: bool, margin: float | None
) -> list[Compared]:
    first, others = sides[0], sides[1:]
    sign = 1.0 if METRICS[metric] else -1.0
    both = [_samples(side, first, sign, paired) for side in others]
    raw = [(compare_paired if paired else compare_unpaired)(*pair).p_value for pair in both]
    # A comparison without a p value (no spread) counts in the family all the same.
    corrected = holm([1.0 if p is None else p for p in raw])
    rows = first.test_rows if metric.endswith("accuracy") else None
    found = []
    for side, pair, p_value, level in zip(others, both, raw, corrected, strict=True):
        p = None if p_value is None else level
        found.append(Compared(
            side.label, first.label,
            verdict(*pair, margin, p_corrected=p, paired=paired, test_rows=rows),
            probability_of_superiority(*pair, paired), p,
        ))  # fmt: skip
    return found


def _samples(
    side: Side, first: Side, sign: float, paired: bool
) -> tuple[dict[int, float], dict[int, float]]:
    """Seed -> value, where larger is better; of pairs, both or none."""
    gone = side.left_out | first.left_out if paired else set()
    own, against = (
        {seed: sign * value for seed, value in each.values.items() if seed not in gone}
        for each in (side, first)
    )
    return own, against


def _leave_out_dead(side: Side, alive: bool) -> str:
    """What to say of a side with dead networks; they go if `alive`."""
    text = f"{side.label}: {len(side.dead)} of {len(side.values)} networks are dead"
    if not alive:
        return f"{text} and count like any other; --alive leaves them out"
    side.left_out = side.dead
    side.values = {seed: v for seed, v in side.values.items() if seed not in side.dead}
    return f"{text} and left out: what is compared is how good those are that learn"


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
        for recipe, title, row in _rows(path):
            key = json.dumps([recipe, title], sort_keys=True)
            if key not in sides:
                shared = {name: row[name] for name in SHARED}
                sides[key] = Side(title, shared, row.get("test_rows", 0))
            side = sides[key]
            if row["seed"] in side.values:
                raise ConfigError(
                    f"compare: seed {row['seed']} of {title} is in more than one folder; "
                    "allowed is each run once"
                )
            if row.get("status") == "diverged":
                side.failed += 1
            else:
                side.values[row["seed"]] = row[metric]
                side.test_rows = row["test_rows"]
                if row["dead_layers"]:
                    side.dead.add(row["seed"])
    return list(sides.values())


def _rows(path: Path) -> list[tuple[Any, str, dict[str, Any]]]:
    """(recipe without seeds, label, row) of every run in the folder."""
    folder = Folder(path)
    if (folder.path / "study.json").is_file():
        plan = folder.read_json("plan.json")
        name, config = plan["experiment"] or path.name, _seedless(plan["config"])
        return [
            ([config, row["setting"], row["vary"]],
             f"{name} {label(row['setting'], row['vary'])}".rstrip(), row)
            for row in folder.lines("runs.jsonl")
        ]  # fmt: skip
    if (folder.path / "summary.json").is_file():
        row, config = folder.read_json("summary.json"), folder.read_json("config.json")
        recipe = [_seedless(config), {}, EVERYTHING]
        return [(recipe, row["experiment"] or path.name, row)]
    raise CheckpointError(
        f"{path}: holds no finished run or study (no summary.json or study.json); "
        "--resume finishes one"
    )


def _seedless(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in SEEDS}
