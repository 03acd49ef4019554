"""Learning curves: of one run, of several, over the seeds of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from flaxcnn.reports.charts import Chart, Line
from flaxcnn.reports.style import (
    CLEAN_TRAIN,
    INK,
    LINES,
    TRAIN,
    VALIDATION,
    Picture,
    blank,
    heading,
    pair_of,
    panel,
    short,
    side_of,
    styled,
)

History = Sequence[Mapping[str, Any]]
# Prefix in metrics.jsonl -> name, colour.
SPLITS = {
    "train": ("training, running mean", TRAIN),
    "clean_train": ("training, after the epoch", CLEAN_TRAIN),
    "val": ("validation", VALIDATION),
}
# Prefix -> the same for a chart: name, colour of `style.COLOURS`, dashes.
DRAWN = {
    "train": ("training", "train", ""),
    "clean_train": ("training, after", "clean-train", "1 4"),
    "val": ("validation", "validation", "7 4"),
}
METRICS = {"accuracy": "accuracy (share of rows)", "loss": "loss (nats per row)"}
FEW = 30  # epochs that have a marker each
NAMED = 8  # settings or runs that a legend holds


def series(history: History, key: str) -> tuple[np.ndarray, np.ndarray]:
    """(epochs, values) of the lines with the key; NaN if it was not finite."""
    rows = [row for row in history if key in row]
    values = [np.nan if row[key] is None else row[key] for row in rows]
    return np.array([row["epoch"] for row in rows]), np.array(values, float)


def _seconds(histories: Sequence[History], epochs: np.ndarray) -> dict[str, np.ndarray]:
    """The time that training took until the end of each epoch: the median of the runs."""
    taken: dict[int, list[float]] = {}
    for history in histories:
        total = 0.0
        for row in history:
            total += row.get("seconds") or np.nan
            taken.setdefault(row["epoch"], []).append(total)
    values = np.array([float(np.median(taken[epoch])) for epoch in epochs])
    return {"seconds": values} if len(values) and np.isfinite(values).all() else {}


def _chart(lines: Sequence[Line], metric: str, **more: Any) -> Chart:
    accuracy = metric == "accuracy"
    return Chart(lines, "epoch", "" if accuracy else "nats per image", accuracy, log=True, **more)


def _epochs_axis(axes: Axes, metric: str) -> None:
    axes.set_xlabel("epoch (passes over the training rows)")
    axes.set_ylabel(METRICS[metric])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


@styled
def learning(
    history: History, metric: str, best: int | None, summary: Mapping[str, Any] | None = None,
    steps: int | None = None,
) -> Picture:  # fmt: skip
    """Accuracy or loss of each split over the epochs of one run, the best epoch marked.

    With the `summary`, a chart shows the test figure of the weights that were kept too; with the
    number of `steps` of an epoch, its axis can be that of steps.
    """
    figure = blank(3.1)
    axes = panel(figure, 0.62, 0.48, top=0.62)
    words, lines = [], []
    for prefix, (name, colour) in SPLITS.items():
        x, y = series(history, f"{prefix}_{metric}")
        if not len(x):
            continue
        called, own, dash = DRAWN[prefix]
        also = {"step": x * steps} if steps else {}
        lines.append(Line(called, x, y, own, dash, also={**also, **_seconds([history], x)}))
        marker = "o" if len(x) <= FEW else None
        axes.plot(x, y, LINES[prefix], color=colour, marker=marker, label=name)
        finite = y[np.isfinite(y)]
        if len(finite):
            words.append(f"{name} {_from_to(finite)}")
    x, y = series(history, f"val_{metric}")
    title = f"{metric.capitalize()} over {len(x)} {'epoch' if len(x) == 1 else 'epochs'}"
    if best is not None:
        value = float(y[list(x).index(best)])
        axes.axvline(best, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.plot([best], [value], "*", color=VALIDATION, markersize=11, markeredgecolor=INK,
                  label=f"best epoch, {best}")  # fmt: skip
        words.append(f"the best epoch is {best}, with {value:.4f} on validation")
    _epochs_axis(axes, metric)
    _legend(axes)
    heading(axes, title)
    alt = f"{metric.capitalize()} per epoch: {'; '.join(words)}."
    mark = None if best is None else (best, f"best epoch, {best}")
    points = []
    if summary:
        points = [(summary["kept_epoch"], summary[f"test_{metric}"], "test", "test")]
    chart = _chart(lines, metric, mark=mark, points=points)
    return Picture(f"learning-{metric}", title, alt, figure, chart=chart)


def _from_to(values: np.ndarray) -> str:
    first, last = float(values[0]), float(values[-1])
    if len(values) == 1:
        return f"is {first:.4f}"
    if last == first:
        return f"is {first:.4f} in the first epoch and in the last"
    way = "rises" if last > first else "falls"
    return f"{way} from {first:.4f} to {last:.4f}"


def _legend(axes: Axes, columns: int = 2) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, borderpad=0,
                handlelength=2.4, columnspacing=1.2)  # fmt: skip


@styled
def overlay(runs: Sequence[tuple[str, History]], metric: str) -> Picture:
    """One validation curve per run, all in one picture."""
    shown = [(name, *series(history, f"val_{metric}")) for name, history in runs]
    named = min(len(shown), NAMED)
    top = 0.4 + 0.16 * named + (0.16 if len(shown) > NAMED else 0)
    figure = blank(2.7 + top)
    axes = panel(figure, 0.62, 0.48, top=top)
    ends, lines = [], []
    for number, (name, x, y) in enumerate(shown):
        also = _seconds([runs[number][1]], x)
        lines.append(Line(short(name, 40), x, y, *side_of(number), also=also))
        colour, marker = pair_of(number)
        label = short(name, 60) if number < NAMED else "_"
        axes.plot(x, y, "-", color=colour, marker=marker if len(x) <= FEW else None,
                  linewidth=1.2, label=label)  # fmt: skip
        if len(y) and np.isfinite(y).any():
            best = float(np.nanmax(y) if metric == "accuracy" else np.nanmin(y))
            ends.append(f"{name} {best:.4f}")
    _epochs_axis(axes, metric)
    handles, labels = axes.get_legend_handles_labels()
    if len(shown) > NAMED:
        handles.append(axes.plot([], [], color="none")[0])
        labels.append(f"and {len(shown) - NAMED} more")
    axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderpad=0)
    title = f"Validation {metric} of {len(shown)} runs"
    heading(axes, title)
    more = f" and {len(ends) - NAMED} more" if len(ends) > NAMED else ""
    end = "highest" if metric == "accuracy" else "lowest"
    alt = f"Validation {metric} per epoch; {end} value of {', '.join(ends[:NAMED])}{more}."
    return Picture(f"overlay-{metric}", title, alt, figure, chart=_chart(lines, metric))


def every(
    histories: Sequence[History], names: Sequence[str], key: str, epochs: np.ndarray
) -> dict[str, list[float]]:
    """Name of a run -> its values at the epochs, NaN where it has none."""
    found = {}
    for name, history in zip(names, histories, strict=True):
        values = dict(zip(*(part.tolist() for part in series(history, key)), strict=True))
        found[name] = [values.get(epoch, np.nan) for epoch in epochs.tolist()]
    return found


def spread(histories: Sequence[History], key: str) -> tuple[np.ndarray, np.ndarray]:
    """(epochs [E], values [3, E]): lowest, median, highest of the runs that have the epoch."""
    by_epoch: dict[int, list[float]] = {}
    for history in histories:
        for epoch, value in zip(*series(history, key), strict=True):
            if np.isfinite(value):
                by_epoch.setdefault(int(epoch), []).append(float(value))
    epochs = np.array(sorted(by_epoch))
    values = [[min(by_epoch[e]), float(np.median(by_epoch[e])), max(by_epoch[e])] for e in epochs]
    return epochs, np.array(values).reshape(-1, 3).T


@styled
def bands(
    settings: Sequence[tuple[str, Sequence[History]]], metric: str,
    seeds: Sequence[Sequence[int]] = (),
) -> Picture:  # fmt: skip
    """Median over seeds with a band from the lowest to the highest; one colour per setting.

    Args:
        settings: the name and the runs of each.
        metric: accuracy or loss.
        seeds: of the runs of each setting; by default the first ones.
    """
    shown = settings[:NAMED]
    alone = len(shown) == 1
    top = 0.62 if alone else 0.4 + 0.16 * len(shown)
    figure = blank(2.6 + top)
    axes = panel(figure, 0.62, 0.48, top=top)
    words, lines = [], []
    for number, (name, histories) in enumerate(shown):
        named = [f"seed {seed}" for seed in (seeds[number] if seeds else range(len(histories)))]
        for prefix, (split, own) in SPLITS.items() if alone else [("val", SPLITS["val"])]:
            x, y = spread(histories, f"{prefix}_{metric}")
            if not len(x):
                continue
            called, shade, dash = DRAWN[prefix] if alone else (name, *side_of(number))
            each = every(histories, named, f"{prefix}_{metric}", x)
            also = _seconds(histories, x)
            lines.append(Line(called, x, y[1], shade, dash, y[0], y[2], each, also))
            colour, marker = (own, "o") if alone else pair_of(number)
            style = LINES[prefix] if alone else "-"
            axes.fill_between(x, y[0], y[2], color=colour, alpha=0.22, linewidth=0)
            axes.plot(x, y[1], style, color=colour, marker=marker if len(x) <= FEW else None,
                      label=split if alone else short(name, 60))  # fmt: skip
            words.append(
                f"{split.capitalize() if alone else name}: median {y[1][0]:.4f} in epoch {x[0]} "
                f"and {y[1][-1]:.4f} in epoch {x[-1]}, there from {y[0][-1]:.4f} to {y[2][-1]:.4f}"
            )
    _epochs_axis(axes, metric)
    _legend(axes, 2 if alone else 1)
    most = max((len(histories) for _, histories in settings), default=0)
    what = metric.capitalize() if alone else f"Validation {metric}"
    title = f"{what} over {most} seeds: median, lowest, highest"
    heading(axes, title)
    more = f" {len(settings) - NAMED} more settings are not drawn." if len(settings) > NAMED else ""
    alt = f"{'; '.join(words)}.{more}"
    return Picture(f"bands-{metric}", title, alt, figure, chart=_chart(lines, metric))
