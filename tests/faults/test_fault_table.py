"""The tables of docs/reliability.md: each row names a test that is there."""

import re
from pathlib import Path

from docs.faults import former_rows, rows

TESTS = Path(__file__).resolve().parents[1]
FELL_SHORT = 97  # of the 445 cases that were tried
DEFECTS = {f"R{i}" for i in range(1, 19)} | {f"T{i}" for i in range(1, 18)} | {"R8b", "R16b"}


def each(kinds):
    return [row for kind in kinds.values() for row in kind]


def test_each_fault_has_its_test():
    for row in each(rows()) + each(former_rows()):
        file, _, name = row["test"].partition("::")
        assert re.search(rf"^def {name}\(", (TESTS / file).read_text(), re.M), row


def test_a_fault_is_listed_once():
    tests = [row["test"] for row in each(rows())]
    assert len({*tests}) == len(tests)


def test_nothing_that_fell_short_is_left_out():
    former = each(former_rows())
    assert sum(row["cases"] for row in former) == FELL_SHORT
    assert {number for row in former for number in row["defects"].split()} == DEFECTS
    assert len({row["failure"] for row in former}) == len(former)
