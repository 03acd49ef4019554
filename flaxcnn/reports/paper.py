"""Figures of runs, studies and comparisons for papers, in the style of print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from flaxcnn.errors import ConfigError
from flaxcnn.reports.curves import series, spread
from flaxcnn.reports.differences import VERDICTS
from flaxcnn.reports.print_style import DASHES, GREY, INK, MARKERS, PALETTE, printed
from flaxcnn.reports.sides import Side

GOLDEN = 0.62  # height over width of a figure with two axes
ROW = 0.34  # inches of a recipe in a figure with one
MOST = 12  # recipes in a figure
FEW = 20  # epochs that have a marker each
LEGEND_ROW = 0.14  # inches
LETTER = 0.06  # inches, of a name


def figures(
    sides: Sequence[Side], compared: Mapping[str, Any] | None, width: float, font: str
) -> dict[str, Figure]:
    """Name -> figure, of all that the records allow.

    Args:
        sides: of which the first is what others are compared with.
        compared: of `flaxcnn.compare(...).to_dict()`.
        width: in inches.
        font: "serif" or "sans".
    """
    if not sides:
        raise ConfigError("figures needs a complete run; there is none")
    sides, made = sides[:MOST], {}
    with printed(font):
        if any(any(side.histories) for side in sides):
            for metric in ("accuracy", "loss"):
                made[metric] = curves(sides, metric, width)
        made["seeds"] = seeds(sides, width)
        if compared is not None:
            made["differences"] = differences(compared, width)
        if len({side.point.params for side in sides}) > 1:
            made["parameters"] = parameters(sides, width)
        if len(sides) == 1 and sides[0].predicted:
            made["confusion"] = confusion(sides[0], width)
    return made


def _percent(axes: Axes, axis: str, what: str) -> None:
    own = axes.xaxis if axis == "x" else axes.yaxis
    own.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}"))
    own.set_label_text(f"{what} (%)")


def _legend(figure: Figure, axes: Axes, width: float) -> None:
    """Below the axes, in as many columns as fit."""
    handles, labels = axes.get_legend_handles_labels()
    longest = max(map(len, labels))
    columns = max(1, min(len(labels), int(width / (0.5 + LETTER * longest))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1.2)


def _name_rows(axes: Axes, names: Sequence[str], width: float) -> None:
    """Beside the rows, or above them where that would leave too little of a narrow figure."""
    beside = LETTER * max(map(len, names)) < width / 3
    if beside:
        axes.set_yticks(range(len(names)), names)
    else:
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        for row, name in enumerate(names):
            axes.text(0, row - 0.28, name, transform=axes.get_yaxis_transform(), va="bottom",
                      size=7)  # fmt: skip
    axes.set_ylim(len(names) - 0.5, -0.5 if beside else -0.8)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(5 if width > 4 else 4))


def curves(sides: Sequence[Side], metric: str, width: float) -> Figure:
    """Validation curves: the median over seeds, and a band from the lowest to the highest."""
    rows = len(sides) if len(sides) > 1 else 1
    figure = Figure((width, width * GOLDEN + LEGEND_ROW * rows), layout="constrained")
    axes = figure.subplots()
    for number, side in enumerate(sides):
        histories = [history for history in side.histories if history]
        if not histories:
            continue
        prefixes = ["train", "val"] if len(sides) == 1 else ["val"]
        for place, prefix in enumerate(prefixes):
            epochs, (low, middle, high) = spread(histories, f"{prefix}_{metric}")
            style = number if len(sides) > 1 else place
            name = {"train": "training", "val": "validation"}[prefix]
            axes.plot(epochs, middle, linestyle=DASHES[style % len(DASHES)],
                      color=PALETTE[style % len(PALETTE)],
                      marker=MARKERS[style % len(MARKERS)] if len(epochs) <= FEW else None,
                      label=side.label if len(sides) > 1 else name)  # fmt: skip
            if len(histories) > 1:
                axes.fill_between(epochs, low, high, color=PALETTE[style % len(PALETTE)],
                                  alpha=0.18, linewidth=0)  # fmt: skip
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    what = "validation " if len(sides) > 1 else ""
    if metric == "accuracy":
        _percent(axes, "y", f"{what}accuracy")
        _zoom(axes, sides)
    else:
        axes.set_ylabel(f"{what}loss (nats)")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(FuncFormatter(_one_two_five))
    _legend(figure, axes, width)
    return figure


def _one_two_five(value: float, _: int) -> str:
    digit = f"{value:e}"[0]
    return f"{value:g}" if digit in "25" else ""


def _zoom(axes: Axes, sides: Sequence[Side]) -> None:
    """Leave out the first epochs where they would make the rest a flat line."""
    late = []
    for side in sides:
        for history in side.histories:
            values = series(history, "val_accuracy")[1]
            late += [value for value in values[len(values) // 4 :] if np.isfinite(value)]
    if late:
        low, high = axes.get_ylim()
        room = 0.15 * (max(late) - min(late) or 0.01)
        axes.set_ylim(max(low, min(late) - room), min(high, 1.0))


def seeds(sides: Sequence[Side], width: float) -> Figure:
    """Test accuracy of every seed, the mean and its 95 % interval."""
    figure = Figure((width, 0.55 + ROW * len(sides)), layout="constrained")
    axes = figure.subplots()
    for row, side in enumerate(sides):
        values = np.array(list(side.values().values()))
        colour = PALETTE[row % len(PALETTE)]
        axes.plot(values, np.full(len(values), row + 0.17), "|", color=colour, markersize=5)
        middle, ends = side.mean(), side.point.interval
        low, high = ends or (middle, middle)
        axes.errorbar([middle], [row - 0.1], xerr=[[middle - low], [high - middle]], fmt="D",
                      color=colour, capsize=2, markersize=3)  # fmt: skip
    _name_rows(axes, [side.label for side in sides], width)
    _percent(axes, "x", "test accuracy")
    return figure


def differences(compared: Mapping[str, Any], width: float) -> Figure:
    """A forest plot: each recipe's difference from the first with its 95 % interval."""
    shown = compared["comparisons"][:MOST]
    accuracy = compared["metric"].endswith("accuracy")
    scale = 100.0 if accuracy else 1.0
    figure = Figure((width, 0.6 + ROW * len(shown)), layout="constrained")
    axes = figure.subplots()
    if margins := [one["margin"] for one in shown if one["margin"]]:
        axes.axvspan(-max(margins) * scale, max(margins) * scale, color="#ececec", linewidth=0)
    for row, one in enumerate(shown):
        test, word = one["comparison"], VERDICTS[one["verdict"]][2]
        middle = scale * test["difference"]
        low, high = (scale * end for end in (test["interval"] or (test["difference"],) * 2))
        colour = {"better": PALETTE[2], "worse": PALETTE[1]}.get(one["verdict"], GREY)
        axes.errorbar([middle], [row], xerr=[[middle - low], [high - middle]], fmt="s",
                      color=colour, capsize=2, markersize=3.5)  # fmt: skip
        axes.text(1.02, row, word, transform=axes.get_yaxis_transform(), va="center", size=7)
    axes.axvline(0, color=INK, linewidth=0.8)
    _name_rows(axes, [one["label"] for one in shown], width)
    unit = "percentage points" if accuracy else compared["metric"].replace("_", " ")
    axes.set_xlabel(f"difference ({unit})")
    return figure


def parameters(sides: Sequence[Side], width: float) -> Figure:
    """Test accuracy over the number of parameters, 95 % intervals."""
    figure = Figure((width, width * GOLDEN + LEGEND_ROW * len(sides)), layout="constrained")
    axes = figure.subplots()
    for number, side in enumerate(sides):
        if not (size := side.point.params):
            continue
        middle, ends = side.mean(), side.point.interval
        low, high = ends or (middle, middle)
        axes.errorbar([size], [middle], [[middle - low], [high - middle]],
                      fmt=MARKERS[number % len(MARKERS)], color=PALETTE[number % len(PALETTE)],
                      capsize=2, label=side.label)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("parameters")
    _percent(axes, "y", "test accuracy")
    _legend(figure, axes, width)
    return figure


def confusion(side: Side, width: float) -> Figure:
    """Share of each class's test rows by the class called, all runs together."""
    kinds = side.kinds
    counts = np.zeros((kinds, kinds))
    for label, called in side.predicted:
        np.add.at(counts, (label, called), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure((width, width), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=1, interpolation="none")
    if kinds <= 20:
        size = min(7.0, 72 * width / kinds / 4.2)
        for i, j in zip(*np.nonzero(counts), strict=True):
            text = f"{100 * shares[i, j]:.0f}" if shares[i, j] >= 0.005 else "<1"
            axes.text(j, i, text, ha="center", va="center", size=size,
                      color="white" if shares[i, j] > 0.5 else INK)  # fmt: skip
        names = side.classes or [str(number) for number in range(kinds)]
        turned = 90 if max(map(len, names)) > 3 else 0
        axes.set_xticks(range(kinds), names, rotation=turned)
        axes.set_yticks(range(kinds), names)
    axes.grid(False)
    axes.tick_params(length=0)
    axes.set_xlabel("class called (% of the true class)")
    axes.set_ylabel("true class")
    return figure
