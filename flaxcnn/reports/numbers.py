"""What a run's predictions say, class by class: counts, rates, calibration, mistakes.

Rows of every matrix are the truth, columns what was predicted. numpy alone, by formula: importing
sklearn.metrics or scipy.stats takes longer than the report of a run. Tests hold them against both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 10  # of the reliability diagram


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax of [N, K] logits, float64; a row that is not finite stays so."""
    wide = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        power = np.exp(wide - wide.max(axis=1, keepdims=True))
        return power / power.sum(axis=1, keepdims=True)


def confusion(label: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts [K, K] int64: entry (i, j) is how many rows of class i were predicted as j."""
    pairs = label.astype(np.int64) * classes + predicted
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def error_rates(matrix: np.ndarray) -> np.ndarray:
    """Each row divided by its sum, and NaN on the diagonal: where the errors of a class go.

    A class without rows is NaN throughout.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = matrix / matrix.sum(axis=1, keepdims=True)
    np.fill_diagonal(rates, np.nan)
    return rates


@dataclass(frozen=True)
class ClassFigures:
    """One class: precision, recall and F1 are None where they would divide by zero."""

    name: str
    precision: float | None  # of the rows called this, the share that are
    recall: float | None  # of the rows that are this, the share called so
    f1: float | None
    support: int  # rows that are this
    predicted: int  # rows called this


def per_class(matrix: np.ndarray, names: list[str] | tuple[str, ...]) -> list[ClassFigures]:
    """Figures of each class from a confusion matrix whose rows are the truth."""
    figures = []
    for i, name in enumerate(names):
        hits, support, called = (
            int(n) for n in (matrix[i, i], matrix[i].sum(), matrix[:, i].sum())
        )
        figures.append(
            ClassFigures(
                name,
                hits / called if called else None,
                hits / support if support else None,
                2 * hits / (support + called) if support + called else None,
                support,
                called,
            )
        )
    return figures


@dataclass(frozen=True)
class Calibration:
    """Bins of confidence from 0 to 1; a bin without rows has no confidence and accuracy (NaN)."""

    edges: np.ndarray  # [bins + 1]
    confidence: np.ndarray  # [bins], mean of the bin's rows
    accuracy: np.ndarray  # [bins]
    count: np.ndarray  # [bins]
    ece: float  # expected calibration error: mean over rows of |accuracy - confidence|


def calibration(probability: np.ndarray, label: np.ndarray, bins: int = BINS) -> Calibration:
    """Whether the probability [N, K] of the predicted class is how often it is right.

    Bins are of equal width, closed above, as Guo et al. 2017 (arXiv:1706.04599) have them.
    """
    confidence, right = probability.max(axis=1), probability.argmax(axis=1) == label
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean = np.bincount(index, confidence, bins) / count
        accuracy = np.bincount(index, right, bins) / count
    gaps = np.abs(accuracy - mean)
    return Calibration(edges, mean, accuracy, count, float(np.nansum(gaps * count) / len(label)))


def mistakes(probability: np.ndarray, label: np.ndarray, most: int) -> np.ndarray:
    """Positions of the wrongly predicted rows, the most confident first."""
    predicted = probability.argmax(axis=1)
    wrong = np.flatnonzero(predicted != label)
    return wrong[np.argsort(-probability[wrong, predicted[wrong]], kind="stable")][:most]
