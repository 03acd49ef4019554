"""The table and the figure of a moved Keras notebook, for `benchmarks.tables`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.own_tables import where_from

NAMES = {
    "train_loss": "training loss", "val_loss": "validation loss",
    "val_accuracy": "validation accuracy",
}  # fmt: skip
COLOURS = {"keras": "#E69F00", "flaxcnn": "#0072B2"}  # Okabe and Ito's
DASHES = {"keras": "--", "flaxcnn": "-"}


def shown(epochs: int) -> list[int]:
    """The epochs of the table: the first, thirds, and the last.

    >>> shown(15)
    [1, 5, 10, 15]
    """
    return sorted({1, *(max(1, round(epochs * part / 3)) for part in (1, 2, 3))})


def table(document: dict[str, Any], chart: str) -> str:
    """Means and deviations of both sides after some epochs, what all epochs say, and the figure."""
    lines = ["| | after epoch | Keras | flaxcnn | flaxcnn - Keras [95 %] |",
             "|---|---:|---:|---:|---:|"]  # fmt: skip
    for metric, points in document["compared"].items():
        for epoch in shown(len(points)):
            one = points[epoch - 1]
            low, high = one["interval"]
            figures = (f"{one[who]:.3f} ± {one[f'{who}_sd']:.3f}" for who in ("keras", "flaxcnn"))
            apart = f"{one['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
            lines.append(f"| {NAMES[metric]} | {epoch} | {' | '.join(figures)} | {apart} |")
    points = [one for own in document["compared"].values() for one in own]
    apart = [one for one in points if one["p_corrected"] < 0.05]
    smallest = min(one["p_corrected"] for one in points)
    text = (
        f"Mean ± standard deviation over {document['seeds']} seeds, and Welch's interval of the "
        f"difference. Of {len(points)} comparisons, one for each epoch and quantity, "
        f"{len(apart) or 'none'} {'are' if len(apart) > 1 else 'is'} significant at 5 % after "
        "Holm's correction over the epochs of a quantity (smallest corrected p "
        f"{smallest:.2g}). {_packages(document)}"
    )
    return "\n".join([*lines, "", text, "", f"![Curves of both programs]({chart})"])


def _packages(document: dict[str, Any]) -> str:
    return where_from(document, ("keras", "tensorflow"))


def draw(document: dict[str, Any], pyplot: Any, path: Path, ink: str) -> None:
    """Every curve of both sides, a panel for each quantity."""
    figure, panels = pyplot.subplots(1, len(NAMES), figsize=(9, 3.2), layout="constrained")
    for panel, (metric, name) in zip(panels, NAMES.items(), strict=True):
        for side, runs in document["curves"].items():
            values = np.array([run[metric] for run in runs])
            epochs = np.arange(1, values.shape[1] + 1)
            for one in values:
                panel.plot(epochs, one, DASHES[side], color=COLOURS[side], linewidth=0.6, alpha=0.5)
            panel.plot(epochs, values.mean(0), DASHES[side], color=COLOURS[side], linewidth=2,
                       label=f"{side}, mean of {len(runs)}")  # fmt: skip
        panel.set_xlabel("epoch")
        panel.set_title(name, color=ink, fontsize=10)
    panels[0].legend(frameon=False)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    pyplot.close(figure)
