"""Tables on a narrow terminal: nothing is broken in mid-word, and nothing is wider."""

import doctest

import pytest

from flaxcnn.records import tables

LINES = [
    ["setting", "runs", "test accuracy (mean ± sd [95 %])", "diverged", "dead"],
    ["learning_rate=0.001", "8 of 8", "0.9894 ± 0.0007 [0.9888, 0.9899]", "0", "0"],
    ["learning_rate=0.01, optimizer=sgd", "7 of 8", "0.9714 ± 0.0107 [0.9588, 0.9799]", "1", "-"],
]
WORDS = {word for line in LINES for cell in line for word in cell.split()}


@pytest.mark.parametrize("width", [200, 110, 80, 60, 40])
def test_no_line_is_wider_and_no_word_is_broken(width):
    lines = tables.fitted(LINES, width)
    assert max(map(len, lines)) <= width
    assert {word for line in lines for word in line.split()} <= WORDS
    assert {word for line in lines for word in line.split()} >= WORDS - {"-", "setting"}


def test_a_table_that_fits_is_as_it_was():
    assert tables.fitted(LINES, 200) == tables.aligned(LINES)


def test_columns_of_less_weight_go_first():
    lines = tables.fitted(LINES, 45, less=("diverged", "dead"))
    assert lines[0].split()[:2] == ["setting", "runs"]
    assert not any("diverged" in line for line in lines)


def test_what_the_docstrings_show():
    assert doctest.testmod(tables).failed == 0
