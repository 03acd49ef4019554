"""One sample: published numbers, scipy's, and the coverage that the intervals promise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from flaxcnn.errors import ConfigError
from flaxcnn.studies.stats import (
    BOOTSTRAP_SEED,
    MIN_BOOTSTRAP,
    RESAMPLES,
    binomial_floor,
    summarize,
    variance_components,
)

# A simulated rate may lie this many of its own standard errors off: 1 such test in 700 fails by
# chance, and the seeds are fixed.
STANDARD_ERRORS = 3
ACCURACIES = [0.9713, 0.9701, 0.9722, 0.9708, 0.9719, 0.9695, 0.9727, 0.9711, 0.9706, 0.9731]
accuracy_lists = st.lists(st.integers(0, 10_000).map(lambda k: k / 10_000), min_size=1, max_size=30)


def slack(rate, cases):
    return STANDARD_ERRORS * math.sqrt(rate * (1 - rate) / cases)


# -- summarize -----------------------------------------------------------------------------------


def test_summary_is_scipys():
    result = summarize(ACCURACIES)
    low, high = stats.t.interval(0.95, 9, np.mean(ACCURACIES), stats.sem(ACCURACIES))
    assert result.t_interval == pytest.approx((low, high), rel=1e-12)
    assert result.sd == pytest.approx(stats.tstd(ACCURACIES), rel=1e-12)
    assert result.sem == pytest.approx(stats.sem(ACCURACIES), rel=1e-12)
    assert (result.n, result.mean) == (10, pytest.approx(np.mean(ACCURACIES), rel=1e-15))
    assert (result.min, result.max) == (0.9695, 0.9731)
    assert result.median == pytest.approx(0.9712, rel=1e-12)
    assert result.reasons == {}


def test_iqm_is_the_mean_of_the_middle_half():
    # rliable's definition: floor(n / 4) off each end (Agarwal et al. 2021)
    assert summarize([0, 10, 11, 12, 13, 14, 15, 100]).iqm == 12.5
    assert summarize([0.0, 1.0, 5.0]).iqm == 2.0  # floor(3 / 4) = 0: the mean


def test_bootstrap_interval_is_bca_at_hesterbergs_level():
    # Hesterberg (2015): alpha' / 2 = Phi(-sqrt(n / (n - 1)) t_{alpha / 2, n - 1})
    tail = stats.norm.cdf(-math.sqrt(10 / 9) * stats.t.ppf(0.975, 9))
    assert tail == pytest.approx(0.0086, abs=5e-5)
    expected = stats.bootstrap(
        (np.sort(ACCURACIES),),
        np.mean,
        confidence_level=1 - 2 * tail,
        n_resamples=RESAMPLES,
        method="BCa",
        batch=1000,
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    ).confidence_interval
    found = summarize(ACCURACIES).bootstrap_interval
    assert found == pytest.approx(tuple(expected), rel=1e-12)


def test_same_interval_in_any_order_and_each_time():
    interval = summarize(ACCURACIES).bootstrap_interval
    assert summarize(ACCURACIES[::-1]).bootstrap_interval == interval
    assert summarize(dict(enumerate(ACCURACIES))).bootstrap_interval == interval


def test_one_value_has_a_mean_only():
    result = summarize({7: 0.9})
    assert (result.n, result.mean, result.median, result.iqm) == (1, 0.9, 0.9, 0.9)
    assert (result.sd, result.sem) == (None, None)
    assert (result.t_interval, result.bootstrap_interval) == (None, None)
    assert set(result.reasons) == {"sd", "sem", "t_interval", "bootstrap_interval"}


@pytest.mark.parametrize("n", [2, 3, 30])
def test_equal_values_are_no_certainty(n):
    # 0.1 repeated: its mean is off by rounding, which must not become a spread
    result = summarize([0.1] * n)
    assert (result.sd, result.sem) == (0.0, 0.0)
    assert (result.t_interval, result.bootstrap_interval) == (None, None)
    assert "equal" in result.reasons["t_interval"]
    assert summarize([0.3, 0.1 + 0.2] * n).sd == 0.0  # 0.1 + 0.2 is the next number after 0.3


def test_no_bootstrap_of_few_values():
    few, enough = ACCURACIES[: MIN_BOOTSTRAP - 1], ACCURACIES[:MIN_BOOTSTRAP]
    assert summarize(few).bootstrap_interval is None
    assert summarize(few).t_interval is not None
    assert str(MIN_BOOTSTRAP) in summarize(few).reasons["bootstrap_interval"]
    assert summarize(enough).bootstrap_interval is not None


@settings(max_examples=50)
@given(accuracy_lists)
def test_fields_are_floats_and_intervals_have_width(values):
    result = summarize(values)
    for name in ("sd", "sem", "t_interval", "bootstrap_interval"):
        assert (getattr(result, name) is None) == (name in result.reasons)
    for name in ("mean", "median", "iqm", "min", "max"):
        assert type(getattr(result, name)) is float
    for interval in (result.t_interval, result.bootstrap_interval):
        if interval is not None:
            assert interval[0] < interval[1]
            assert all(type(bound) is float for bound in interval)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "values must have 1 or more numbers .got 0"),
        ({}, "values must have 1"),
        ([0.9, math.nan], r"values\[1\] must be a finite number \(got nan"),
        ({3: 0.9, 8: math.inf}, r"values\[8\] must be .*got inf"),
        (np.array([0.9, -np.inf], np.float32), r"values\[1\]"),
        ([0.9, None], r"values\[1\] must be .*got None"),
        (["0.9"], r"values\[0\] must be .*got '0.9'"),
        ([True], r"values\[0\] must be .*got True"),
        ([[0.9]], r"values\[0\] must be .*got \[0.9\]"),
    ],
)
def test_unusable_values_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        summarize(values)


DISTRIBUTIONS = {
    "normal": (lambda random, shape: random.normal(size=shape), 0.0),
    "exponential": (lambda random, shape: random.exponential(size=shape), 1.0),
}


def coverage(distribution, n, cases):
    draw, mean = DISTRIBUTIONS[distribution]
    sample = draw(np.random.default_rng(0), (cases, n))
    results = [summarize(values) for values in sample]
    return [
        np.mean([low <= mean <= high for low, high in intervals])
        for intervals in (
            [result.t_interval for result in results],
            [result.bootstrap_interval for result in results],
        )
    ]


# Nominal is 0.95. For exponential values (skewness 2) no interval reaches that with 10 of them;
# these are what was found in 5,000 cases, to be held. Plain BCa: 0.895 and 0.88.
COVERAGE = {"normal": (0.95, 0.942), "exponential": (0.90, 0.923)}


@pytest.mark.parametrize("distribution", COVERAGE)
@pytest.mark.parametrize("cases", [200, pytest.param(1500, marks=pytest.mark.slow)])
def test_intervals_of_ten_values_cover_the_mean(distribution, cases):
    for found, expected in zip(coverage(distribution, 10, cases), COVERAGE[distribution]):
        assert abs(found - expected) <= slack(expected, cases)


# -- binomial floor ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hits", "rows", "interval"),
    # Newcombe (1998), Statistics in Medicine 17:857, table I, method 3
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_interval_as_published(hits, rows, interval):
    assert binomial_floor(hits / rows, rows).interval == pytest.approx(interval, abs=5e-5)


@given(st.data(), st.integers(1, 10_000))
def test_wilson_interval_is_scipys(data, rows):
    hits = data.draw(st.integers(0, rows))
    expected = stats.binomtest(hits, rows).proportion_ci(method="wilson")
    found = binomial_floor(hits / rows, rows)
    assert found.interval == pytest.approx(tuple(expected), abs=1e-12)
    assert found.standard_error == pytest.approx(stats.binom.std(rows, hits / rows) / rows)
    assert found.interval[0] < found.interval[1]


@pytest.mark.parametrize(
    ("accuracy", "rows", "message"),
    [
        (98.1, 10_000, "accuracy must be from 0 to 1 .got 98.1"),
        (math.nan, 10_000, "accuracy must be .*got nan"),
        (0.9, 0, "test_rows must be an integer of at least 1 .got 0"),
        (0.9, 99.5, "test_rows must be .*got 99.5"),
    ],
)
def test_binomial_floor_refuses(accuracy, rows, message):
    with pytest.raises(ConfigError, match=message):
        binomial_floor(accuracy, rows)


# -- variance components -------------------------------------------------------------------------


def test_components_with_and_without_all():
    groups = {"init": [1.0, 2.0, 3.0], "order": [2.0, 4.0, 6.0], "all": [0.0, 5.0, 10.0]}
    rows = {row.source: row for row in variance_components(groups)}
    assert list(rows) == ["init", "order", "all"]
    assert [row.sd for row in rows.values()] == [1.0, 2.0, 5.0]
    assert [row.share for row in rows.values()] == pytest.approx([1 / 25, 4 / 25, 1.0])
    del groups["all"]
    assert [row.share for row in variance_components(groups)] == pytest.approx([0.2, 0.8])


def test_sd_interval_is_where_the_chi_square_test_stops():
    (row,) = variance_components({"init": ACCURACIES})
    low, high = row.sd_interval
    assert stats.chi2.sf(9 * row.sd**2 / low**2, 9) == pytest.approx(0.025)
    assert stats.chi2.cdf(9 * row.sd**2 / high**2, 9) == pytest.approx(0.025)


def test_sd_interval_covers_the_sd():
    cases = 2000
    sample = np.random.default_rng(1).normal(size=(cases, 5))
    rows = [variance_components({"init": values})[0] for values in sample]
    found = np.mean([row.sd_interval[0] <= 1 <= row.sd_interval[1] for row in rows])
    assert abs(found - 0.95) <= slack(0.95, cases)


def test_a_source_without_spread():
    init, order = variance_components({"init": [0.1, 0.1, 0.1], "order": [0.1, 0.2]})
    assert (init.sd, init.sd_interval, init.share) == (0.0, None, 0.0)
    assert init.reasons == {"sd_interval": "all values are equal"}
    assert order.share == 1.0
    (alone,) = variance_components({"init": [0.1, 0.1]})
    assert alone.share is None
    assert "share" in alone.reasons


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({}, "groups must have at least one source"),
        ({"init": [0.1]}, r"groups\['init'\] must have 2 or more numbers \(got 1"),
        ({"init": [0.1, math.nan]}, r"groups\['init'\]\[1\] must be .*got nan"),
    ],
)
def test_components_refuse(groups, message):
    with pytest.raises(ConfigError, match=message):
        variance_components(groups)
