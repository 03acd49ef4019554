"""The table of docs/reliability.md: each row names a test that is there."""

import re
from pathlib import Path

from docs.faults import rows

TESTS = Path(__file__).resolve().parents[1]


def test_each_fault_has_its_test():
    for row in (row for each in rows().values() for row in each):
        file, _, name = row["test"].partition("::")
        assert re.search(rf"^def {name}\(", (TESTS / file).read_text(), re.M), row


def test_a_fault_is_listed_once():
    tests = [row["test"] for each in rows().values() for row in each]
    assert len({*tests}) == len(tests)
