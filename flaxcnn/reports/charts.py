"""Charts that a page draws from their data: values under the pointer, lines that can be hidden.

A `Chart` is data only. `charts.js` draws it at the width it has on the screen; without scripts, and
as a file, the `Picture` that it belongs to is shown as matplotlib has drawn it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DIGITS = 5  # that a value keeps: more than a screen has pixels

Values = Sequence[float] | np.ndarray  # NaN where there is none


@dataclass(frozen=True)
class Line:
    """One line, in the legend by its name; `each` are thin ones under it, `low` to `high` a band.

    `colour` is a name of `style.COLOURS`, `dash` as in SVG.
    """

    name: str
    x: Values
    y: Values
    colour: str
    dash: str = ""
    low: Values = ()
    high: Values = ()
    each: Mapping[str, Values] = field(default_factory=dict)  # name -> y at the first of `x`
    also: Mapping[str, Values] = field(default_factory=dict)  # name of another axis -> its values


@dataclass(frozen=True)
class Chart:
    """Lines over one axis.

    >>> Chart((Line("validation", [1, 2], [0.5, float("nan")], "validation"),), "epoch").json()
    '{"lines":[{"name":"validation","x":[1,2],"y":[0.5,null],"colour":"validation"}],"x":"epoch"}'
    """

    lines: Sequence[Line]
    x: str = ""  # what the horizontal axis has
    y: str = ""  # what the vertical one has, where the title does not say it
    percent: bool = False  # shares: shown as percent; the log scale is that of 1 - share
    log: bool = False  # whether a log scale makes sense: a button offers it
    mark: tuple[float, str] | None = None  # a vertical line and what it says
    levels: Sequence[tuple[float, str]] = ()  # horizontal lines and what they say
    points: Sequence[tuple[float, float, str, str]] = ()  # x, y, name, colour

    def json(self) -> str:
        """What the script reads; equal for equal data."""
        lines = [_without_empty(vars(line)) for line in self.lines]
        return json.dumps(
            _plain({**_without_empty(vars(self)), "lines": lines}),
            separators=(",", ":"), ensure_ascii=False,
        )  # fmt: skip


def _without_empty(fields: Mapping[str, Any]) -> dict[str, Any]:
    empty = lambda value: len(value) == 0 if hasattr(value, "__len__") else not value  # noqa: E731
    return {key: value for key, value in fields.items() if not empty(value)}


def _plain(value: Any) -> Any:
    """Values as JSON has them, rounded; what is not finite is null."""
    if isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if hasattr(value, "__len__"):
        return [_plain(one) for one in value]
    number = float(value)
    if not math.isfinite(number):
        return None
    short = float(f"{number:.{DIGITS}g}")
    return int(short) if short.is_integer() else short
