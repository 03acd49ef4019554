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

    Settings that differ make its two sides. Of more than two, the first ones together are the rows
    and the others the columns, or the reverse if that leaves too many columns. None for fewer than
    two, or if the table is too wide to read. A point that lacks a setting is left out.
    """
    names = list(dict.fromkeys(name for settings, _ in points for name in settings))
    values = {
        name: list(dict.fromkeys(setting[name] for setting, _ in points if name in setting))
        for name in names
    }
    axes = [name for name in names if len(values[name]) > 1]
    if len(axes) < 2:
        return None
    cut = _cut([len(values[name]) for name in axes])
    sides = [axes[:cut], axes[cut:]]
    count = lambda side: math.prod(len(values[name]) for name in side)  # noqa: E731
    if count(sides[1]) > MOST_COLUMNS:
        sides.reverse()
    if count(sides[1]) > MOST_COLUMNS:
        return None
    places = [list(itertools.product(*(values[name] for name in side))) for side in sides]
    means = np.full((len(places[0]), len(places[1])), np.nan)
    for setting, mean in points:
        if all(name in setting for name in axes):
            row, column = (
                side_values.index(tuple(setting[name] for name in side))
                for side, side_values in zip(sides, places, strict=True)
            )
            means[row, column] = mean
    rows, columns = (
        (", ".join(side), [", ".join(texts) for texts in side_values])
        for side, side_values in zip(sides, places, strict=True)
    )
    return Layout(rows, columns, means)


def _cut(counts: Sequence[int]) -> int:
    """How many of the axes are rows, so that the table is as square as it can be."""
    longest = lambda cut: max(math.prod(counts[:cut]), math.prod(counts[cut:]))  # noqa: E731
    return min(range(1, len(counts)), key=longest)
