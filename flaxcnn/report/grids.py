"""A grid of any number of settings as a table with two sides, for a heat map."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

MOST_COLUMNS = 12  # of a table that can still be read

Side = tuple[str, list[str]]  # names of its settings, and what they are in each row or column


class Layout(NamedTuple):
    """What a heat map shows: `means` [rows, columns], NaN where there is no point."""

    rows: Side
    columns: Side
    means: np.ndarray


def layout(points: Sequence[tuple[Mapping[str, str], float]]) -> Layout | None:
    """Points of a grid, each with the texts of its settings and its mean, laid out as a table.

    Settings that differ make its sides: of more than two, the first ones together are the rows, and
    the others the columns. None for fewer than two, and for a table too wide to read. A point that
    lacks a setting has no place.
    """
    names = list(dict.fromkeys(name for settings, _ in points for name in settings))
    values = {
        name: list(dict.fromkeys(found[name] for found, _ in points if name in found))
        for name in names
    }
    axes = [name for name in names if len(values[name]) > 1]
    if len(axes) < 2:
        return None
    cut = _cut([len(values[name]) for name in axes])
    sides = axes[:cut], axes[cut:]
    rows, columns = (
        {", ".join(place): number
         for number, place in enumerate(itertools.product(*(values[name] for name in side)))}
        for side in sides
    )  # fmt: skip
    if len(columns) > MOST_COLUMNS:
        return None
    means = np.full((len(rows), len(columns)), np.nan)
    for found, mean in points:
        if all(name in found for name in axes):
            row, column = (", ".join(found[name] for name in side) for side in sides)
            means[rows[row], columns[column]] = mean
    return Layout((", ".join(sides[0]), [*rows]), (", ".join(sides[1]), [*columns]), means)


def _cut(counts: Sequence[int]) -> int:
    """How many of the axes are rows, so that the table is as square as it can be."""
    longest = lambda cut: max(math.prod(counts[:cut]), math.prod(counts[cut:]))  # noqa: E731
    return min(range(1, len(counts)), key=longest)
