"""Intervals of an accuracy on a number of rows, and of a mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

LEVEL = 0.95


def wilson(accuracy: float, rows: int) -> tuple[float, float]:
    """95 % interval of an accuracy on that many rows (Wilson 1927).

    >>> low, high = wilson(0.9, 100)
    >>> round(low, 3), round(high, 3)
    (0.826, 0.945)
    """
    square = NormalDist().inv_cdf((1 + LEVEL) / 2) ** 2
    middle = (accuracy + square / (2 * rows)) / (1 + square / rows)
    spread = accuracy * (1 - accuracy) / rows + square / (4 * rows**2)
    half = math.sqrt(square * spread) / (1 + square / rows)
    return max(0.0, middle - half), min(1.0, middle + half)


def student(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean of two or more values by Student's t; None where all are equal.

    >>> low, high = student([0.90, 0.92, 0.94])
    >>> round(low, 3), round(high, 3)
    (0.87, 0.97)
    """
    from scipy.stats import t  # half a second, which most commands need not wait for

    spread = stdev(values)
    if spread <= 0.0:
        return None
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * spread / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def clipped(ends: Sequence[float] | None) -> tuple[float, float] | None:
    """An accuracy's interval as it is shown: the part of it between 0 and 1.

    Student's interval of few or scattered seeds reaches beyond what an accuracy can be. Records,
    `--json` and verdicts keep it whole.

    >>> clipped((0.408, 1.037))
    (0.408, 1.0)
    """
    return None if ends is None else (max(ends[0], 0.0), min(ends[1], 1.0))
