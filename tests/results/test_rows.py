"""Rows: what a finished training leaves, and the folder they are kept in."""

import json
import os

import made_rows
import numpy as np
import pytest

from flaxcnn.data.datasets import load
from flaxcnn.engine.train import fit
from flaxcnn.errors import CheckpointError, ConfigError, WriteError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten
from flaxcnn.results.rows import KEPT, Results, row_of_run, rows_of_study, stale
from flaxcnn.studies.study import study

TINY = Config(dataset="digits", layers=(Flatten(), Dense(10)), batch_size=100, epochs=2)
NAME = "mnist-ladder/model10"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A training that has ended."""
    folder = tmp_path_factory.mktemp("rows") / "run"
    fit(TINY, load("digits"), folder, name="tiny")
    return folder


def test_a_row_is_what_the_run_says(run):
    row = row_of_run(run)
    summary = json.loads((run / "summary.json").read_text())
    assert {name: row[name] for name in KEPT} == {name: summary[name] for name in KEPT}
    assert Config.from_dict(row["config"]).fingerprint() == row["fingerprint"]
    assert json.loads(json.dumps(row)) == row
    with np.load(run / "predictions.npz") as arrays:
        label, predicted = arrays["label"], arrays["logits"].argmax(axis=1)
    wrong = label != predicted
    assert row["first_errors"] == wrong[:100].sum()
    assert row["first"] == {"label": label[:100].tolist(), "predicted": predicted[:100].tolist()}
    matrix = np.array(row["confusion"])
    assert (matrix.sum(), np.trace(matrix)) == (len(label), (~wrong).sum())
    epochs = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for name, values in row["curves"].items():
        assert values == pytest.approx([epoch[name] for epoch in epochs], rel=1e-5)


def test_rows_of_a_study_are_rows_of_runs(run, tmp_path):
    study(TINY, [0, 1], how="vmap", study_dir=tmp_path / "study", dataset=load("digits"),
          name="tiny", predictions=True)  # fmt: skip
    rows = rows_of_study(tmp_path / "study", 10)
    rows.sort(key=lambda row: row["seed"])  # they end in any order
    assert [row["seed"] for row in rows] == [0, 1]
    assert {row["runs_beside"] for row in rows} == {2}
    alone = row_of_run(run)
    assert set(rows[0]) - set(alone) == {"runs_beside"}
    assert rows[0]["fingerprint"] == alone["fingerprint"]
    assert rows[0]["test_accuracy"] == pytest.approx(alone["test_accuracy"], abs=0.01)


def test_a_row_takes_the_place_of_an_older_one(results):
    results.add([made_rows.row(NAME, seed=s, accuracy=0.9) for s in (1, 0)])
    results.add([made_rows.row(NAME, seed=1, accuracy=0.8), made_rows.row("mnist-ladder/model2")])
    found = [(r["experiment"], r["seed"], r["test_accuracy"]) for r in results.rows()]
    assert found == [("mnist-ladder/model2", 0, 0.99), (NAME, 0, 0.9), (NAME, 1, 0.8)]
    assert [r["seed"] for r in results.rows(NAME)] == [0, 1]


def test_another_recipe_is_stale():
    row = made_rows.row(NAME)
    assert not stale(row)
    assert stale(made_rows.stale(row))
    assert stale({**row, "experiment": "mnist-ladder/model99"})


def test_another_format_is_refused(results):
    results.add([made_rows.row(NAME)])
    (results.path / "about.json").write_text('{"format": 99, "flaxcnn": "9.9.9"}')
    with pytest.raises(ConfigError, match=r"written by flaxcnn 9\.9\.9 in another format") as error:
        results.open()
    assert "\n" not in str(error.value)
    assert "99" in (results.path / "about.json").read_text()  # nothing lost


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match=r"not empty and has no about\.json"):
        Results(tmp_path).open()
    with pytest.raises(ConfigError, match="is a file"):
        Results(tmp_path / "letter.txt").open()
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_a_place_that_cannot_be_written_to(results):
    """Below a file, since root may write anywhere."""
    (results.path / "mnist-ladder").write_text("in the way")
    with pytest.raises(WriteError, match="--results: "):
        results.add([made_rows.row(NAME)])
    (results.path / "file").write_text("")
    with pytest.raises(WriteError, match="--results: "):
        Results(results.path / "file" / "below").open()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_only_be_read(results):
    results.path.chmod(0o500)
    with pytest.raises(WriteError, match="--results: "):
        results.add([made_rows.row(NAME)])


def test_a_damaged_row_is_named(results):
    results.add([made_rows.row(NAME)])
    file = results.path / f"{NAME}.jsonl"
    file.write_text('{"experiment": "x"}\n')
    with pytest.raises(CheckpointError, match="a row lacks protocol, seed"):
        results.rows()
    file.write_text("{\n")
    with pytest.raises(CheckpointError, match="line 1 is damaged"):
        results.rows()
