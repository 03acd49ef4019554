"""Labels that are likely wrong, by confident learning on what runs predicted for unseen rows.

Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels"
(arXiv:1911.00068): the confident joint of equation 1, calibrated by equation 3, pruned by noise
rate (section 3.2).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from flaxcnn.errors import CheckpointError, DataError
from flaxcnn.records.read import Predictions, RunRecord, StudyRecord
from flaxcnn.reports.numbers import probabilities


@dataclass(frozen=True, eq=False)
class Unseen:
    """Rows [n] of a data set with the probabilities [n, K] of runs that were not trained on them."""  # noqa: E501

    row: np.ndarray  # counted through the train archive, then the test archive
    label: np.ndarray
    probability: np.ndarray  # mean over the runs
    runs: int


@dataclass(frozen=True)
class Suspect:
    """A row whose label is likely wrong."""

    row: int
    given: int  # its label
    likely: int  # what it is instead
    probability: float  # of the likely class
    of_given: float  # of its label


def confident_joint(label: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Counts [K, K] int64: rows labelled i that are confidently j.

    A row is confidently j if its probability of j is at least the mean one among rows labelled j;
    where it is so of several classes, the most probable of them.

    Args:
        label: [N] int.
        probability: [N, K], of models that were not trained on the rows.

    >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.2, 0.8], [0.1, 0.9]])
    >>> confident_joint(np.array([0, 0, 0, 1]), p).tolist()
    [[2, 0], [0, 1]]
    """
    classes = probability.shape[1]
    above = probability >= _thresholds(label, probability)
    confident = above.any(axis=1)
    called = np.where(above, probability, -1.0).argmax(axis=1)
    pairs = label[confident].astype(np.int64) * classes + called[confident]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def _thresholds(label: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Mean probability of each class among the rows labelled so, [K]; without rows none pass."""
    own = probability[np.arange(len(label)), label]
    count = np.bincount(label, minlength=probability.shape[1])
    total = np.bincount(label, own, probability.shape[1])
    return np.where(count, total / np.maximum(count, 1), np.inf)


def noise_counts(label: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Estimated rows [K, K] float64 that are labelled i and are j: rows sum to those labelled i."""
    joint = confident_joint(label, probability).astype(float)
    count = np.bincount(label, minlength=len(joint)).astype(float)
    alone = joint.sum(axis=1) == 0  # no confident row: the labels are taken as they are
    joint[alone, alone] = 1.0
    return joint / joint.sum(axis=1, keepdims=True) * count[:, None]


def label_errors(unseen: Unseen) -> list[Suspect]:
    """Rows whose labels are likely wrong, the most likely first.

    Of the rows labelled i, as many as are estimated to be j are taken: those that are by most more
    probably j than i, and more probably j than not i.
    """
    label, probability = unseen.label, unseen.probability
    estimated = np.round(noise_counts(label, probability)).astype(int)
    found: dict[int, Suspect] = {}
    for i, j in zip(*np.nonzero(estimated), strict=True):
        if i == j:
            continue
        places = np.flatnonzero(label == i)
        margin = probability[places, j] - probability[places, i]
        order = np.argsort(-margin, kind="stable")[: estimated[i, j]]
        for place in places[order[margin[order] > 0]].tolist():
            one = Suspect(int(unseen.row[place]), int(i), int(j), float(probability[place, j]),
                          float(probability[place, i]))  # fmt: skip
            if place not in found or one.probability > found[place].probability:
                found[place] = one
    return sorted(found.values(), key=lambda one: one.of_given - one.probability)


def unseen_rows(record: RunRecord | StudyRecord) -> Unseen:
    """What a run, or the runs of a study, predicted for their test rows.

    With `split={"type": "fold"}` and a grid over `split.index`, these are all training rows. A row
    that several runs have has the mean of their probabilities.

    Raises:
        CheckpointError: there are no logits, or they are damaged.
    """
    if isinstance(record, RunRecord):
        parts, temperature = [record.predictions()], float(record.summary.get("temperature", 1.0))
    else:
        runs = [row["run"] for row in record.rows if row["status"] == "complete"]
        parts, temperature = [_kept(record, run) for run in runs], 1.0
    if not parts:
        raise CheckpointError(f"{record.path}: no run is complete")
    rows = np.concatenate([part.row for part in parts])
    label = np.concatenate([part.label for part in parts])
    shares = np.concatenate([probabilities(part.logits / temperature) for part in parts])
    row, first, place, count = np.unique(rows, return_index=True, return_inverse=True,
                                         return_counts=True)  # fmt: skip
    total = np.zeros((len(row), shares.shape[1]))
    np.add.at(total, place, shares)
    return Unseen(row, label[first], total / count[:, None], len(parts))


def _kept(record: StudyRecord, run: str) -> Predictions:
    try:
        return record.predictions(run)
    except CheckpointError as error:
        raise CheckpointError(
            f"{record.path}: {error}; the study must keep logits: `flaxcnn study ... --predictions`"
        ) from None


@dataclass(frozen=True)
class LabelErrors:
    """The labels of a data set that are likely wrong."""

    rows: int  # that were looked at
    runs: int
    suspects: list[Suspect]
    names: list[str]  # of the images, as `check` gives them

    def to_dict(self, classes: tuple[str, ...]) -> dict[str, Any]:
        """Plain JSON value, with names in place of numbers."""
        suspects = [
            {**asdict(one), "image": name, "given": classes[one.given],
             "likely": classes[one.likely]}
            for one, name in zip(self.suspects, self.names, strict=True)
        ]  # fmt: skip
        return {"rows": self.rows, "runs": self.runs, "suspects": suspects}


def find_label_errors(name: str, record: RunRecord | StudyRecord) -> LabelErrors:
    """The likely label errors among the unseen rows of the runs, with the names of their images.

    Raises:
        CheckpointError: there are no logits, or they are damaged.
        DataError: the runs are of another data set, or it has other labels now.
    """
    from flaxcnn.data.datasets import load
    from flaxcnn.recipe.data import FILES
    from flaxcnn.reports.pixels import names_of

    config = record.config if isinstance(record, RunRecord) else record.plan["config"]
    if config["dataset"] != name:
        raise DataError(f"{record.path} is of {config['dataset']}, not of {name}")
    unseen = unseen_rows(record)
    recipe = record.recipe
    resize, channels = (recipe.resize, recipe.channels) if recipe else (None, "auto")
    data = load(name, resize, 0 if name.startswith(FILES) else None, channels)
    label = np.concatenate([data.train.label, data.test.label])
    if unseen.row.max() >= len(label) or (label[unseen.row] != unseen.label).any():
        raise DataError(f"{name} has other labels than when {record.path} was trained on it")
    suspects = label_errors(unseen)
    rows = np.array([one.row for one in suspects], int)
    return LabelErrors(len(unseen.row), unseen.runs, suspects, names_of(data, rows))
