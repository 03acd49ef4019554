"""Grids of settings as tables: every mean at its own place."""

import itertools
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flaxcnn.reports.grids import MOST_COLUMNS, _cut, layout


def points_of(grid):
    """Every point of the grid, its mean a number of its own."""
    found = itertools.product(*grid.values())
    return [(dict(zip(grid, values, strict=True)), float(n)) for n, values in enumerate(found)]


def test_four_settings_are_two_rows_and_two_columns_of_pairs():
    grid = {"activation": ["relu", "tanh"], "units": ["16", "32"], "rate": ["0.1", "0.2"],
            "epochs": ["1", "3"]}  # fmt: skip
    rows, columns, means = layout(points_of(grid))
    assert rows == ("activation, units", ["relu, 16", "relu, 32", "tanh, 16", "tanh, 32"])
    assert columns == ("rate, epochs", ["0.1, 1", "0.1, 3", "0.2, 1", "0.2, 3"])
    np.testing.assert_array_equal(means.ravel(), np.arange(16))


def test_what_is_the_same_everywhere_is_no_side():
    grid = {"units": ["16", "32"], "momentum": ["0.9"], "rate": ["0.1", "0.2"]}
    assert layout(points_of(grid)).columns == ("rate", ["0.1", "0.2"])
    assert layout(points_of({**grid, "rate": ["0.1"]})) is None, "one side is no table"


def test_points_that_are_missing_are_nan_and_stray_ones_have_no_place():
    points = points_of({"a": ["1", "2"], "b": ["3", "4"]})
    means = layout([*points[:1], *points[2:], ({"a": "1"}, 9.0)]).means
    np.testing.assert_array_equal(means, [[0, np.nan], [2, 3]])


def test_a_table_too_wide_to_read_is_none():
    wide = [str(number) for number in range(MOST_COLUMNS + 1)]
    assert layout(points_of({"a": ["1", "2"], "b": wide[1:]})).columns == ("b", wide[1:])
    turned = layout(points_of({"a": ["1", "2"], "b": wide}))
    assert (turned.rows, turned.columns) == (("b", wide), ("a", ["1", "2"]))
    np.testing.assert_array_equal(turned.means.T.ravel(), np.arange(2 * len(wide)))
    assert layout(points_of({"a": wide, "b": wide})) is None


def test_texts_with_commas_are_told_apart():
    grid = {"a": ["1, 2", "1"], "b": ["3", "2, 3"], "c": ["4", "5"]}
    assert np.isfinite(layout(points_of(grid)).means).all()


@given(st.permutations(range(24)), st.lists(st.integers(2, 4), min_size=2, max_size=4))
def test_every_mean_is_where_its_settings_say(order, counts):
    grid = {f"s{i}": [f"{i}:{v}" for v in range(count)] for i, count in enumerate(counts)}
    points = points_of(grid)
    points = [points[number] for number in order if number < len(points)] + points[24:]
    if (found := layout(points)) is None:
        return
    (_, rows), (_, columns), means = found
    shown = {(row, column): means[i, j]
             for i, row in enumerate(rows) for j, column in enumerate(columns)}  # fmt: skip
    told = {frozenset(", ".join(place).split(", ")): mean for place, mean in shown.items()}
    assert told == {frozenset(settings.values()): mean for settings, mean in points}


@given(st.lists(st.integers(2, 6), min_size=2, max_size=5))
def test_sides_are_as_square_as_they_can_be(counts):
    longest = lambda cut: max(math.prod(counts[:cut]), math.prod(counts[cut:]))  # noqa: E731
    assert longest(_cut(counts)) == min(longest(cut) for cut in range(1, len(counts)))
