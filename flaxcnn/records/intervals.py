"""The interval of an accuracy on a number of rows, without importing scipy."""

from __future__ import annotations

import math
from statistics import NormalDist

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
