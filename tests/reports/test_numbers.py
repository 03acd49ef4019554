"""Figures from predictions: by hand, against scikit-learn, and against what a document printed."""

import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import classification_report, confusion_matrix

from flaxcnn.data.datasets import load
from flaxcnn.data.splits import choose
from flaxcnn.recipe import catalog
from flaxcnn.records.intervals import wilson
from flaxcnn.reports import numbers
from flaxcnn.studies.stats import binomial_floor

ARCHIVES = os.environ.get("FLAXCNN_ARCHIVES")

# Document 004, "Result and Discussion": its columns, and the counts they were made of.
PRINTED_PRECISION = [0.9084523000226603, 0.9873817034700315, 0.8141054529067148,
                     0.9438787055894999, 0.9008968609865471, 0.9891989198919892,
                     0.6268124024091011, 0.9840954274353877, 0.9844173441734417,
                     0.9375280898876405]  # fmt: skip
PRINTED_RECALL = [0.813019671466234, 0.9936507936507937, 0.8614687649022413, 0.9049685398134085,
                  0.8007174172977282, 0.981031019861638, 0.8090987618773394, 0.938685208596713,
                  0.98330701556508, 0.9921521997621878]  # fmt: skip
PRINTED_F1 = [0.8580907534246575, 0.990506329113924, 0.8371177015755329, 0.9240141781125388,
              0.8478581979320532, 0.9850980392156863, 0.7063851181498242, 0.9608540925266904,
              0.9838618666064779, 0.9640670132871172]  # fmt: skip
HITS = [4009, 4382, 3613, 4171, 4018, 4396, 2810, 4455, 4359, 4172]
ACTUAL = [4413, 4438, 4438, 4419, 4460, 4444, 4483, 4527, 4428, 4450]
CALLED = [4931, 4410, 4194, 4609, 5018, 4481, 3473, 4746, 4433, 4205]


def document_matrix():
    """A confusion matrix with the document's hits and counts; rows are the truth."""
    matrix = np.diag(HITS)
    missed, taken = np.subtract(ACTUAL, HITS), np.subtract(CALLED, HITS)
    while missed.sum():
        i = int(missed.argmax())
        open_to = np.where(np.arange(10) == i, -1, taken)
        # The class most in need of its own errors elsewhere is served first
        j = int(open_to.argmax())
        matrix[i, j] += 1
        missed[i] -= 1
        taken[j] -= 1
    assert matrix.sum(axis=1).tolist() == ACTUAL
    assert matrix.sum(axis=0).tolist() == CALLED
    assert np.diag(matrix).tolist() == HITS
    return matrix


def test_rows_are_the_truth():
    #                  label      predicted
    matrix = numbers.confusion(np.array([0, 0, 0, 1, 2, 2]), np.array([0, 1, 1, 1, 2, 0]), 3)
    assert matrix.tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 1]]
    a, b, c = numbers.per_class(matrix, ("a", "b", "c"))
    assert (a.precision, a.recall, a.support, a.predicted) == (1 / 2, 1 / 3, 3, 2)
    assert (b.precision, b.recall, b.support, b.predicted) == (1 / 3, 1, 1, 3)
    assert (c.precision, c.recall, c.f1) == (1, 1 / 2, pytest.approx(2 / 3))


def test_the_columns_that_document_004_swapped_stand_where_they_belong():
    figures = numbers.per_class(document_matrix(), [str(i) for i in range(10)])
    assert [one.precision for one in figures] == pytest.approx(PRINTED_RECALL, abs=1e-15)
    assert [one.recall for one in figures] == pytest.approx(PRINTED_PRECISION, abs=1e-15)
    assert [one.f1 for one in figures] == pytest.approx(PRINTED_F1, abs=1e-15)
    assert [one.support for one in figures] == ACTUAL
    assert [one.predicted for one in figures] == CALLED
    # The document's own table is that of the transposed matrix
    swapped = numbers.per_class(document_matrix().T, [str(i) for i in range(10)])
    assert [one.precision for one in swapped] == pytest.approx(PRINTED_PRECISION, abs=1e-15)


def same_as_sklearn(label, predicted, names):
    matrix = numbers.confusion(label, predicted, len(names))
    classes = list(range(len(names)))
    np.testing.assert_array_equal(matrix, confusion_matrix(label, predicted, labels=classes))
    report = classification_report(
        label, predicted, labels=classes, target_names=names, output_dict=True, zero_division=0
    )
    for one in numbers.per_class(matrix, names):
        theirs = report[one.name]
        assert one.support == theirs["support"]
        for key, own in (("precision", one.precision), ("recall", one.recall),
                         ("f1-score", one.f1)):  # fmt: skip
            assert (own or 0.0) == pytest.approx(theirs[key], abs=1e-15), (one.name, key)


@pytest.mark.parametrize("seed", range(5))
def test_classes_equal_those_of_sklearn(seed):
    draws = np.random.default_rng(seed)
    label, predicted = draws.integers(0, 6, (2, 200))  # class 6 is never true, nor called
    same_as_sklearn(label, predicted, [f"class {i}" for i in range(7)])


@pytest.mark.skipif(not ARCHIVES, reason="needs FLAXCNN_ARCHIVES with the original archives")
def test_the_table_of_fashion_budget_equals_that_of_sklearn(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXCNN_ARCHIVES", str(Path(ARCHIVES)))
    monkeypatch.setenv("FLAXCNN_DATA_DIR", str(tmp_path))
    config, _ = catalog.resolve(catalog.find("fashion-budget/final"), environ={})
    data = load("fashion_mnist")
    rows = choose(data, config)
    label = data.train.label[rows.test]
    assert len(label) == 5500
    assert np.bincount(data.train.label[rows.train]).tolist() == ACTUAL
    draws = np.random.default_rng(0)
    predicted = np.where(draws.random(5500) < 0.85, label, draws.integers(0, 10, 5500))
    same_as_sklearn(label, predicted, list(data.classes))


def test_errors_are_shares_of_the_true_class():
    rates = numbers.error_rates(np.array([[6, 3, 1], [0, 0, 0], [5, 0, 5]]))
    assert np.isnan(np.diag(rates)).all()
    assert rates[0, 1:].tolist() == [0.3, 0.1]
    assert np.isnan(rates[1]).all()
    assert rates[2, :2].tolist() == [0.5, 0.0]


def test_probabilities_are_those_of_a_softmax():
    found = numbers.probabilities(np.array([[0, 0], [1000, 0], [np.nan, 0]], np.float32))
    assert found[:2].tolist() == [[0.5, 0.5], [1.0, 0.0]]
    assert np.isnan(found[2]).all()


def test_calibration_of_hand_worked_bins():
    #                        bin 0.5-0.6 (closed above)   bin 0.9-1.0
    probability = np.array([[0.6, 0.4], [0.55, 0.45], [0.05, 0.95], [0.0, 1.0]])
    found = numbers.calibration(probability, np.array([0, 1, 1, 0]))
    assert found.count.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert found.accuracy[[5, 9]].tolist() == [0.5, 0.5]
    assert found.confidence[[5, 9]].tolist() == pytest.approx([0.575, 0.975])
    assert found.ece == pytest.approx((2 * 0.075 + 2 * 0.475) / 4)


def test_calibration_sums_over_rows():
    draws = np.random.default_rng(3)
    probability = numbers.probabilities(draws.normal(0, 2, (500, 4)))
    label = draws.integers(0, 4, 500)
    sure, right = probability.max(1), probability.argmax(1) == label
    expected = 0.0
    for low in np.arange(10) / 10:
        inside = (sure > low) & (sure <= low + 0.1)
        expected += abs((right[inside].sum() - sure[inside].sum()) / 500)
    assert numbers.calibration(probability, label).ece == pytest.approx(expected)


def test_mistakes_come_by_falling_confidence():
    probability = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]])
    label = np.array([0, 0, 0, 1])
    assert numbers.mistakes(probability, label, 10).tolist() == [1, 2, 3]
    assert numbers.mistakes(probability, label, 2).tolist() == [1, 2]


@pytest.mark.parametrize(("accuracy", "rows"), [(0.0, 1), (0.5, 7), (0.9917, 360), (1.0, 10_000)])
def test_the_interval_is_that_of_studies(accuracy, rows):
    assert wilson(accuracy, rows) == pytest.approx(
        binomial_floor(accuracy, rows).interval, abs=1e-12
    )
