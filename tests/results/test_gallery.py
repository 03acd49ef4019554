"""A page a document: everything that it shows, from the rows alone."""

import re

import made_rows
import numpy as np
import pytest

from flaxcnn.recipe import catalog
from flaxcnn.results.figures import Figures, documents
from flaxcnn.results.gallery import history, make, page, write

MOST = 1.5e6  # bytes of a page
NAMES = ("mnist-ladder/model9", "mnist-ladder/model10")


@pytest.fixture
def ladder():
    return next(d for d in documents() if d.slug == "mnist-ladder")


@pytest.fixture
def figures(results):
    results.add([
        *(made_rows.row(name, protocol, accuracy=0.97)
          for name in NAMES for protocol in ("document", "honest")),
        made_rows.row("fashion-budget/final", accuracy=0.86),
    ])  # fmt: skip
    return Figures(results)


def test_one_file_that_loads_nothing(figures, ladder):
    html = make(figures, ladder).html
    assert not re.findall(r'(?:src|href)="(?!#|data:)', html)
    assert "@import" not in html
    ids = re.findall(r'\sid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    for target in re.findall(r'(?:href="#|url\(#)([^")]+)', html):
        assert target in ids


def test_what_it_shows_of_each_model(figures, ladder):
    made = page(figures, ladder)
    assert [s.name for s in made.sections] == ["comparison", "model9", "model10"]
    assert made.figure == "0 of 2 reproduced"
    assert made.warnings == []
    for section in made.sections[1:]:
        kinds = [p.name.removesuffix(f"-{section.name}") for p in section.pictures]
        assert kinds == ["learning-accuracy", "learning-loss", "first-grid", "confusion", "errors"]
        (beside,) = section.tables
        told = {row[0].text: [cell.text for cell in row[1:]] for row in beside.rows}
        assert told["test accuracy"] == ["0.993", "0.9700", "0.9700"]
        assert told["training loss, last epoch"][1] == "0.2000"
        (classes,) = section.folded
        assert len(classes.rows) == 10
    errors = "wrong of the first 100"
    row = figures.of(NAMES[0], "document").rows[0]
    (cells,) = [r for r in made.sections[1].tables[0].rows if r[0].text == errors]
    assert [c.text for c in cells[1:3]] == ["1", str(row["first_errors"])]


def test_errors_have_a_sign_besides_their_colour(figures, ladder):
    row = figures.of(NAMES[0], "document").rows[0]
    first = make(figures, ladder).svgs["first-grid-model9"]
    assert len(re.findall("×[0-9] is [0-9]", first)) == row["first_errors"] > 0


def test_the_table_of_classes_of_document_004(figures):
    document = next(d for d in documents() if d.slug == "fashion-budget")
    section = next(s for s in page(figures, document).sections if s.name == "final")
    own, told = section.folded
    assert told.caption == "The document's table of classes, of its training rows"
    assert [c.text for c in told.rows[6]] == ["Shirt", "0.8091", "0.6268", "0.7064"]
    assert own.rows[6][0].text == "Shirt"


def test_the_documents_table_of_classes_is_consistent():
    """F1 is of precision and recall, and 40,385 of 44,500 are right."""
    found = catalog.find("fashion-budget/final").per_class["training"]
    precision, recall, f1 = (np.array(found[key]) for key in ("precision", "recall", "F1"))
    np.testing.assert_allclose(f1, 2 * precision * recall / (precision + recall), atol=2e-6)
    support = [4413, 4438, 4438, 4419, 4460, 4444, 4483, 4527, 4428, 4450]
    assert round(float(recall @ support)) == 40_385


def test_curves_as_epochs(figures):
    epochs = history(figures.of(NAMES[0], "document").rows[0])
    assert [e["epoch"] for e in epochs] == [1, 2]
    assert epochs[0]["val_accuracy"] == 0.971


def test_files_of_those_that_have_rows(figures, results, tmp_path):
    files, warnings = write(results, tmp_path / "pages")
    assert [f.name for f in files] == ["mnist-ladder.html", "fashion-budget.html"]
    assert warnings == []
    assert files[0].stat().st_size < MOST


def test_a_document_of_thirteen_models_is_not_too_large(results, ladder):
    results.add(made_rows.row(e.name, accuracy=0.92) for e in ladder.experiments)
    assert len(make(Figures(results), ladder).html) < MOST
