"""Pictures of differences: a forest plot of recipes against the first, and class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from flaxcnn.records.format import p_text
from flaxcnn.reports.style import (
    ERROR,
    INK,
    TEST,
    TRAIN,
    VALIDATION,
    Picture,
    blank,
    clean,
    heading,
    panel,
    short,
    styled,
)

MOST = 40  # recipes, or classes, that a picture holds
DESCRIBED = 4  # of them in words
LETTERS = 56  # of a label and its verdict on one line
# Verdict -> colour, marker, words
VERDICTS = {
    "better": (TEST, "o", "better"), "worse": (ERROR, "o", "worse"),
    "equivalent": (TRAIN, "s", "equivalent"), "not shown": (INK, "D", "no difference found"),
}  # fmt: skip


def points(value: float) -> str:
    """A share as percentage points: `+1.25`."""
    return f"{100 * value:+.2f}"


def _scale(accuracy: bool) -> tuple[float, str]:
    return (100.0, "percentage points") if accuracy else (1.0, "in the unit of the metric")


def _signed_axis(axes: Axes, unit: str) -> None:
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5, symmetric=False))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+g}" if x else "0"))
    axes.set_xlabel(f"difference, {unit}")


@styled
def forest(compared: Mapping[str, Any]) -> Picture:
    """Each recipe's difference from the first: 95 % interval, p and verdict.

    Args:
        compared: of `flaxcnn.compare(...).to_dict()`.
    """
    shown = compared["comparisons"][:MOST]
    metric = compared["metric"].replace("_", " ")
    scale, unit = _scale(compared["metric"].endswith("accuracy"))
    figure = blank(0.36 + 0.5 + 0.5 * len(shown))
    axes = panel(figure, 0.2, 0.5, right=0.2)
    margins = [one["margin"] for one in shown if one["margin"]]
    if margins:
        ends = (-max(margins) * scale, max(margins) * scale)
        axes.axvspan(*ends, color=INK, alpha=0.12, linewidth=0)
    for row, one in enumerate(shown):
        test = one["comparison"]
        colour, marker, word = VERDICTS[one["verdict"]]
        middle = test["difference"] * scale
        low, high = (scale * end for end in (test["interval"] or (test["difference"],) * 2))
        axes.errorbar([middle], [row], xerr=[[middle - low], [high - middle]], fmt=marker,
                      color=colour, capsize=4, markersize=6)  # fmt: skip
        told = ", ".join(filter(None, [word, p_text(one["p_value"])]))
        label = short(one["label"], LETTERS - len(told))
        axes.text(0.0, row - 0.24, label, size=8.5, va="bottom", weight="bold",
                  transform=axes.get_yaxis_transform())  # fmt: skip
        axes.text(1.0, row - 0.24, told, size=8.5, va="bottom", ha="right", color=colour,
                  transform=axes.get_yaxis_transform())  # fmt: skip
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -0.05 * (high - low)), max(high, 0.05 * (high - low)))
    axes.set_ylim(len(shown) - 0.6, -0.75)
    _signed_axis(axes, unit)
    title = f"Differences in {metric}"
    heading(axes, title)
    words = "; ".join(_described(one, scale) for one in shown[:DESCRIBED])
    more = len(compared["comparisons"]) - DESCRIBED
    alt = f"Against {clean(shown[0]['against'])}, in {unit}: {words}"
    insight = f"From {clean(shown[0]['against'])}; lines are 95 % intervals."
    if margins:
        insight += (
            f" Grey band: differences of at most {max(margins) * scale:.2g} {unit}, which are too "
            "small to matter."
        )
    return Picture("differences", title, f"{alt}{f'; and {more} more' if more > 0 else ''}.",
                   figure, insight=insight)  # fmt: skip


def _described(one: Mapping[str, Any], scale: float) -> str:
    test = one["comparison"]
    ends = test["interval"]
    between = f" [{ends[0] * scale:+.2f}, {ends[1] * scale:+.2f}]" if ends else ""
    word = VERDICTS[one["verdict"]][2]
    return f"{clean(one['label'])} {test['difference'] * scale:+.2f}{between}, {word}"


@styled
def by_class(
    classes: Sequence[str], first: tuple[str, np.ndarray], other: tuple[str, np.ndarray]
) -> Picture:
    """Recall of each class on two sides, the classes that differ most at the top.

    Args:
        classes: names [K].
        first: name and recalls [K], shares.
        other: the same of the other side.
    """
    change = other[1] - first[1]
    order = np.argsort(-np.abs(change), kind="stable")[:MOST]
    figure = blank(0.62 + 0.5 + 0.26 * len(order))
    left = min(1.5, 0.25 + 0.075 * max(len(short(classes[i], 18)) for i in order))
    axes = panel(figure, left, 0.5, right=0.55, top=0.62)
    for row, i in enumerate(order):
        a, b = 100 * first[1][i], 100 * other[1][i]
        colour = TEST if b >= a else ERROR
        axes.plot([a, b], [row, row], color=colour, linewidth=2, alpha=0.6)
        axes.text(1.02, row, f"{b - a:+.1f}", size=8, va="center",
                  transform=axes.get_yaxis_transform())  # fmt: skip
    rows = range(len(order))
    axes.plot(100 * first[1][order], rows, "o", color=TRAIN, markersize=5, markerfacecolor="none",
              markeredgewidth=1.5, label=short(first[0], 34))  # fmt: skip
    axes.plot(100 * other[1][order], rows, "o", color=VALIDATION, markersize=5,
              label=short(other[0], 34))  # fmt: skip
    axes.set_yticks(list(rows), [short(classes[i], 18) for i in order], size=8)
    axes.set_ylim(len(order) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("recall: share of the class's test rows that are right, %")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, borderpad=0)
    title = "Recall of each class"
    heading(axes, title)
    words = ", ".join(f"{clean(classes[i])} {100 * change[i]:+.1f}" for i in order[:DESCRIBED])
    alt = (
        f"Recall of {clean(other[0])} less that of {clean(first[0])}, in percentage points, the "
        f"largest differences: {words}."
    )
    return Picture("classes", title, alt, figure, insight=_most_changed(classes, change))


def _most_changed(classes: Sequence[str], change: np.ndarray) -> str:
    gain, loss = int(change.argmax()), int(change.argmin())
    parts = [
        f"{classes[i]} {word} most: {100 * change[i]:+.1f} points"
        for i, word, right in ((gain, "gains", change[gain] > 0), (loss, "loses", change[loss] < 0))
        if right
    ]
    return "; ".join(parts) + "." if parts else "No class differs."
