"""The rule that says whether a document's figure is reproduced."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flaxcnn.results.verdicts import FEW, half_width, judge

ORDER = {"reproduced": 0, "cannot be told": 1, "better": 2, "not reproduced": 2}
ACCURACIES = st.lists(st.floats(0.05, 0.95), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("values", "rows", "digits", "half"),
    [
        # 1.959964 sqrt(.9915 .0085 / 10000) sqrt(2) + .0005
        ([0.9915], 10_000, 3, 0.0030446),
        # 1.959964 sqrt(.9 .1 / 10000) sqrt(1.5) + .00005
        ([0.89, 0.91], 10_000, 4, 0.0072514),
        # 4.302653 * .01 * sqrt(4 / 3) + .0005
        ([0.98, 0.99, 1.0], 10_000, 3, 0.0501828),
        # no spread: the floor, 1.959964 sqrt(.99 .01 / 10000) + .00005
        ([0.99, 0.99, 0.99], 10_000, 4, 0.0020001),
    ],
)
def test_half_widths_by_hand(values, rows, digits, half):
    assert half_width(values, rows, digits) == pytest.approx(half, abs=1e-7)


@pytest.mark.parametrize(
    ("values", "reported", "word"),
    [
        ([0.9915], 0.993, "reproduced"),
        ([0.9915], 0.9946, "cannot be told"),  # beyond 0.0030, within 0.0061
        ([0.9915], 0.988, "cannot be told"),
        ([0.9915], 0.998, "not reproduced"),
        ([0.9915], 0.985, "better"),
        ([0.98, 0.99, 1.0], 0.9399, "reproduced"),
        ([0.98, 0.99, 1.0], 0.9397, "better"),  # three seeds: no zone of doubt
        ([0.89, 0.90, 0.91], 0.96, "not reproduced"),
        ([], 0.99, "cannot be told"),
        ([0.99], None, "cannot be told"),
    ],
)
def test_verdicts_by_hand(values, reported, word):
    judged = judge(values, reported, 10_000, 3)
    assert judged.verdict == word
    assert judged.reason


@given(ACCURACIES, st.lists(st.floats(0, 1), min_size=2, max_size=2), st.integers(2, 5))
def test_a_larger_difference_is_never_nearer(values, figures, digits):
    mean = sum(values) / len(values)
    near, far = sorted(figures, key=lambda figure: abs(figure - mean))
    assume((near - mean) * (far - mean) > 0)
    words = [judge(values, figure, 1000, digits).verdict for figure in (near, far)]
    assert ORDER[words[0]] <= ORDER[words[1]]


@given(ACCURACIES, st.floats(0, 1), st.integers(2, 5))
def test_errors_are_judged_as_accuracies_are(values, figure, digits):
    judged = judge(values, figure, 1000, digits)
    edge = half_width(values, 1000, digits)
    assume(all(abs(abs(judged.difference) - k * edge) > 1e-9 for k in (1, 2)))
    mirrored = judge([1 - v for v in values], 1 - figure, 1000, digits).verdict
    opposite = {"better": "not reproduced", "not reproduced": "better"}
    assert mirrored == opposite.get(judged.verdict, judged.verdict)


@given(ACCURACIES, st.integers(100, 10**6), st.integers(2, 5))
def test_never_narrower_than_the_test_rows_allow(values, rows, digits):
    p = sum(values) / len(values)
    assert half_width(values, rows, digits) >= 1.9599 * math.sqrt(p * (1 - p) / rows)


@given(ACCURACIES, st.floats(0, 1))
def test_only_few_seeds_leave_doubt(values, figure):
    judged = judge(values, figure, 1000, 3)
    assert judged.verdict != "cannot be told" or len(values) < FEW
    assert judged.difference == pytest.approx(sum(values) / len(values) - figure)
