"""Finished runs, studies and searches as they are read, and their tables."""

import json

import made
import pytest

from flaxcnn.errors import CheckpointError, ConfigError
from flaxcnn.recipe.config import Config
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


def nested(depth):
    layer = {"type": "dense", "units": 3}
    for _ in range(depth):
        layer = {"type": "residual", "layers": [layer]}
    return {"layers": [layer]}


OF_A_RUN = {
    "env.json": [[], 3],
    "data.json": [{}, {"shape": ["a", "b"]}, {"shape": [1, "a", "b"]}, {"classes": []},
                  {"mean": [[[0.0, 0.0, 0.0]]]}, {"rows": {}}, {"digest": 7}],
    "config.json": [[]],
    "summary.json": [[], {"test_accuracy": "high"}, {"kept_epoch": "../../etc"}],
    "metrics.jsonl": [[], {"val_loss": "low"}],
}  # fmt: skip
OF_A_STUDY = {
    "plan.json": [[], {"seeds": 3}, {"config": []}, {"grid": [1]}],
    "runs.jsonl": [{}, [], {"test_accuracy": "high"}],
    "study.json": [[], {"settings": [1]}, {"settings": [{"label": "a"}]}],
}
OF_A_SEARCH = {
    "search.json": [{}, {"candidates": [1]}, {"candidates": [{}]}],
    "plan.json": [{"candidates": [[]]}, {"candidates": [{"label": "a", "settings": 3}]}],
}


KINDS = {"run": OF_A_RUN, "study": OF_A_STUDY, "search": OF_A_SEARCH}


@pytest.mark.parametrize("kind", KINDS)
def test_what_somebody_else_wrote_is_one_sentence(tmp_path, kind):
    """Records of other types or shapes than ours: exit code 5, never a traceback."""
    path = getattr(made, kind)(tmp_path / kind)
    for name, values in KINDS[kind].items():
        whole = (path / name).read_text()
        first, *rest = whole.splitlines() if name.endswith("l") else [whole]
        for value in values:
            changed = {**json.loads(first), **value} if value and type(value) is dict else value
            (path / name).write_text("\n".join([json.dumps(changed), *rest, ""]))
            with pytest.raises(CheckpointError) as error:
                read(path)
            assert "\n" not in str(error.value), (name, value)
        (path / name).write_text(whole)
    read(path)


def test_a_recipe_that_nobody_can_read_is_none(tmp_path):
    """The page is made without it; commands that need it say what is wrong."""
    path = made.run(tmp_path / "run")
    whole = json.loads((path / "config.json").read_text())
    for other in (nested(300), {"epochs": "many"}):
        (path / "config.json").write_text(json.dumps({**whole, **other}))
        assert read(path).recipe is None
        with pytest.raises(ConfigError):
            Config.from_dict(read(path).config)


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
