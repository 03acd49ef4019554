"""Whether our runs of a recipe give the figure that a document reports. Pure: numbers in, word out.

The document's figure is one more run of the recipe on (nearly) the same test rows. If the recipe is
the same, it falls into the 95 % prediction interval of one more value after n values (Hahn and
Meeker 1991, Statistical Intervals):

    mean +- t(n - 1) * sd * sqrt(1 + 1 / n)

That half width is never below 1.96 * sqrt(p (1 - p) / N), what the choice of N test rows alone does
to an accuracy p, our mean: seeds see the same rows, so their spread does not hold it. To either,
half a unit of the last digit that the document prints is added.

One or two runs have no spread to speak of. The binomial standard error stands in for sd, with 1.96
for t. Since it only stands in, a difference between one and two such half widths settles nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from scipy import stats

from flaxcnn.records.intervals import LEVEL
from flaxcnn.studies.stats import Interval, binomial_floor, summarize

Word: TypeAlias = Literal["reproduced", "not reproduced", "better", "cannot be told"]

FEW = 3  # runs: with fewer, their spread is not known
DOUBT = 2  # half widths up to which so few settle nothing


@dataclass(frozen=True)
class Judged:
    """A verdict and its reason."""

    verdict: Word
    reason: str
    difference: float | None = None  # ours minus the document's
    interval: Interval | None = None  # in which the document's figure is reproduced


def judge(values: Sequence[float], reported: float | None, rows: int, digits: int) -> Judged:
    """Whether a document's accuracy is reproduced by ours of the same kind.

    Args:
        values: our accuracies, one per seed.
        reported: the document's; None if it has none.
        rows: test rows, N above.
        digits: decimals that the document prints.

    Returns:
        `reproduced` inside the interval, `better` if ours are above it, `not reproduced` if they
        are below, `cannot be told` without runs or figure, or in the zone of doubt.

    Raises:
        ConfigError: a value that is not finite, or a mean that is no accuracy.
    """
    if reported is None:
        return Judged("cannot be told", "the document gives no figure to compare with")
    if not values:
        return Judged("cannot be told", "none of our runs learns")
    n, mean = len(values), sum(values) / len(values)
    half = half_width(values, rows, digits)
    difference = mean - reported
    low, high = max(0.0, mean - half), min(1.0, mean + half)
    shown = f"{reported:.{digits}f}"
    ends = f"{low:.4f} to {high:.4f}"
    by = f"n = {n}" if n >= FEW else f"n = {n}, spread taken from {rows:,} test rows"
    word: Word
    if abs(difference) <= half:
        word, reason = "reproduced", f"{shown} is where one more run would be, {ends} ({by})"
    elif n < FEW and abs(difference) <= DOUBT * half:
        word = "cannot be told"
        reason = f"{shown} is a little outside {ends} ({by}); {FEW} seeds would decide"
    else:
        word = "better" if difference > 0 else "not reproduced"
        where = "below" if difference > 0 else "above"
        reason = f"{shown} is {where} {ends}, where one more run would be ({by})"
    return Judged(word, reason, difference, (low, high))


def half_width(values: Sequence[float], rows: int, digits: int) -> float:
    """Of the interval at the top of this file, in the unit of the values.

    Raises:
        ConfigError: as `judge`.
    """
    summary = summarize(values)
    error = binomial_floor(summary.mean, rows).standard_error
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    if summary.n < FEW or summary.sd is None:
        half = z * error * math.sqrt(1 + 1 / summary.n)
    else:
        t = float(stats.t.ppf((1 + LEVEL) / 2, summary.n - 1))
        half = max(t * summary.sd * math.sqrt(1 + 1 / summary.n), z * error)
    return half + 0.5 * 10.0**-digits
