"""Finished runs, studies and searches as they are read, and their tables."""

import json

import made
import pytest

from flaxcnn.errors import CheckpointError
from flaxcnn.records.read import kind_of, read, read_runs
from flaxcnn.records.tables import Cell, Table, count
from flaxcnn.records.views import candidates_table, seeds_table, splits_table


@pytest.fixture
def study(tmp_path):
    return made.study(tmp_path / "study", seeds=3, grid={"learning_rate": [0.1, 0.01]})


def test_a_folder_is_read_as_what_it_holds(tmp_path, study):
    folders = {"run": made.run(tmp_path / "run"), "study": study,
               "search": made.search(tmp_path / "search")}  # fmt: skip
    for kind, path in folders.items():
        assert kind_of(path) == kind
        assert read(path).path == path
        assert read(path).name == "digits/quickstart"
    with pytest.raises(CheckpointError, match="holds a search; compare takes runs and studies"):
        read_runs(folders["search"], "compare")
    with pytest.raises(CheckpointError, match="holds no finished run, study or search"):
        read(tmp_path)


def test_rows_are_in_the_order_of_the_plan_however_runs_ended(study):
    before = read(study).rows
    lines = (study / "runs.jsonl").read_text().splitlines(keepends=True)
    (study / "runs.jsonl").write_text("".join(reversed(lines)))
    assert read(study).rows == before
    assert [row["seed"] for row in before] == [0, 1, 2, 0, 1, 2]
    plan = json.loads((study / "plan.json").read_text())
    (study / "plan.json").write_text(json.dumps({**plan, "seeds": [2, 0, 1]}))
    assert [row["seed"] for row in read(study).rows] == [2, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl", "data.json"])
def test_what_a_record_lacks_is_named(tmp_path, name):
    path = made.run(tmp_path / "run") / name
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**x, "of a later version": 1}) + "\n" for x in lines))
    read(tmp_path / "run")
    needed = {"summary.json": "split_digest", "metrics.jsonl": "val_loss", "data.json": "rows"}
    for line in lines:
        del line[needed[name]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = f"{name}: (line 1 )?lacks {needed[name]}: it is damaged"
    with pytest.raises(CheckpointError, match=said):
        read(tmp_path / "run")


def test_a_table_is_one_in_text_and_markdown():
    table = Table(
        "rows", ["split", "rows"], [[Cell("test"), count(12_345)], [Cell("x"), count(None)]]
    )
    assert table.lines() == [["split", "rows"], ["test", "12,345"], ["x", "-"]]
    assert table.markdown().splitlines()[2] == "| test | 12,345 |"
    assert [table.numeric(column) for column in (0, 1)] == [False, True]


def test_the_same_figures_are_in_readme_report_and_terminal(tmp_path, study):
    from flaxcnn.records.readme import search_readme, study_readme
    from flaxcnn.reports.report import make

    record = read(study)
    search = read(made.search(tmp_path / "search"))
    for own, table, readme in (
        (record, seeds_table(record.summary, record.rows),
         study_readme(record.summary, record.rows)),
        (search, candidates_table(search.summary), search_readme(search.summary)),
    ):  # fmt: skip
        html = make([own]).html
        for line in table.lines()[1:]:
            assert f"| {' | '.join(line)} |" in readme
            assert line[3] in html
    run = read(made.run(tmp_path / "run"))
    assert [row[0].text for row in splits_table(run.summary).rows] == [
        "test", "validation", "training",
    ]  # fmt: skip
