"""The network as a drawing: one box per layer, as wide as its output is large."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.patches import FancyBboxPatch

from flaxcnn.recipe.layers import Row, totals
from flaxcnn.reports.style import INK, TEST, TRAIN, WIDTH, Picture, blank, heading, short, styled

STEP = 0.29  # inches a layer
MOST = 80  # layers that a drawing holds
SHOWN = ("kind", "filters", "units", "kernel", "size", "rate", "padding", "activation", "function")


def described(row: Row) -> str:
    """What a layer is, in a few words: `32 3x3 same relu`."""
    values = {key: getattr(row.layer, key, None) for key in SHOWN}
    words = []
    for key, value in values.items():
        if value is None or value == "":
            continue
        if key in ("kernel", "size"):
            words.append("×".join(map(str, value if isinstance(value, tuple) else (value, value))))
        elif key == "rate":
            words.append(f"{value:g}")
        else:
            words.append(str(value))
    return " ".join(words)


def size(shape: Sequence[Any]) -> str:
    """`28×28×32`."""
    return "×".join(map(str, shape))


@styled
def architecture(rows: Sequence[Row]) -> Picture:
    """Every layer from the input down, with output shape and parameters."""
    shown = rows[:MOST]
    counts = totals(list(rows))
    height = 0.8 + STEP * (len(shown) + 1)
    figure = blank(height)
    axes = figure.add_axes((0, 0, 1, (height - 0.36) / height))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(height - 0.36, 0)
    axes.axis("off")
    for x, text, side in ((0.1, "layer", "left"), (3.25, "output", "center"),
                          (WIDTH - 0.1, "parameters", "right")):  # fmt: skip
        axes.text(x, 0.16, text, ha=side, va="center", size=8, weight="bold")
    first = rows[0].input
    lines: list[tuple[str, str, Sequence[int], int | None]] = [("input", "", first, None)]
    lines += [(row.name, described(row), row.output, row.params) for row in shown]
    largest = max(math.log1p(math.prod(shape)) for _, _, shape, _ in lines)
    for place, (name, words, shape, params) in enumerate(lines):
        y = 0.42 + STEP * place
        wide = max(0.12, 1.55 * math.log1p(math.prod(shape)) / largest)
        colour = TRAIN if params else INK if params is None else TEST
        axes.add_patch(
            FancyBboxPatch((3.25 - wide / 2, y - 0.1), wide, 0.2, facecolor=colour, alpha=0.22,
                           boxstyle="round,pad=0,rounding_size=0.05", edgecolor="none")
        )  # fmt: skip
        axes.text(0.1, y, name, va="center", size=8.5)
        axes.text(0.1 + 0.068 * len(name) + 0.1, y, short(words, 30 - len(name)), va="center",
                  size=7)  # fmt: skip
        axes.text(3.25, y, size(shape), ha="center", va="center", size=8)
        if params is not None:
            axes.text(WIDTH - 0.1, y, f"{params:,}" if params else "·", ha="right", va="center",
                      size=8.5)  # fmt: skip
    title = f"{len(rows)} layers, {counts['params']:,} parameters"
    heading(axes, title)
    heaviest = max(rows, key=lambda row: row.params)
    more = f" The last {len(rows) - MOST} layers are not drawn." if len(rows) > MOST else ""
    alt = (
        f"From {size(first)} pixels to {size(rows[-1].output)} logits in {len(rows)} layers with "
        f"{counts['macs']:,} multiply-adds an image; {heaviest.name} has the most parameters, "
        f"{heaviest.params:,} of {counts['params']:,}. The table has every layer.{more}"
    )
    return Picture("architecture", title, alt, figure)
