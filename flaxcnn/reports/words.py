"""A recipe in a sentence or two, and its figures against others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import totals
from flaxcnn.records.format import count_text
from flaxcnn.reports.page import Versus

KINDS = {1: "grey", 3: "colour"}
Figure = tuple[str, float, str, tuple[float, float] | None]  # name, accuracy, colour, interval
PADDED = 0.08  # of an axis, at each end


def percent(share: float, digits: int = 2) -> str:
    """`98.36 %`."""
    return f"{100 * share:.{digits}f} %"


def interval_words(low: float, high: float) -> str:
    """`95 % interval 98.09 to 98.59 %`, clipped to what an accuracy can be."""
    return f"95 % interval {100 * max(low, 0):.2f} to {100 * min(high, 1):.2f} %"


def reported(name: str) -> tuple[float, str] | None:
    """What the document of an experiment says its test accuracy is, and after what."""
    experiment = catalog.experiments().get(name)
    if experiment is None or "test_accuracy" not in experiment.reported:
        return None
    epochs = experiment.reported.get("epochs")
    after = f" after {count_text(int(epochs), 'epoch')}" if isinstance(epochs, int | float) else ""
    return float(experiment.reported["test_accuracy"]), after


def recipe_text(recipe: Config, shape: Sequence[int], classes: int, train_rows: int | None) -> str:
    """The recipe in words: data, network, optimizer, what else is set.

    Raises:
        ConfigError: its network cannot be built on images [H, W, C] of `shape`.
    """
    height, width, channels = shape
    table = recipe.table((height, width, channels), classes)
    kind = KINDS.get(channels, f"{channels} channels")
    data = recipe.dataset.rpartition("/")[2] or recipe.dataset
    train = f"{train_rows:,} " if train_rows else ""
    parts = [
        f"A network of {count_text(len(table), 'layer')} with {totals(table)['params']:,} "
        f"parameters, trained on {train}images of {data} ({height}×{width}, {kind}, {classes} "
        f"classes) for up to {count_text(recipe.epochs, 'epoch')} in batches of "
        f"{recipe.batch_size:,}",
        f"with {_called(recipe.optimizer)} at a learning rate of {recipe.learning_rate:g}",
    ]
    if type(recipe.schedule).__name__ != "Constant":
        parts.append(f"on the schedule {_called(recipe.schedule)}")
    text = " ".join(parts)
    more = []
    if recipe.augment:
        more.append("augmented by " + ", ".join(_called(one) for one in recipe.augment))
    if recipe.average:
        more.append(f"weights averaged ({_called(recipe.average)})")
    if recipe.patience is not None:
        more.append(f"stopped early with patience {recipe.patience}")
    return f"{text}; {', '.join(more)}." if more else f"{text}."


def _called(spec: Any) -> str:
    own = getattr(spec, "function", None)
    return str(own) if isinstance(own, str) else type(spec).__name__


def versus(figures: Sequence[Figure]) -> list[Versus]:
    """Accuracies on one axis."""
    ends = [end for _, value, _, reach in figures for end in (value, *(reach or ()))]
    low, high = min(ends), max(ends)
    pad = PADDED * (high - low or 0.01)
    low, high = low - pad, high + pad

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    return [
        Versus(name, percent(value), place(value), colour,
               *((place(reach[0]), place(reach[1])) if reach else (None, None)))
        for name, value, colour, reach in figures
    ]  # fmt: skip


def against_document(
    value: float, interval: tuple[float, float] | None, document: tuple[float, str]
) -> str:
    """How far the document's figure is away, and whether the interval holds it."""
    other, after = document
    points = 100 * (value - other)
    way = f"{abs(points):.2f} points {'below' if points > 0 else 'above'}"
    where = ""
    if interval:
        inside = interval[0] <= other <= interval[1]
        where = ", inside the interval" if inside else ", outside the interval"
    return f"The document reports {percent(other)}{after}: {way}{where}."
