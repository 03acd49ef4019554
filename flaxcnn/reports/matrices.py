"""What the test rows show: confusion, errors, classes, calibration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm

from flaxcnn.reports.numbers import Calibration, error_rates
from flaxcnn.reports.style import (
    INK,
    SHADES,
    TEST,
    VALIDATION,
    WIDTH,
    Picture,
    blank,
    clean,
    heading,
    margin,
    panel,
    short,
    styled,
)

NUMBERED = 20  # classes whose cells have room for a number
TICKED = 40  # classes whose names have room at the side
LONGEST = 14  # letters of a class name at an axis
NAMED = 3  # pairs that a text names


def _cells(matrix: np.ndarray, texts: list[list[str]], names: Sequence[str], title: str) -> Axes:
    """A square of shaded cells with numbers; rows are the truth."""
    count = len(names)
    labels = [short(name, LONGEST) for name in names] if count <= TICKED else []
    left = max(0.45, margin(labels) + 0.25)
    flat = all(len(label) <= 3 for label in labels)
    bottom = 0.48 if flat else 0.42 + 0.066 * max(map(len, labels))
    side = WIDTH - left - 0.12
    figure = blank(side + bottom + 0.36)
    axes = panel(figure, left, bottom)
    top = np.nanmax(matrix) if np.isfinite(matrix).any() else 0
    # By the square root: next to a diagonal of thousands, a few errors are to be seen as well.
    axes.imshow(matrix, cmap=SHADES, norm=PowerNorm(0.5, vmin=0, vmax=top or 1),
                interpolation="none", aspect="auto")  # fmt: skip
    if count <= NUMBERED:
        longest = max(len(text) for row in texts for text in row)
        size = min(9.0, 1.5 * 72 * side / count / max(3.2, longest))
        for i, row in enumerate(texts):
            for j, text in enumerate(row):
                axes.text(j, i, text, ha="center", va="center", size=size)
    if labels:
        axes.set_xticks(range(count), labels, rotation=0 if flat else 90, size=8)
        axes.set_yticks(range(count), labels, size=8)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.grid(False)
    for edge in axes.spines.values():
        edge.set_visible(True)
        edge.set_linewidth(0.6)
    heading(axes, title)
    return axes


def frequent_pairs(matrix: np.ndarray, names: Sequence[str]) -> list[tuple[int, str]]:
    """(rows, "4 taken for 9") of the most frequent confusions."""
    off = matrix.copy()
    np.fill_diagonal(off, 0)
    order = np.argsort(-off, axis=None, kind="stable")[:NAMED]
    places = [divmod(int(k), len(names)) for k in order]
    return [
        (int(off[i, j]), f"{clean(names[i])} taken for {clean(names[j])}")
        for i, j in places
        if off[i, j]
    ]


@styled
def confusion_matrix(matrix: np.ndarray, names: Sequence[str], split: str = "test") -> Picture:
    """Counts; rows are the truth."""
    title = f"Confusion matrix of {matrix.sum():,} {split} rows (counts)"
    texts = [[str(n) if n else "·" for n in row] for row in matrix]
    axes = _cells(matrix.astype(float), texts, names, title)
    right, pairs = int(np.trace(matrix)), frequent_pairs(matrix, names)
    most = ", ".join(f"{pair} ({rows})" for rows, pair in pairs) or "none"
    alt = (
        f"{right:,} of {matrix.sum():,} {split} rows are on the diagonal, predicted right; most "
        f"frequent errors: {most}. Rows are the true class, columns the predicted one."
    )
    return Picture("confusion", title, alt, axes.figure)  # type: ignore[arg-type]


@styled
def error_matrix(matrix: np.ndarray, names: Sequence[str], split: str = "test") -> Picture:
    """Where the errors of each class go: rows divided by their sum, the diagonal blank."""
    rates = error_rates(matrix)
    title = f"Errors of the {split} rows (% of each true class)"
    texts = [["" if not r > 0 else f"{100 * r:.1f}" for r in row] for row in rates]
    axes = _cells(rates, texts, names, title)
    if np.nansum(rates) > 0:
        i, j = divmod(int(np.nanargmax(rates)), len(names))
        worst = (
            f"The largest share is {rates[i, j]:.1%} of class {clean(names[i])}, taken for "
            f"{clean(names[j])}."
        )
    else:
        worst = "There are no errors."
    return Picture("errors", title, f"{worst} Each row is a true class divided by its number of "
                   "rows; the diagonal is left blank.", axes.figure)  # type: ignore[arg-type]  # fmt: skip


@styled
def reliability(calibration: Calibration, split: str = "test") -> Picture:
    """Accuracy of the rows in each bin of confidence, against equality; below, the rows per bin."""
    figure = blank(4.5)
    axes, rows = panel(figure, 0.62, 1.5, top=0.62), panel(figure, 0.62, 0.48, top=3.25)
    width = np.diff(calibration.edges)
    middle = calibration.edges[:-1] + width / 2
    filled = calibration.count > 0
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--", label="as sure as right")
    accuracy, confidence = calibration.accuracy, calibration.confidence
    axes.bar(middle[filled], accuracy[filled], width[filled] * 0.92, color=TEST, alpha=0.45,
             edgecolor=TEST, label="accuracy of the bin")  # fmt: skip
    axes.plot(confidence[filled], accuracy[filled], "o", color=VALIDATION,
              clip_on=False, label="at its mean confidence")  # fmt: skip
    axes.set_ylabel("accuracy (share of rows)")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.04)
    axes.tick_params(labelbottom=False)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, borderpad=0)
    rows.bar(middle, calibration.count, width * 0.92, color=TEST, alpha=0.45, edgecolor=TEST)
    rows.set_xlim(0, 1)
    rows.set_xlabel("confidence: probability of the predicted class")
    rows.set_ylabel("rows")
    title = f"Reliability ({split}): ECE {calibration.ece:.4f}"
    heading(axes, title)
    sure = int(calibration.count[-1])
    alt = (
        f"Expected calibration error {calibration.ece:.4f} over {len(middle)} bins; {sure:,} of "
        f"{calibration.count.sum():,} rows have a confidence above {calibration.edges[-2]:.1f}"
    )
    if sure:
        alt += f", of which {accuracy[-1]:.1%} are right and {confidence[-1]:.1%} "
        alt += "would be by their confidence"
    return Picture("reliability", title, f"{alt}.", figure)
