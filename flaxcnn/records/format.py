"""Figures and settings as text: the same in tables, pages, README files and on a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flaxcnn.records.intervals import clipped

EVERYTHING = "all"  # the seed drives every source of randomness
UNCHANGED = "unchanged"  # label of a recipe with no setting changed
FOLD_KEYS = ("fold", "repeat")  # of a run of a search: where it is scored, not what is tried


def value_text(value: Any) -> str:
    """A setting's value as a person types it: text unquoted, anything else as JSON.

    >>> value_text("sgd"), value_text(None)
    ('sgd', 'null')
    """
    return value if isinstance(value, str) else json.dumps(value)


def label(setting: Mapping[str, Any], vary: str = EVERYTHING) -> str:
    """The settings, and the source of randomness where only one varies.

    >>> label({"learning_rate": 0.1}, "init")
    'learning_rate=0.1, init'
    """
    words = [f"{key}={json.dumps(value)}" for key, value in setting.items()]
    return ", ".join([*words, *([vary] if vary != EVERYTHING else [])])


def candidate_label(setting: Mapping[str, Any]) -> str:
    """What tells a candidate of a search from the others, from the setting of one of its runs.

    >>> candidate_label({"epochs": 20, "fold": 0, "repeat": 1})
    'epochs=20'
    >>> candidate_label({})
    'unchanged'
    """
    own = {key: value for key, value in setting.items() if key not in FOLD_KEYS}
    return label(own) or UNCHANGED


def verdict_text(verdict: str) -> str:
    """A verdict as a person reads it; records and `--json` have `not shown`."""
    return "no difference found" if verdict == "not shown" else verdict


def interval_text(interval: tuple[float, float] | list[float] | None) -> str:
    """`[0.9888, 0.9899]`, or nothing."""
    return f"[{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""


def figure(
    mean: float | None, sd: float | None, interval: tuple[float, float] | list[float] | None
) -> str:
    """Mean ± standard deviation [95 % interval of the mean] of an accuracy, clipped to 0 and 1.

    >>> figure(0.98942, 0.00071, (0.98883, 0.98991))
    '0.9894 ± 0.0007 [0.9888, 0.9899]'
    """
    if mean is None:
        return "-"
    spread = "" if sd is None else f"± {sd:.4f}"
    return " ".join(filter(None, [f"{mean:.4f}", spread, interval_text(clipped(interval))]))


def p_text(p: float | None) -> str:
    """`p 0.012`, `p < 0.001`, or nothing."""
    return "" if p is None else "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def count_text(number: int, noun: str) -> str:
    """A number and its noun.

    >>> count_text(1, "run"), count_text(2, "run")
    ('1 run', '2 runs')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
