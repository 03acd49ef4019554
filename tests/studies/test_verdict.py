"""Power as published, and verdicts that are wrong no more often than they say."""

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flaxcnn.errors import ConfigError
from flaxcnn.studies.contrasts import compare_unpaired, holm
from flaxcnn.studies.verdict import MAX_SEEDS, seeds_needed, seeds_needed_paired, verdict

# A simulated rate may lie this many of its own standard errors off: 1 such test in 700 fails by
# chance, and the seeds are fixed.
STANDARD_ERRORS = 3
LEVEL = 0.05
samples = st.lists(st.integers(9000, 9020).map(lambda k: k / 10_000), min_size=2, max_size=12)


def seeded(values):
    return dict(enumerate(values))


def slack(rate, cases):
    return STANDARD_ERRORS * math.sqrt(rate * (1 - rate) / cases)


# -- power ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "sd", "seeds"),
    # R: power.t.test(delta =, sd =, power = 0.8), n = 16.71477 and 63.76576
    [(1.0, 1.0, 17), (-1.0, 1.0, 17), (0.5, 1.0, 64), (0.0005, 0.001, 64)],
)
def test_seeds_needed_as_in_r(difference, sd, seeds):
    result = seeds_needed(difference, sd, sd)
    assert result.seeds == seeds
    assert result.power >= 0.8
    assert result.reason is None


def test_power_is_that_of_r():
    # R: power.t.test(n = 20, delta = 1, sd = 1) has power = 0.8689528
    assert seeds_needed(1.0, 1.0, 1.0, power=0.86895).seeds == 20
    assert seeds_needed(1.0, 1.0, 1.0, power=0.86896).seeds == 21
    assert seeds_needed(1.0, 1.0, 1.0, power=0.86895).power == pytest.approx(0.8689528, abs=5e-8)


def test_pairs_needed_as_in_r():
    # R: power.t.test(delta = 0.5, sd = 1, power = 0.8, type = "paired"), n = 33.36713
    assert seeds_needed_paired(0.5, 1.0).seeds == 34


def test_power_is_what_simulation_finds():
    # Unequal spreads, where no published table exists: sd 0.001 and 0.003.
    needed = seeds_needed(0.002, 0.001, 0.003)
    cases = 4000
    random = np.random.default_rng(0)
    a = random.normal(0.002, 0.001, (cases, needed.seeds))
    b = random.normal(0.0, 0.003, (cases, needed.seeds))
    p_values = stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue
    assert abs(np.mean(p_values < 0.05) - needed.power) <= slack(0.8, cases)


def welch_power(n, difference, sd_a, sd_b):
    errors2 = (sd_a**2 / n, sd_b**2 / n)
    df = sum(errors2) ** 2 * (n - 1) / (errors2[0] ** 2 + errors2[1] ** 2)
    critical = stats.t.ppf(0.975, df)
    return stats.nct.sf(critical, df, min(1e3, difference / math.sqrt(sum(errors2))))


@given(st.floats(1e-5, 1e5), st.floats(0, 1e5), st.floats(1e-5, 1e5), st.floats(0.01, 0.99))
def test_seeds_needed_is_the_smallest(difference, sd_a, sd_b, power):
    result = seeds_needed(difference, sd_a, sd_b, power)
    if result.seeds is None:
        assert str(MAX_SEEDS) in result.reason
        assert welch_power(MAX_SEEDS, difference, sd_a, sd_b) < power + 1e-9
    else:
        assert 2 <= result.seeds <= MAX_SEEDS
        assert welch_power(result.seeds, difference, sd_a, sd_b) > power - 1e-9
        if result.seeds > 2:
            assert welch_power(result.seeds - 1, difference, sd_a, sd_b) < power + 1e-9
    other = seeds_needed(-difference, sd_b, sd_a, power)
    assert other.seeds == result.seeds
    assert result.seeds is None or other.power == pytest.approx(result.power, rel=1e-9)


def test_no_number_of_seeds_will_do():
    assert seeds_needed(0.0, 1.0, 1.0).seeds is None
    assert "no difference" in seeds_needed(0.0, 1.0, 1.0).reason
    assert "no spread" in seeds_needed(1.0, 0.0, 0.0).reason
    assert "no spread" in seeds_needed_paired(1.0, 0.0).reason
    assert "1000 seeds" in seeds_needed(0.01, 1.0, 1.0).reason


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((math.nan, 1.0, 1.0), "difference must be .*got nan"),
        ((1.0, -1.0, 1.0), "sd_a must be .*got -1.0"),
        ((1.0, 1.0, math.inf), "sd_b must be .*got inf"),
        ((1.0, 1.0, 1.0, 1.0), "power must be a number between 0 and 1 .got 1.0"),
        ((1.0, 1.0, 1.0, 0.8, 0.0), "alpha must be .*got 0.0"),
    ],
)
def test_power_refuses(arguments, message):
    with pytest.raises(ConfigError, match=message):
        seeds_needed(*arguments)


# -- verdict -------------------------------------------------------------------------------------

LOW = [0.970, 0.971, 0.972, 0.973, 0.974]
HIGH = [0.980, 0.981, 0.982, 0.983, 0.984]


def test_four_words():
    assert verdict(HIGH, LOW).verdict == "better"
    assert verdict(LOW, HIGH).verdict == "worse"
    assert verdict(LOW, LOW[::-1], margin=0.005).verdict == "equivalent"
    assert verdict(LOW, LOW[::-1]).verdict == "not shown"
    assert verdict(LOW, LOW[::-1], margin=0.0001).verdict == "not shown"


def test_paired_sees_what_unpaired_does_not():
    a = seeded(value + 0.0005 + 0.0001 * (seed % 2) for seed, value in enumerate(LOW))
    b = seeded(LOW)
    assert verdict(a, b).verdict == "not shown"
    assert verdict(a, b, paired=True).verdict == "better"


def test_margin_is_the_binomial_error_of_the_test_rows():
    result = verdict(LOW, LOW[::-1], test_rows=1000)
    assert result.margin == pytest.approx(math.sqrt(0.972 * 0.028 / 1000))
    assert result.verdict == "equivalent"
    assert verdict(LOW, LOW[::-1], test_rows=10**7).verdict == "not shown"
    assert verdict(LOW, LOW[::-1], margin=1e-4, test_rows=1000).margin == 1e-4


def test_significant_within_the_margin_says_both():
    result = verdict(HIGH, LOW, margin=0.05)
    assert result.verdict == "better"
    assert "within the margin" in result.reason


def test_corrected_p_decides():
    raw = compare_unpaired(HIGH, LOW).p_value
    corrected = holm([raw, 0.9])[0]
    assert verdict(HIGH, LOW, p_corrected=corrected).p_value == pytest.approx(2 * raw)
    lost = verdict(HIGH, LOW, p_corrected=0.2)
    assert lost.verdict == "not shown"
    assert lost.p_value == 0.2
    # The seeds needed are for the corrected level.
    assert lost.seeds.seeds > verdict(HIGH, LOW).seeds.seeds
    with pytest.raises(
        ConfigError, match=r"p_corrected must be at least .*the p value that it corrects"
    ):
        verdict(LOW, LOW[::-1], p_corrected=0.01)
    with pytest.raises(ConfigError, match=r"p_corrected must be .*got nan"):
        verdict(LOW, HIGH, p_corrected=math.nan)


def test_more_seeds_by_the_observed_difference():
    a, b = LOW, [value - 0.001 for value in LOW]
    result = verdict(a, b)
    needed = seeds_needed(0.001, np.std(a, ddof=1), np.std(b, ddof=1)).seeds
    assert result.verdict == "not shown"
    assert result.more_seeds == needed - 5
    assert verdict(HIGH, LOW).more_seeds is None
    hopeless = verdict(LOW, [value - 1e-5 for value in LOW])
    assert hopeless.more_seeds is None
    assert str(MAX_SEEDS) in hopeless.seeds.reason


def test_more_pairs_by_the_spread_of_the_differences():
    a = seeded(value + 0.001 * (seed % 2) for seed, value in enumerate(LOW))
    differences = [a[seed] - value for seed, value in enumerate(LOW)]
    needed = seeds_needed_paired(np.mean(differences), np.std(differences, ddof=1)).seeds
    result = verdict(a, seeded(LOW), paired=True)
    assert (result.verdict, result.more_seeds) == ("not shown", needed - 5)


def test_more_seeds_are_counted_from_the_smaller_side():
    result = verdict(LOW + LOW, [value - 0.001 for value in LOW])
    assert result.verdict == "not shown"
    assert result.more_seeds == result.seeds.seeds - 5


def test_correction_applies_to_the_guarded_p():
    few, many = [0.971, 0.972, 0.971], [value - 0.003 for value in LOW + LOW]
    raw = compare_unpaired(few, many).p_value
    student = stats.ttest_ind(few, many).pvalue
    assert student > raw
    assert verdict(few, many).p_value == pytest.approx(student)
    assert verdict(few, many, p_corrected=2 * raw).p_value == pytest.approx(2 * student)
    # However large the correction, a p value is at most 1 and there is a power to compute.
    assert verdict(few, many, p_corrected=1.0).p_value == 1.0
    precise = np.linspace(0.0, 1e-9, 30)
    assert verdict(precise + 0.5, precise, p_corrected=1.0).p_value == 1.0


def test_constants_show_nothing_by_themselves():
    result = verdict([0.98] * 5, [0.97] * 5)
    assert (result.verdict, result.p_value, result.more_seeds) == ("not shown", None, None)
    assert "test_rows is not given" in result.reason
    assert "no spread" in result.seeds.reason


def test_constants_against_the_test_rows():
    # 9,800 and 9,700 of 10,000 rows differ by Fisher's test; 98 and 97 of 100 do not.
    a, b = [0.98] * 5, [0.97] * 5
    assert verdict(a, b, test_rows=10_000).verdict == "better"
    assert verdict(b, a, test_rows=10_000).verdict == "worse"
    assert verdict(a, b, test_rows=100).verdict == "not shown"
    assert verdict(a, a, test_rows=10_000).verdict == "not shown"
    assert verdict(a, b, test_rows=10_000, p_corrected=1.0).verdict == "not shown"
    # 3 equal values against 3: every 10th relabelling separates them as well.
    few = verdict(a[:3], b[:3], test_rows=10_000)
    assert (few.verdict, few.p_value) == ("not shown", pytest.approx(0.1))
    pairs = verdict(seeded(a), seeded(b), paired=True, test_rows=10_000)
    assert (pairs.verdict, pairs.p_value) == ("not shown", pytest.approx(2 / 2**5))


def test_one_constant_side_of_few_seeds():
    a, b = [0.98, 0.98, 0.98], [0.9701, 0.9702, 0.9703]
    assert compare_unpaired(a, b).p_value < 0.001
    result = verdict(a, b)
    assert (result.verdict, result.p_value) == ("not shown", pytest.approx(0.1))
    assert "one side constant" in result.reason


def test_few_lucky_seeds_against_many():
    # Where 1 run in 5 fails, 3 of 3 succeed in half of the cases.
    many = [0.98] * 24 + [0.1] * 6
    few = [0.981, 0.980, 0.979]
    assert compare_unpaired(few, many).p_value < 0.02
    assert verdict(few, many).verdict == "not shown"


@given(samples, samples, st.sampled_from([None, 0.001, 0.01]), st.sampled_from([None, 10_000]))
def test_swapping_the_sides_swaps_the_word(a, b, margin, rows):
    one = verdict(a, b, margin=margin, test_rows=rows)
    other = verdict(b, a, margin=margin, test_rows=rows)
    swapped = {"better": "worse", "worse": "better"}
    assert other.verdict == swapped.get(one.verdict, one.verdict)
    assert one.more_seeds == other.more_seeds
    if one.p_value is not None and one.comparison.p_value is not None:
        assert one.p_value >= one.comparison.p_value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"a": [0.9], "b": [0.8, 0.9]}, "a must have 2 or more seeds a side .got 1"),
        ({"a": [0.9, math.nan], "b": [0.8, 0.9]}, r"a\[1\] must be a finite number \(got nan"),
        ({"a": [98.0, 98.1], "b": [97.0, 97.1], "test_rows": 100}, "accuracy must be from 0 to 1"),
        ({"a": [98.0, 98.0], "b": [97.0, 97.0], "test_rows": 100}, "accuracy must be from 0 to 1"),
        ({"a": LOW, "b": HIGH, "margin": 0.0}, "margin must be a number above 0"),
        ({"a": LOW, "b": HIGH, "alpha": 1.5}, "alpha must be .*got 1.5"),
        ({"a": LOW, "b": HIGH, "paired": True}, "a must be a mapping from seed to value"),
    ],
)
def test_verdict_refuses(arguments, message):
    with pytest.raises(ConfigError, match=message):
        verdict(**arguments)


def on_rows(values):
    """As measured on 10,000 test rows."""
    return np.round(values, 4)


EQUAL_DISTRIBUTIONS = {
    "accuracies": lambda random, shape: on_rows(random.normal(0.97, 0.003, shape)),
    "heavy ties": lambda random, shape: on_rows(random.normal(0.97, 0.0001, shape)),
    "two values": lambda random, shape: np.where(random.random(shape) < 0.3, 0.97, 0.98),
    "a fifth fails": lambda random, shape: np.where(
        random.random(shape) < 0.2, 0.1, on_rows(random.normal(0.97, 0.003, shape))
    ),
    "skewed": lambda random, shape: on_rows(0.98 - random.exponential(0.003, shape)),
}


def false_findings(name, n_a, n_b, cases, paired=False):
    """Share of cases with a difference found between equal distributions, test_rows given."""
    random = np.random.default_rng([n_a, n_b, paired, list(EQUAL_DISTRIBUTIONS).index(name)])
    draw = EQUAL_DISTRIBUTIONS[name]
    a, b = draw(random, (cases, n_a)), draw(random, (cases, n_b))
    with warnings.catch_warnings():  # scipy warns of constant samples
        warnings.simplefilter("ignore", RuntimeWarning)
        if paired:
            raw = stats.ttest_rel(a, b, axis=1).pvalue
        else:
            raw = stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue
    # Guards only raise the p value (a property above), so the other cases find nothing.
    candidates = np.flatnonzero(~(raw >= LEVEL + 0.001))
    words = []
    for i in candidates:
        x, y = (seeded(a[i]), seeded(b[i])) if paired else (a[i], b[i])
        words.append(verdict(x, y, paired=paired, test_rows=10_000).verdict)
    return sum(word in ("better", "worse") for word in words) / cases


@pytest.mark.parametrize("name", EQUAL_DISTRIBUTIONS)
@pytest.mark.parametrize("cases", [1000, pytest.param(4000, marks=pytest.mark.slow)])
def test_false_findings_are_as_rare_as_stated(name, cases):
    for n in (3, 5, 10, 30):
        assert false_findings(name, n, n, cases) <= LEVEL + slack(LEVEL, cases), n
    for n in (3, 10):
        assert false_findings(name, n, n, cases, paired=True) <= LEVEL + slack(LEVEL, cases), n


@pytest.mark.parametrize("name", EQUAL_DISTRIBUTIONS)
def test_false_findings_with_unequal_numbers(name):
    cases = 1000
    for n_a, n_b in itertools.pairwise((3, 5, 30, 3)):
        assert false_findings(name, n_a, n_b, cases) <= LEVEL + slack(LEVEL, cases), (n_a, n_b)


def test_true_findings_come_as_often_as_the_power_says():
    needed = seeds_needed(0.003, 0.002, 0.002)
    cases = 500
    random = np.random.default_rng(0)
    a = on_rows(random.normal(0.973, 0.002, (cases, needed.seeds)))
    b = on_rows(random.normal(0.970, 0.002, (cases, needed.seeds)))
    found = np.mean([verdict(x, y).verdict == "better" for x, y in zip(a, b)])
    assert abs(found - needed.power) <= slack(0.8, cases)
