"""Figures and settings in words: the same in tables, pages, README files and on a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

EVERYTHING = "all"  # the seed drives every source of randomness


def value_text(value: Any) -> str:
    """A setting's value as a person types it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def label(setting: Mapping[str, Any], vary: str = EVERYTHING) -> str:
    """The setting, and the source where only one varies: `learning_rate=0.1, init`."""
    words = [f"{key}={json.dumps(value)}" for key, value in setting.items()]
    return ", ".join([*words, *([vary] if vary != EVERYTHING else [])])


def figure(summary: Mapping[str, Any]) -> str:
    """`0.9894 ± 0.0007 [0.9888, 0.9899]`: mean, standard deviation, 95 % interval of the mean."""
    text = f"{summary['mean']:.4f}"
    if summary["sd"] is not None:
        text += f" ± {summary['sd']:.4f}"
    if (interval := summary["t_interval"]) is not None:
        text += f" [{interval[0]:.4f}, {interval[1]:.4f}]"
    return text


def variance_lines(found: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table of one setting's sources of randomness."""
    lines = [["source", "runs", f"sd of {found['metric']} [95 %]", "share of the variance"]]
    for each in found["components"]:
        interval = each["sd_interval"]
        lines.append([
            each["source"], str(each["n"]),
            f"{each['sd']:.5f}" + (f" [{interval[0]:.5f}, {interval[1]:.5f}]" if interval else ""),
            "-" if each["share"] is None else f"{each['share']:.0%}",
        ])  # fmt: skip
    return lines
