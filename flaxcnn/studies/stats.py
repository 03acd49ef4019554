"""One sample of a seed study: its mean with intervals, and where its spread comes from.

A sample is one number for each seed, as a sequence or as a mapping from seed to value. Accuracies
are shares (0 to 1). Nothing else here depends on the unit: results come in the unit of the values.

What cannot be known is None, with a sentence in `reasons`. An interval is never of zero width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np
from scipy import stats

from flaxcnn.errors import ConfigError
from flaxcnn.records.intervals import LEVEL, wilson

Sample: TypeAlias = Sequence[float] | Mapping[Any, float] | np.ndarray
Interval: TypeAlias = tuple[float, float]

# The usual level of intervals. The names of the fields below do not repeat it.
# The metrics of a run's row, and whether larger is better.
METRICS = {
    "test_accuracy": True, "val_accuracy": True, "train_accuracy": True,
    "test_loss": False, "val_loss": False, "train_loss": False,
}  # fmt: skip
# 9,999 and not 10,000, so that the percentiles fall on resamples (Davison & Hinkley 1997).
RESAMPLES = 9999
# Any number will do. That it is always the same makes the interval a function of the values.
BOOTSTRAP_SEED = 0
# With fewer values the widened tails lie beyond what resamples of the values can show.
MIN_BOOTSTRAP = 8
# Values this close, relative to their size, differ by rounding only: a mean of equal numbers is off
# by some 1e-16, while accuracies on a million rows differ by 1e-6.
ROUNDING = 1e-12


# -- reading samples -----------------------------------------------------------------------------


def read_sample(values: Sample, name: str, at_least: int = 1, what: str = "numbers") -> np.ndarray:
    """The values as [n] float64.

    Raises:
        ConfigError: too few values, or one that is not a finite number, named by seed or position.
    """
    items = values.items() if isinstance(values, Mapping) else enumerate(values)
    numbers = []
    for key, value in items:
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
            raise ConfigError(f"{name}[{key!r}] must be a finite number (got {value!r})")
        numbers.append(float(value))
    if len(numbers) < at_least:
        raise ConfigError(f"{name} must have {at_least} or more {what} (got {len(numbers)})")
    return np.array(numbers, np.float64)


def read_pairs(a: Sample, b: Sample) -> tuple[np.ndarray, np.ndarray]:
    """The values of two mappings from seed to value, both in the order of `a`'s seeds.

    Raises:
        ConfigError: no mapping, a seed without a partner, or what `read_sample` refuses.
    """
    first, second = _keyed(a, "a"), _keyed(b, "b")
    for name, side, other in (("a", first, second), ("b", second, first)):
        if lacking := [str(seed) for seed in other if seed not in side]:
            raise ConfigError(
                f"{name} has no value for seed {', '.join(lacking)}; both sides must have the same "
                "seeds"
            )
    ordered = {seed: second[seed] for seed in first}
    return (
        read_sample(first, "a", 2, "seeds a side"),
        read_sample(ordered, "b", 2, "seeds a side"),
    )


def _keyed(side: Sample, name: str) -> Mapping[Any, float]:
    if not isinstance(side, Mapping):
        raise ConfigError(
            f"{name} must be a mapping from seed to value, since pairs are made by seed (got "
            f"{type(side).__name__})"
        )
    return side


def variance(values: np.ndarray, size: float | None = None) -> float:
    """The variance of [n] values, n - 1 in the denominator; exactly 0 where they are all equal.

    Args:
        values: [n], n of 2 or more.
        size: magnitude of the numbers that rounding acted on, where the values are differences.
    """
    size = float(np.abs(values).max()) if size is None else size
    if float(np.ptp(values)) <= ROUNDING * size:
        return 0.0
    return float(values.var(ddof=1))


def check_share(value: float, name: str) -> None:
    """Refuse what does not lie strictly between 0 and 1 (a level, a power, a threshold)."""
    if not 0.0 < value < 1.0:
        raise ConfigError(f"{name} must be a number between 0 and 1 (got {value!r})")


def check_count(value: int, name: str) -> None:
    """Refuse what is not a whole number of at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{name} must be an integer of at least 1 (got {value!r})")


# -- one sample ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """Figures of one sample; `reasons` explains each field that is None."""

    n: int
    mean: float
    sd: float | None  # n - 1 in the denominator
    sem: float | None  # sd / sqrt(n)
    t_interval: Interval | None  # 95 % of the mean, Student's t
    bootstrap_interval: Interval | None  # 95 % of the mean, BCa
    median: float
    iqm: float
    min: float
    max: float
    reasons: dict[str, str]


def summarize(values: Sample) -> Summary:
    """Mean, spread and intervals of one number for each seed, in the unit of the values.

    The interquartile mean `iqm` leaves out floor(n / 4) values at each end (Agarwal et al. 2021,
    Deep Reinforcement Learning at the Edge of the Statistical Precipice).

    The bootstrap interval is BCa (Efron 1987). Plain BCa is too narrow for few values: in
    simulation it held the mean of 10 normal values 90 times in 100. So its level is raised by the
    factor that makes percentile intervals right for normal values (Hesterberg 2015, What Teachers
    Should Know about the Bootstrap); then it is 94 in 100. For exponential values it is 92, where
    Student's interval is 90.

    Raises:
        ConfigError: no values, or one that is not finite.
    """
    sample = read_sample(values, "values")
    n = len(sample)
    reasons: dict[str, str] = {}
    sd = sem = None
    t_interval = bootstrap_interval = None
    if n == 1:
        cause = "one value has no spread"
        reasons = dict.fromkeys(("sd", "sem", "t_interval", "bootstrap_interval"), cause)
    else:
        sd = math.sqrt(variance(sample))
        sem = sd / math.sqrt(n)
        if sd == 0.0:
            cause = "all values are equal, which does not show that the next one will be"
            reasons = dict.fromkeys(("t_interval", "bootstrap_interval"), cause)
        else:
            half = sem * float(stats.t.ppf((1 + LEVEL) / 2, n - 1))
            t_interval = (float(sample.mean()) - half, float(sample.mean()) + half)
            if n < MIN_BOOTSTRAP:
                reasons["bootstrap_interval"] = f"{n} values; it takes {MIN_BOOTSTRAP}"
            else:
                bootstrap_interval = _bootstrap_interval(sample)
    return Summary(
        n=n,
        mean=float(sample.mean()),
        sd=sd,
        sem=sem,
        t_interval=t_interval,
        bootstrap_interval=bootstrap_interval,
        median=float(np.median(sample)),
        iqm=float(stats.trim_mean(sample, 0.25)),
        min=float(sample.min()),
        max=float(sample.max()),
        reasons=reasons,
    )


def _bootstrap_interval(sample: np.ndarray) -> Interval:
    """BCa interval of the mean of [n] values that are not all equal."""
    n = len(sample)
    tail = stats.norm.sf(math.sqrt(n / (n - 1)) * stats.t.ppf((1 + LEVEL) / 2, n - 1))
    interval = stats.bootstrap(
        (np.sort(sample),),  # in the same order whatever the order of the seeds
        np.mean,
        confidence_level=1 - 2 * tail,
        n_resamples=RESAMPLES,
        method="BCa",
        batch=1000,  # bounds the memory; part of what the seed means
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class BinomialFloor:
    """What the choice of the test rows alone does to an accuracy."""

    standard_error: float
    interval: Interval  # 95 %, Wilson


def binomial_floor(accuracy: float, test_rows: int) -> BinomialFloor:
    """Standard error sqrt(p (1 - p) / n) of accuracy p on n rows, and Wilson's interval (1927).

    Two accuracies closer than this may differ by the choice of the test rows alone. More seeds
    do not help: they all see the same rows. At p = 0 or 1 the standard error is 0 by its formula,
    and the interval still has its width.

    Raises:
        ConfigError: accuracy outside 0 to 1, or test_rows not a whole number of at least 1.
    """
    if not 0.0 <= accuracy <= 1.0:
        raise ConfigError(f"accuracy must be from 0 to 1 (got {accuracy!r})")
    check_count(test_rows, "test_rows")
    p, n = float(accuracy), int(test_rows)
    # By formula, since scipy's takes whole numbers of hits and p may be a mean over seeds.
    return BinomialFloor(math.sqrt(p * (1 - p) / n), wilson(p, n))


def interval_of_sd(sd: float, df: int) -> Interval:
    """95 % interval of a standard deviation with so many degrees of freedom; of normal values."""
    tails = stats.chi2.ppf([(1 + LEVEL) / 2, (1 - LEVEL) / 2], df)
    low, high = sd * np.sqrt(df / tails)
    return float(low), float(high)


# -- sources of variance -------------------------------------------------------------------------


@dataclass(frozen=True)
class Component:
    """The spread while one source of randomness varies; `reasons` as in Summary."""

    source: str
    n: int
    mean: float
    sd: float
    sd_interval: Interval | None  # 95 %, chi-square; holds for normal values
    share: float | None  # of the variance of 'all', or of the sum of the sources without it
    reasons: dict[str, str]


def variance_components(groups: Mapping[str, Sample]) -> list[Component]:
    """A row for each source of randomness, in the order given.

    `groups` maps a source to the values measured while only it varied. The name 'all' is for
    values where everything varied. Shares of 'all' need not add up to 1: sources interact, and
    each share is an estimate.

    Raises:
        ConfigError: no group, fewer than 2 values in one, or one that is not finite.
    """
    if not groups:
        raise ConfigError("groups must have at least one source (got none)")
    samples = {
        source: read_sample(values, f"groups[{source!r}]", 2) for source, values in groups.items()
    }
    variances = {source: variance(sample) for source, sample in samples.items()}
    whole = variances.get("all", math.fsum(variances.values()))
    rows = []
    for source, sample in samples.items():
        reasons: dict[str, str] = {}
        sd = math.sqrt(variances[source])
        sd_interval = None
        if sd == 0.0:
            reasons["sd_interval"] = "all values are equal"
        else:
            sd_interval = interval_of_sd(sd, len(sample) - 1)
        share = variances[source] / whole if whole else None
        if share is None:
            reasons["share"] = "no variance to share"
        rows.append(
            Component(source, len(sample), float(sample.mean()), sd, sd_interval, share, reasons)
        )
    return rows
