"""The page of compiled programs shows what was recorded."""

import json

import pytest

from benchmarks import compiled
from flaxcnn.accelerators.targets import TARGETS


def test_the_page_shows_the_record():
    rows = {row["case"]: row for row in json.loads(compiled.RESULTS.read_text())["results"]}
    page = compiled.PAGE.read_text()
    assert compiled.tables(rows) in page


def test_cases_have_names_of_their_own():
    names = [compiled.key(each) for each in compiled.cases()]
    assert len(names) == len(set(names))


def test_bytes_without_an_estimate_take_time():
    row = {"target": "v5e", "cycles": 1000, "unestimated_bytes": 819}
    assert compiled.cycles(row) == pytest.approx(1000 + 1e-9 * TARGETS["v5e"].clock)


def test_a_table_has_what_there_is_of_plain_flax():
    ours = {
        "target": "v5e", "cycles": 100, "unestimated_bytes": 0, "bytes_accessed": 2e6,
        "main_bytes": 1e6, "chips": 1, "width": 0,
    }  # fmt: skip
    names = [compiled.key(compiled.case("batchnorm-cnn", "v5e", "bfloat16", each))
             for each in compiled.IMPLEMENTATIONS]  # fmt: skip
    assert compiled.tables({names[1]: ours}) == ""
    alone = {names[0]: ours, names[1]: {"error": "the compiler ended by SIGKILL"}}
    assert (
        "| batchnorm-cnn | bfloat16 | 100 / - | 2.0 / - | 1.0 / - | - | - | - |"
        in compiled.tables(alone)
    )
    rows = {names[0]: ours, names[1]: {**ours, "cycles": 200}}
    assert (
        "| batchnorm-cnn | bfloat16 | 100 / 200 | 2.0 / 2.0 | 1.0 / 1.0 | 0.50 | 0.50 | 1.00 |"
        in (compiled.tables(rows))
    )
