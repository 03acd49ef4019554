"""Confident learning by its formulas, on labels that were made wrong, and on the rows of runs."""

import json

import made
import numpy as np
import pytest
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from flaxcnn.errors import CheckpointError, DataError
from flaxcnn.records.read import read_run, read_study
from flaxcnn.records.study import predictions_file
from flaxcnn.reports.label_errors import (
    Unseen,
    confident_joint,
    find_label_errors,
    label_errors,
    noise_counts,
    unseen_rows,
)

# Of the wrong labels, and of what is found: neighbours that are labelled wrong make this model
# unsure, and it is right on 96 % of the digits only
FOUND, RIGHTLY = 0.6, 0.75


@pytest.fixture(scope="module")
def planted():
    """Digits of which 30 nines are labelled 4 and 30 ones 7; what their neighbours say."""
    data, random = made.digits(), np.random.default_rng(0)
    pixels = np.concatenate([data.train.image, data.test.image]).reshape(-1, 64) / 16
    true = np.concatenate([data.train.label, data.test.label])
    label, wrong = true.copy(), set()
    for is_, given in ((9, 4), (1, 7)):
        rows = random.choice(np.flatnonzero(true == is_), 30, replace=False)
        label[rows] = given
        wrong |= set(rows.tolist())
    model = KNeighborsClassifier(10)
    probability = cross_val_predict(model, pixels, label, cv=4, method="predict_proba")
    return true, label, probability, wrong


def test_the_joint_by_its_formula(planted):
    """Equation 1 of the paper, written out in loops."""
    _, label, probability, _ = planted
    mean = [np.mean([p[j] for p, y in zip(probability, label, strict=True) if y == j])
            for j in range(10)]  # fmt: skip
    joint = np.zeros((10, 10), int)
    for p, y in zip(probability, label, strict=True):
        if sure := [j for j in range(10) if p[j] >= mean[j]]:
            joint[y, max(sure, key=lambda j: p[j])] += 1
    np.testing.assert_array_equal(confident_joint(label, probability), joint)
    rows = np.bincount(label)
    noise = noise_counts(label, probability)
    np.testing.assert_allclose(noise, joint / joint.sum(axis=1)[:, None] * rows[:, None])
    np.testing.assert_allclose(noise.sum(axis=1), rows)


def test_labels_that_were_made_wrong_are_found(planted):
    true, label, probability, wrong = planted
    found = label_errors(Unseen(np.arange(len(label)), label, probability, 1))
    rows = {one.row for one in found}
    assert len(rows) == len(found)
    assert len(rows & wrong) / len(wrong) > FOUND
    assert len(rows & wrong) / len(rows) > RIGHTLY
    assert sum(one.row in wrong for one in found[:30]) >= 27, "the likeliest come first"
    assert all(one.likely == true[one.row] for one in found if one.row in wrong)
    for one in found:
        assert one.given == label[one.row]
        assert one.probability == probability[one.row, one.likely] > one.of_given


def test_with_ideal_probabilities_exactly_the_wrong_labels_are_found(planted):
    """Theorem 1 of the paper: probabilities that are those of the noise, class by class."""
    true, label, _, wrong = planted
    ideal = np.eye(10)[true]
    for is_, given in ((9, 4), (1, 7)):
        ideal[true == is_, is_], ideal[true == is_, given] = 0.75, 0.25
    found = label_errors(Unseen(np.arange(len(label)), label, ideal, 1))
    assert {one.row for one in found} == wrong
    assert all(one.likely == true[one.row] for one in found)


def test_without_errors_little_is_found(planted):
    true, _, _, _ = planted
    sure = np.full((len(true), 10), 0.01)
    sure[np.arange(len(true)), true] = 0.91
    assert label_errors(Unseen(np.arange(len(true)), true, sure, 1)) == []


def test_classes_without_rows_and_rows_without_confidence():
    label = np.array([0, 0, 2])
    probability = np.array([[0.5, 0.3, 0.2], [0.7, 0.2, 0.1], [0.2, 0.5, 0.3]])
    joint = confident_joint(label, probability)
    assert joint.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert noise_counts(label, probability).sum(axis=1).tolist() == [2, 0, 1]


# -- of runs -------------------------------------------------------------------------------------


def keep(study, data):
    """Predictions of a study whose runs have other thirds of all rows; one label looks wrong."""
    label = np.concatenate([data.train.label, data.test.label])
    runs = [json.loads(line)["run"] for line in (study / "runs.jsonl").read_text().splitlines()]
    for k, run in enumerate(runs):
        row = np.arange(len(label))[k :: len(runs)]
        logits = np.zeros((len(row), 10))
        logits[np.arange(len(row)), label[row]] = 5
        if 7 in row:
            logits[row == 7] = 8 * np.eye(10)[(label[7] + 1) % 10]
        np.savez(study / predictions_file(run), row=row, label=label[row],
                 predicted=logits.argmax(axis=1), logits=logits.astype(np.float16))  # fmt: skip
    return label


def test_the_runs_of_a_study_have_all_rows_once(tmp_path):
    data, path = made.digits(), made.study(tmp_path / "study", seeds=3)
    label = keep(path, data)
    unseen = unseen_rows(read_study(path))
    np.testing.assert_array_equal(unseen.row, np.arange(len(label)))
    np.testing.assert_array_equal(unseen.label, label)
    found = find_label_errors("digits", read_study(path))
    assert [(one.row, one.given) for one in found.suspects] == [(7, label[7])]
    assert found.names == ["train row 7"]
    told = found.to_dict(data.classes)
    assert told["suspects"][0]["image"] == "train row 7"
    assert told["suspects"][0]["likely"] == str((label[7] + 1) % 10)


def test_rows_of_several_runs_have_the_mean(tmp_path):
    path = made.study(tmp_path / "study", seeds=2)
    runs = [json.loads(line)["run"] for line in (path / "runs.jsonl").read_text().splitlines()]
    for run, logit in zip(runs, (0.0, 4.0), strict=True):
        np.savez(path / predictions_file(run), row=[3], label=[0], predicted=[0],
                 logits=[[logit, 0.0]])  # fmt: skip
    found = unseen_rows(read_study(path))
    sure = 1 / (1 + np.exp(-4.0))
    np.testing.assert_allclose(found.probability, [[(0.5 + sure) / 2, (1.5 - sure) / 2]])
    assert found.runs == 2


def test_a_run_has_its_test_rows(run):
    found = find_label_errors("digits", read_run(run))
    assert found.rows == 360
    assert all(name.startswith("test row ") for name in found.names)


def test_what_cannot_be_looked_through(tmp_path, run):
    with pytest.raises(CheckpointError, match=r"must keep logits: `flaxcnn study \.\.\. --"):
        unseen_rows(read_study(made.study(tmp_path / "study", seeds=2)))
    with pytest.raises(DataError, match="is of digits, not of mnist"):
        find_label_errors("mnist", read_run(run))
    with np.load(run / "predictions.npz") as old:
        np.savez(run / "predictions.npz", **{**old, "label": (old["label"] + 1) % 10})
    with pytest.raises(DataError, match="digits has other labels than when"):
        find_label_errors("digits", read_run(run))
