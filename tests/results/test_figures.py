"""What rows say of an experiment, beside its document."""

import made_rows
import pytest

from flaxcnn.recipe import catalog
from flaxcnn.results.figures import Figures, documents, reported, verdict


def test_five_documents_with_34_experiments():
    found = documents()
    assert [d.file[:3] for d in found] == ["000", "001", "002", "003", "004"]
    assert sum(len(d.documented) for d in found) == 34
    assert sum(len(d.experiments) for d in found) == 37
    assert all(d.subject for d in found)


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("mnist-ladder/model2", "0.920", "validation = test"),  # the zero that a number loses
        ("cifar-tuning/model5", "0.5540", "validation = test"),
        ("cifar-tuning/model1", "0.8450", "best validation = test"),
        ("fashion-slim/final", "0.8573", "test"),
        ("fashion-budget/final", "0.8529", "test"),
    ],
)
def test_what_is_reported(name, text, kind):
    found = reported(catalog.find(name))
    assert (found.text, found.kind) == (text, kind)


def test_every_documented_model_has_a_figure():
    for document in documents():
        for experiment in document.documented:
            assert (reported(experiment) is not None) == (experiment.kind == "model")


def test_stale_dead_and_diverged_are_told_apart(results):
    name = "mnist-ladder/baseline"
    rows = [made_rows.row(name, seed=s, accuracy=0.925 + s / 1000) for s in range(3)]
    rows.append(made_rows.row(name, seed=3, accuracy=0.1135, dead=True))
    rows.append(made_rows.stale(made_rows.row(name, seed=4, accuracy=0.5)))
    results.add([*rows, made_rows.diverged(name, seed=5)])
    found = Figures(results).of(name, "document")
    assert (len(found.rows), len(found.living), found.stale, found.diverged) == (4, 3, 1, 1)
    assert found.summary().mean == pytest.approx((0.925 * 3 + 0.003 + 0.1135) / 4)
    assert found.summary(alive=True).mean == pytest.approx(0.926)
    assert verdict(catalog.find(name), found).verdict == "reproduced"  # of those that learn


def test_the_same_quantity_is_compared(results):
    """Where the document has only its best validation, ours is the best of all epochs."""
    name = "cifar-tuning/model1"
    results.add([made_rows.row(name, accuracy=0.84)])  # its first epoch was 0.841
    judged = verdict(catalog.find(name), Figures(results).of(name, "document"))
    assert judged.difference == pytest.approx(0.841 - 0.845)


def test_runs_side_by_side_do_not_tell_the_time(results):
    name = "mnist-ladder/model1"
    alone = made_rows.row(name, seed=0, seconds=10.0)
    beside = [{**made_rows.row(name, seed=s, seconds=99.0), "runs_beside": 2} for s in (1, 2)]
    results.add([alone, *beside])
    assert Figures(results).of(name, "document").median("seconds") == 10.0
