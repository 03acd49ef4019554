"""Runs and studies side by side: which differences their seeds show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flaxcnn.errors import ConfigError, near_miss, one_of
from flaxcnn.recipe.config import Config, decisive
from flaxcnn.records.differing import settings_of, side_labels
from flaxcnn.records.format import EVERYTHING
from flaxcnn.records.read import SHARED, Record, RunRecord, read_runs
from flaxcnn.studies.comparison import Compared, Comparison, Side
from flaxcnn.studies.contrasts import (
    compare_paired,
    compare_unpaired,
    holm,
    probability_of_superiority,
)
from flaxcnn.studies.stats import METRICS, Interval
from flaxcnn.studies.verdict import Verdict, verdict


def compare(
    *runs: Path | str | Record, metric: str = "test_accuracy", paired: bool = False,
    margin: float | None = None, anyway: bool = False, alive: bool = False,
) -> Comparison:  # fmt: skip
    """Compare every recipe in the runs and studies with the first one.

    Runs of one recipe are one side; so is each setting of a study.

    >>> from flaxcnn import study
    >>> rates = study(seeds=2, epochs=1, grid={"learning_rate": [0.01, 0.1]}, verbose=False)
    >>> [each.verdict.verdict for each in compare(rates).compared]  # two seeds show nothing
    ['not shown']

    Args:
        runs: directories of runs and studies, or what `flaxcnn.train` and `study` returned.
        metric: of a run's row, such as "val_accuracy" or "test_loss".
        paired: equal seeds make pairs.
        margin: largest difference of no interest; by default the binomial standard error of the
            mean accuracy on the test rows, and none for a loss: equivalence is not tested then.
        anyway: compare sides that differ in data, rows or protocol.
        alive: leave out dead networks, those with a relu layer that is never active; with pairs,
            the whole pair. This compares only the networks that learn at all.

    Raises:
        ConfigError: fewer than two sides, one seed on a side, or sides that must not be compared.
        CheckpointError: a folder holds neither, or nothing finished.
    """
    paths = [run.path if isinstance(run, Record) else Path(run) for run in runs]
    known = {**METRICS, **_own_metrics(paths)}
    if metric not in known:
        raise ConfigError(
            f"--metric must be {one_of(known)} (got {metric!r}){near_miss(metric, known)}"
        )
    sides = _sides(paths, metric)
    if len(sides) < 2:
        raise ConfigError(
            "compare needs two or more recipes, of which the others are compared with the first "
            f"(got {len(sides)} in {len(paths)} folders)"
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
    compared = _contrasts(sides, metric, known[metric], paired, margin)
    return Comparison(metric, paired, alive, sides, compared, [note for note in notes if note])


def _contrasts(
    sides: list[Side], metric: str, rises: bool, paired: bool, margin: float | None
) -> list[Compared]:
    first, others = sides[0], sides[1:]
    both = [_samples(side, first, rises, paired) for side in others]
    raw = [(compare_paired if paired else compare_unpaired)(*pair).p_value for pair in both]
    # A comparison without a p value (no spread) counts in the family all the same.
    corrected = holm([1.0 if p is None else p for p in raw])
    rows = first.rows if metric.endswith("accuracy") else None
    compared = []
    for side, pair, p_value, level in zip(others, both, raw, corrected, strict=True):
        p = None if p_value is None else level
        judged = verdict(*pair, margin, p_corrected=p, paired=paired, test_rows=rows,
                         comparisons=len(others))  # fmt: skip
        if not rises:
            judged = _turned(judged)
        chance = probability_of_superiority(*pair, paired)
        compared.append(Compared(side.label, first.label, judged, chance, p))
    return compared


def _samples(
    side: Side, first: Side, larger_is_better: bool, paired: bool
) -> tuple[dict[int, float], dict[int, float]]:
    """Seed -> value, larger being better; of a pair, both or none."""
    sign = 1.0 if larger_is_better else -1.0
    lost = side.left_out | first.left_out | side.failed | first.failed
    own, against = (
        {seed: sign * v for seed, v in each.values.items() if not (paired and seed in lost)}
        for each in (side, first)
    )
    return own, against


def _turned(judged: Verdict) -> Verdict:
    """A verdict on losses times -1, in the losses themselves."""
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
    """A note on runs that diverged; they have no value."""
    if not side.failed:
        return ""
    of = len(side.failed) + len(side.values)
    return f"{side.label}: {len(side.failed)} of {of} runs diverged and do not count"


def _dead_note(side: Side, alive: bool) -> str:
    """A note on dead networks, which are left out if `alive`."""
    if not side.dead:
        return ""
    text = f"{side.label}: {len(side.dead)} of {len(side.values)} networks are dead"
    if not alive:
        return f"{text} and count like any other; --alive leaves them out"
    return f"{text} and left out: only networks that learn are compared"


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


def _own_metrics(paths: Sequence[Path]) -> dict[str, bool]:
    """The columns of metrics that the recipes of all folders have, and whether they should rise."""
    each = []
    for path in paths:
        record = read_runs(path, "compare")
        plain = record.config if isinstance(record, RunRecord) else record.plan["config"]
        each.append(Config.from_dict(plain).measured)
    shared = set.intersection(*map(set, each)) if each else set()
    return {name: rises for name, rises in (each[0] if each else {}).items() if name in shared}


def _sides(paths: Sequence[Path], metric: str) -> list[Side]:
    sides: dict[str, Side] = {}
    for path in paths:
        for recipe, name, row in _rows(path):
            shared = {key: row[key] for key in SHARED}
            known = json.dumps([recipe, shared], sort_keys=True)
            if known not in sides:
                config, setting, varied = recipe
                settings = settings_of(config, setting)
                sides[known] = Side(name, path, shared, settings, varied)
            _add(sides[known], row, metric)
    unique = list(sides.values())
    labels = side_labels(
        [side.label for side in unique], [side.settings for side in unique],
        [side.varied for side in unique], [side.path for side in unique],
    )  # fmt: skip
    for side, text in zip(unique, labels, strict=True):
        side.label = text
    return unique


def _add(side: Side, row: dict[str, Any], metric: str) -> None:
    seed = row["seed"]
    if seed in side.values or seed in side.failed:
        raise ConfigError(
            f"compare: seed {seed} of {side.label} is in more than one folder; give each run once"
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
    """(recipe without seed, name, row) of every run in the folder."""
    record = read_runs(path, "compare")
    if isinstance(record, RunRecord):
        recipe = [_seedless(record.config), {}, EVERYTHING]
        return [(recipe, record.name, record.summary)]
    config = _seedless(record.plan["config"])
    return [([config, row["setting"], row["vary"]], record.name, row) for row in record.rows]


def _seedless(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in decisive(config).items() if key != "seed"}
