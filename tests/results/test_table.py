"""RESULTS.md: every experiment is in it, and says what its rows allow to say."""

import re

import made_rows
import pytest

from flaxcnn.recipe import catalog
from flaxcnn.results.rows import Results
from flaxcnn.results.table import page, verdicts

NAMES = {n: e for n, e in catalog.experiments().items() if n.partition("/")[0] != "digits"}


def lines(text, name):
    """(cells of its row, the verdict in words) of an experiment."""
    slug, _, tail = name.partition("/")
    file = next(e.document for n, e in NAMES.items() if n.startswith(slug) and e.document)
    section = text.split(f"## {file.partition(',')[0]}")[1].split("\n## ")[0]
    row = next(x for x in section.splitlines() if x.startswith(f"| {tail} |"))
    words = next(x for x in section.splitlines() if x.startswith(f"- **{tail}**"))
    return [cell.strip() for cell in row.split("|")[1:-1]], words


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A table of a few rows."""
    results = Results(tmp_path_factory.mktemp("table") / "results")
    results.open()
    one, dead, old = "mnist-ladder/model10", "mnist-ladder/baseline", "mnist-ladder/model1"
    results.add([
        *(made_rows.row(one, "document", s, 0.992 + s / 1000) for s in range(3)),
        made_rows.row(one, "honest", 0, 0.9915),
        *(made_rows.row(dead, "document", s, 0.1135 if s else 0.925, dead=s > 0) for s in range(2)),
        made_rows.stale(made_rows.row(old, "document", 0, 0.5)),
        made_rows.row("fashion-slim/final", "document", 0, 0.8913),
        made_rows.row("cifar-tuning/model2", "document", 0, 0.60),
        made_rows.diverged("mnist-ladder/model3"),
    ])  # fmt: skip
    return page(results), results


def test_every_experiment_has_a_row(made):
    for name, experiment in NAMES.items():
        cells, words = lines(made[0], name)
        assert len(cells) == 10
        if experiment.notes:
            assert experiment.notes.split(". ")[0] in words


def test_figures_over_seeds(made):
    cells, words = lines(made[0], "mnist-ladder/model10")
    assert cells[1:4] == ["mnist", "35,030, as the document", "0.993 validation = test"]
    assert cells[4] == "0.9930 ± 0.0010 [0.9905, 0.9955], n = 3"
    assert cells[5] == "0.9915, n = 1"
    assert cells[6] == "2 of 2 (document 7)"
    assert cells[9] == "reproduced"
    assert "*reproduced*: 0.993 is where one more run would be" in words
    assert "The shared EarlyStopping" in words  # the document's defect


def test_dead_networks_are_told_apart(made):
    cells, _ = lines(made[0], "mnist-ladder/baseline")
    assert cells[4].startswith("0.5192 ± 0.5738")
    assert cells[4].endswith("n = 2, of which 1 dead; living 0.9250, n = 1")
    assert cells[9] == "reproduced"


def test_stale_rows_are_marked_and_do_not_count(made):
    cells, words = lines(made[0], "mnist-ladder/model1")
    assert cells[4].startswith("not run yet")
    assert cells[4].endswith("(1 stale)")
    assert "0.5" not in cells[4]
    assert cells[9] == "cannot be told"
    assert "has not been run" in words


def test_what_may_be_why(made):
    better, worse = (lines(made[0], n) for n in ("fashion-slim/final", "cifar-tuning/model2"))
    assert (better[0][9], worse[0][9]) == ("better", "not reproduced")
    assert "The document does not give `dataset`, `split`" in better[1]
    assert "`layers`, `augment`" in worse[1]


def test_what_has_not_been_run_says_how_long_it_takes(made):
    near, far = (lines(made[0], f"mnist-ladder/{m}")[0][5] for m in ("model9", "model2"))
    assert re.fullmatch(r"not run yet, about [\d.]+ (s|min|h)", near)
    assert re.fullmatch(r"not run yet, about [\d.]+ (s|min|h)", far)
    assert "not known yet" in lines(made[0], "cifar-tuning/grid-a")[0][5] or "about" in far


def test_grids_mentions_and_divergence(made):
    cells, words = lines(made[0], "cifar-tuning/past-model")
    assert cells[4] == cells[5] == "only mentioned"
    assert "only mentioned" in words
    assert lines(made[0], "mnist-archs/grid-kernel")[0][9] == "cannot be told"
    assert lines(made[0], "mnist-ladder/model3")[0][4] == "diverged (1 diverged)"


def test_a_search_has_its_table(results):
    name = "fashion-slim/grid"
    point = {"setting.n_hidden": 1, "setting.f_val": 16}
    row = {"label": "n_hidden=1, f_val=16", "params": 29402, "folds": 5, "mean": 0.8440,
           "sd": 0.001, "low": 0.842, "high": 0.846, "seconds": 9.0, "diverged": 0,
           "on_front": True, "scores": [], **point}  # fmt: skip
    found = {
        "folds": 5, "repeats": 1, "seeds": [0], "trained": 5, "planned": 5, "incumbent": None,
        "winner": row["label"], "candidates": [row],
        "refit": {"test_accuracy": 0.85, "test_rows": 16500, "train_rows": 33500,
                  "val_rows": 5000},
    }  # fmt: skip
    made_rows.search(results.search_folder(name, "honest"), found)
    text = page(results)
    cells, words = lines(text, name)
    assert cells[3] == "0.8443 cross-validation"
    assert cells[5] == "[9 candidates](#search-of-fashion-slimgrid)"
    assert cells[9] == "reproduced"
    assert "the document's best is f_val=16, n_hidden=1, ours n_hidden=1, f_val=16" in words
    assert "### Search of fashion-slim/grid" in text
    assert "| n_hidden=1, f_val=16 | 29,402 | 5 | 0.8440 ± 0.0010 [0.8420, 0.8460] |" in text


def test_how_much_has_been_run(made):
    text = made[0].split("\n## ")[0]
    assert "Of 28 trainings 4 (2 with 1 seed, 1 with 2 seeds, 1 with 3 seeds) have been run" in text
    assert "and 1 (1 with 1 seed) under the honest protocol; of 5 grids 0 are complete." in text
    assert "Verdicts: 24 cannot be told, 2 reproduced, 1 better, 1 not reproduced." in text
    assert "10 rows, made on 2 CPU cores, cpu" in text


def test_the_same_rows_give_the_same_page(made):
    assert page(made[1]) == made[0]


def test_verdicts_for_programs(made):
    found = {one["experiment"]: one for one in verdicts(made[1])}
    assert len(found) == 28
    assert found["mnist-ladder/model10"]["verdict"] == "reproduced"
    assert found["mnist-ladder/model10"]["n"] == 3
    assert found["mnist-ladder/model1"]["stale"] == 1
    assert found["mnist-ladder/baseline"]["dead"] == 1
