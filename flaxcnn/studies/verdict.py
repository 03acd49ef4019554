"""What a comparison of seeds allows to say, and how many seeds it would take to say more.

A verdict rests on the p value of Welch's t test, or of the paired t test. These guards only ever
raise it, where few seeds make it too small:

- Unequal numbers of seeds: Student's pooled p value must agree. In simulation Welch's alone called
  equal, skewed distributions different in up to 60 of 100 cases (2 seeds against 30): the few seeds
  were alike by chance.
- A constant side: no p value below the smallest that a permutation test can reach. Two or three
  equal values do not show that there is no spread.
- No spread at all, so no t test: the same smallest p value, and Fisher's exact test of the hits on
  the test rows. Without the number of test rows, nothing is shown.

With them, 3 seeds a side or more and alpha of 5 %, equal distributions were called different in at
most 5.5 of 100 cases: normal, skewed, tied or two-valued (40,000 cases each). With 2 seeds a side
the level rests on the values being normal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from scipy import stats

from flaxcnn.errors import ConfigError
from flaxcnn.studies.contrasts import (
    Comparison,
    Equivalence,
    compare_paired,
    compare_unpaired,
    equivalence,
)
from flaxcnn.studies.stats import ROUNDING, Sample, binomial_floor, check_share

# Past this number of seeds a side, a difference is too small to matter or to pay for.
MAX_SEEDS = 1000
# Power is 1 long before this, and scipy's noncentral t has no value far beyond it.
MAX_NONCENTRALITY = 1e4
# No table of comparisons is larger; a bound keeps the level of the power above 0.
MAX_CORRECTION = 1e6

# -- power ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SeedsNeeded:
    """Seeds a side (pairs, where paired); None with the reason if no number is enough."""

    seeds: int | None
    power: float | None  # with that many
    reason: str | None


def seeds_needed(
    difference: float, sd_a: float, sd_b: float, power: float = 0.8, alpha: float = 0.05
) -> SeedsNeeded:
    """Seeds a side with which Welch's two-sided test finds a true difference this often.

    The smallest n with enough power by the noncentral t distribution, of Satterthwaite's degrees of
    freedom at the true standard deviations. As in R's power.t.test, a finding of the wrong sign
    does not count as power.

    Raises:
        ConfigError: a negative sd, a number that is not finite, or power or alpha outside 0 to 1.
    """
    _check_power(difference, {"sd_a": sd_a, "sd_b": sd_b}, power, alpha)
    total = math.hypot(sd_a, sd_b)
    if difference == 0.0 or total == 0.0:
        return _unanswerable(difference)
    share = (sd_a / total) ** 2
    spread = share**2 + (1 - share) ** 2

    def attained(n: int) -> float:
        return _power((n - 1) / spread, abs(difference) / total * math.sqrt(n), alpha)

    return _smallest(attained, power)


def seeds_needed_paired(
    difference: float, sd_difference: float, power: float = 0.8, alpha: float = 0.05
) -> SeedsNeeded:
    """Pairs with which the paired two-sided t test finds a true difference this often.

    `sd_difference` is the standard deviation of the differences at the same seed.

    Raises:
        ConfigError: as for `seeds_needed`.
    """
    _check_power(difference, {"sd_difference": sd_difference}, power, alpha)
    if difference == 0.0 or sd_difference == 0.0:
        return _unanswerable(difference)

    def attained(n: int) -> float:
        return _power(n - 1, abs(difference) / sd_difference * math.sqrt(n), alpha)

    return _smallest(attained, power)


def attained_power(n: int, difference: float, sd: float, paired: bool, alpha: float) -> float:
    """How often n seeds a side, or n pairs, find a true difference.

    `sd` is that of a run on either side, or that of the difference at a seed where paired.
    """
    df, spread = (n - 1, sd) if paired else (2 * (n - 1), sd * math.sqrt(2))
    return _power(df, abs(difference) / spread * math.sqrt(n), alpha)


def _check_power(difference: float, sds: dict[str, float], power: float, alpha: float) -> None:
    check_share(power, "power")
    check_share(alpha, "alpha")
    if not math.isfinite(difference):
        raise ConfigError(f"difference must be a finite number (got {difference!r})")
    for name, sd in sds.items():
        if not 0.0 <= sd < math.inf:
            raise ConfigError(f"{name} must be a finite number of at least 0 (got {sd!r})")


def _unanswerable(difference: float) -> SeedsNeeded:
    what = "no difference to find" if difference == 0.0 else "no spread to measure it by"
    return SeedsNeeded(None, None, what)


def _power(df: float, noncentrality: float, alpha: float) -> float:
    critical = stats.t.ppf(1 - alpha / 2, df)
    return float(stats.nct.sf(critical, df, min(noncentrality, MAX_NONCENTRALITY)))


def _smallest(attained: Callable[[int], float], power: float) -> SeedsNeeded:
    """The smallest n of 2 or more with enough power, which grows with n."""
    low, high = 2, MAX_SEEDS
    if attained(high) < power:
        return SeedsNeeded(None, None, f"more than {MAX_SEEDS} seeds a side")
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if attained(middle) >= power else (middle + 1, high)
    return SeedsNeeded(low, attained(low), None)


# -- verdict -------------------------------------------------------------------------------------

Word: TypeAlias = Literal["better", "worse", "equivalent", "not shown"]


@dataclass(frozen=True)
class Verdict:
    """The verdict on a against b, and what it rests on."""

    verdict: Word
    reason: str
    comparison: Comparison
    p_value: float | None  # that decided: corrected and guarded
    margin: float | None  # of equivalence, in the unit of the values
    equivalence: Equivalence | None
    seeds: SeedsNeeded  # a side for 80 % power, if observed difference and spread are the true ones
    more_seeds: int | None  # a side, beyond those of the smaller side; where not shown


def verdict(
    a: Sample,
    b: Sample,
    margin: float | None = None,
    alpha: float = 0.05,
    p_corrected: float | None = None,
    paired: bool = False,
    test_rows: int | None = None,
    comparisons: int = 1,
) -> Verdict:
    """Whether a is better than b (larger is better), worse, equivalent, or nothing is shown.

    Better or worse: the guarded p value (see the top) is below alpha. Equivalent: it is not, and
    TOST within the margin has p below alpha.

    Args:
        a: one value for each seed; a mapping from seed where paired.
        b: the same.
        margin: the largest difference of no interest, in the unit of the values. Without it, the
            binomial standard error of the mean accuracy on `test_rows`; without both, equivalence
            is not tested.
        alpha: level of every test here.
        p_corrected: the comparison's p value after `holm`, where it was one of several.
        paired: whether the same seed makes a pair.
        test_rows: number of rows that the values are accuracies on.
        comparisons: how many there are in all; raises the p value of sides without spread, which
            have none that `holm` could correct.

    Raises:
        ConfigError: fewer than 2 seeds a side, unpaired seeds, a value that is not finite or no
            accuracy, a margin not above 0, or a `p_corrected` below the p value it corrects.
    """
    check_share(alpha, "alpha")
    comparison = compare_paired(a, b) if paired else compare_unpaired(a, b)
    if test_rows is not None:
        floor = binomial_floor((comparison.mean_a + comparison.mean_b) / 2, test_rows)
        margin = (floor.standard_error or None) if margin is None else margin
    tost = None if margin is None else equivalence(a, b, margin, alpha, paired)
    factor = _correction(comparison.p_value, p_corrected)
    if comparison.p_value is None:
        factor = float(comparisons)
    p_value, note = _deciding_p(comparison, factor, test_rows)
    if p_value is not None and p_corrected is not None:
        p_value = max(p_value, float(p_corrected))
    seeds = _seeds(comparison, alpha / factor)
    word, reason = _word(comparison.difference, p_value, alpha, tost, note)
    more = None
    if word == "not shown" and seeds.seeds is not None:
        more = max(1, seeds.seeds - min(comparison.n_a, comparison.n_b))
    return Verdict(word, reason, comparison, p_value, margin, tost, seeds, more)


def _word(
    difference: float, p_value: float | None, alpha: float, tost: Equivalence | None, note: str
) -> tuple[Word, str]:
    """The verdict and a sentence that says why."""
    within = tost is not None and tost.equivalent
    if p_value is not None and p_value < alpha:
        reason = f"p = {p_value:.2g} is below {alpha:g}"
        reason += ", but the difference is within the margin" if within else ""
        return ("better" if difference > 0 else "worse"), reason
    if tost is not None and within:
        return "equivalent", f"p = {tost.p_value:.2g} of a difference beyond {tost.margin:.2g}"
    if p_value is None:
        return "not shown", note
    return "not shown", f"p = {p_value:.2g} is not below {alpha:g}{note}"


def _correction(p_value: float | None, p_corrected: float | None) -> float:
    """How many times the p value was raised for the number of comparisons."""
    if p_corrected is None:
        return 1.0
    if not 0.0 <= p_corrected <= 1.0:
        raise ConfigError(f"p_corrected must be from 0 to 1 (got {p_corrected!r})")
    if not p_value:
        return 1.0
    if p_corrected < p_value * (1 - ROUNDING):
        raise ConfigError(
            f"p_corrected must be at least {p_value!r}, the p value that it corrects (got "
            f"{p_corrected!r})"
        )
    return max(1.0, min(p_corrected / p_value, MAX_CORRECTION))


def _deciding_p(
    comparison: Comparison, factor: float, test_rows: int | None
) -> tuple[float | None, str]:
    """The p value with the guards from the top, times the factor, and a note on what raised it."""
    n_a, n_b = comparison.n_a, comparison.n_b
    # Of all ways to give the values to the sides (or, paired, the signs to the differences), at
    # least the observed one and its mirror image are as extreme.
    permutation = 2 / 2**n_a if comparison.paired else 2 / math.comb(n_a + n_b, n_a)
    p_value = comparison.p_value
    if p_value is None:
        cause = comparison.reasons["p_value"]
        if test_rows is None:
            return None, f"{cause}, and test_rows is not given"
        hits = [round(mean * test_rows) for mean in (comparison.mean_a, comparison.mean_b)]
        # Both sides saw the same rows, which makes this test the more careful.
        fisher = stats.fisher_exact([hits, [test_rows - each for each in hits]]).pvalue
        return min(1.0, max(permutation, float(fisher)) * factor), f" ({cause})"
    note = ""
    if not comparison.paired:
        sides = (comparison.mean_a, comparison.sd_a, n_a, comparison.mean_b, comparison.sd_b, n_b)
        student = float(stats.ttest_ind_from_stats(*sides).pvalue) if n_a != n_b else 0.0
        if student > p_value:
            p_value, note = student, " (pooled, since one side has fewer seeds)"
        if 0.0 in (comparison.sd_a, comparison.sd_b) and permutation > p_value:
            p_value, note = permutation, " (one side constant, few seeds)"
    return min(1.0, p_value * factor), note


def _seeds(comparison: Comparison, alpha: float) -> SeedsNeeded:
    """Seeds a side for 80 % power, if what was observed is true."""
    if comparison.paired:
        sd = comparison.standard_error * math.sqrt(comparison.n_a)
        return seeds_needed_paired(comparison.difference, sd, alpha=alpha)
    return seeds_needed(comparison.difference, comparison.sd_a, comparison.sd_b, alpha=alpha)
