"""Several recipes or seeds side by side: accuracy with intervals, spread, settings, speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from flaxcnn.report.style import (
    INK,
    SHADES,
    TEST,
    TRAIN,
    WIDTH,
    Picture,
    blank,
    clean,
    heading,
    margin,
    pair_of,
    panel,
    short,
    styled,
)

LONGEST = 26  # letters of a name at an axis
MOST = 40  # recipes that a picture holds


@dataclass(frozen=True)
class Point:
    """A recipe: its accuracy with a 95 % interval, where there is one, and its parameters."""

    name: str
    value: float
    interval: tuple[float, float] | None
    params: int | None = None

    def told(self) -> str:
        """`name 0.9812 [0.9780, 0.9840]`."""
        ends = f" [{self.interval[0]:.4f}, {self.interval[1]:.4f}]" if self.interval else ""
        return f"{clean(self.name)} {self.value:.4f}{ends}"


@styled
def against_parameters(points: Sequence[Point], split: str = "test") -> Picture:
    """Accuracy over the number of parameters, logarithmic."""
    shown = [(point, point.params) for point in points if point.params][:MOST]
    named = min(len(shown), 8)
    top = 0.4 + 0.16 * named
    figure = blank(2.7 + top)
    axes = panel(figure, 0.68, 0.48, top=top)
    for number, (point, params) in enumerate(shown):
        colour, marker = pair_of(number)
        low, high = point.interval or (point.value, point.value)
        axes.errorbar(
            [params], [point.value],
            [[max(0.0, point.value - low)], [max(0.0, high - point.value)]],
            fmt=marker, color=colour, capsize=3, markersize=6,
            label=short(point.name, 60) if number < 8 else "_",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    counts = [params for _, params in shown]
    if max(counts) < 10 * min(counts):  # no power of ten may lie between them
        axes.set_xticks(sorted(set(counts)))
        axes.minorticks_off()
        if len(set(counts)) > 4:
            axes.set_xticks([min(counts), max(counts)])
        axes.set_xlim(min(counts) / 1.25, max(counts) * 1.25)
    axes.set_xlabel("parameters (log scale)")
    axes.set_ylabel(f"{split} accuracy (share of rows)")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderpad=0)
    title = "Accuracy against parameters, 95 % intervals"
    heading(axes, title)
    alt = "; ".join(f"{p.told()} with {params:,} parameters" for p, params in shown)
    return Picture("accuracy-parameters", title, f"{split} accuracy: {alt}.", figure)


@styled
def seed_distribution(
    settings: Sequence[tuple[Point, Mapping[int, float]]], split: str = "test"
) -> Picture:
    """The accuracy of every seed as a point, the mean and its interval beside them."""
    shown = settings[:MOST]
    names = [short(point.name or "all seeds", LONGEST) for point, _ in shown]
    figure = blank(1.15 + 0.5 * len(shown))
    axes = panel(figure, max(0.3, margin(names)), 0.48)
    for row, (point, values) in enumerate(shown):
        x = np.array(list(values.values()))
        # Equal values stand beside one another, not on one another.
        order = dict.fromkeys(x, 0)
        lift = []
        for v in x:
            lift.append(order[v])
            order[v] += 1
        y = row + 0.12 + 0.07 * np.minimum(np.array(lift, float), 5)
        axes.plot(x, y, "o", color=TRAIN, alpha=0.75, markersize=4)
        low, high = point.interval or (point.value, point.value)
        axes.errorbar([point.value], [row - 0.15], xerr=[[point.value - low], [high - point.value]],
                      fmt="D", color=TEST, capsize=4, markersize=5)  # fmt: skip
    axes.set_yticks(range(len(shown)), names, size=8)
    axes.set_ylim(len(shown) - 0.35, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(f"{split} accuracy (share of rows); diamond: mean, 95 %")
    title = f"{split.capitalize()} accuracy of every seed"
    heading(axes, title)
    told = "; ".join(
        f"{point.told()} over {len(values)} seeds, from {min(values.values()):.4f} to "
        f"{max(values.values()):.4f}"
        for point, values in shown
    )
    more = f"; and {len(settings) - MOST} settings more" if len(settings) > MOST else ""
    return Picture("seeds", title, f"Mean with 95 % interval: {told}{more}.", figure)


@styled
def heat_map(
    rows: tuple[str, Sequence[str]], columns: tuple[str, Sequence[str]], values: np.ndarray,
    split: str = "test",
) -> Picture:  # fmt: skip
    """Mean accuracy [R, C] of a grid of two settings, each (name, values); NaN: none complete."""
    labels = [short(text, 14) for text in rows[1]]
    left, bottom = max(0.5, margin(labels) + 0.25), 0.52
    figure = blank(0.36 + bottom + 0.38 * len(labels))
    axes = panel(figure, left, bottom)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    axes.imshow(values, cmap=SHADES, vmin=low - 0.1 * (high - low or 1), vmax=high or 1,
                interpolation="none", aspect="auto")  # fmt: skip
    wide = (WIDTH - left) * 72 / max(len(columns[1]), 1)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            text = f"{value:.4f}" if np.isfinite(value) else "none"
            axes.text(j, i, text, ha="center", va="center", size=min(9.0, wide / 4.2))
    axes.set_xticks(range(len(columns[1])), [short(t, max(3, int(wide / 5))) for t in columns[1]],
                    size=8)  # fmt: skip
    axes.set_yticks(range(len(labels)), labels, size=8)
    axes.set_xlabel(short(columns[0], 50))
    axes.set_ylabel(short(rows[0], 40))
    axes.grid(False)
    title = f"Mean {split} accuracy of each setting"
    heading(axes, title)
    if not finite.size:
        return Picture("grid", title, "No setting has a complete run.", figure)
    i, j = divmod(int(np.nanargmax(values)), values.shape[1])
    alt = (
        f"Highest {high:.4f} at {clean(rows[0])}={clean(rows[1][i])}, {clean(columns[0])}="
        f"{clean(columns[1][j])}; lowest {low:.4f}."
    )
    return Picture("grid", title, alt, figure)


@styled
def throughput(rates: Sequence[tuple[str, float]]) -> Picture:
    """Training speed of each run, images per second."""
    shown = rates[:MOST]
    names = [short(name, LONGEST) for name, _ in shown]
    figure = blank(0.9 + 0.3 * len(shown))
    axes = panel(figure, margin(names), 0.48, right=0.75)
    speeds = [rate for _, rate in shown]
    axes.barh(range(len(shown)), speeds, 0.7, color=TRAIN, alpha=0.5, edgecolor=TRAIN)
    for row, speed in enumerate(speeds):
        axes.annotate(f"{speed:,.0f}", (speed, row), (4, 0), textcoords="offset points",
                      va="center", size=8, color=INK)  # fmt: skip
    axes.set_yticks(range(len(shown)), names, size=8)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("images per second in training")
    title = "Throughput of each run"
    heading(axes, title)
    alt = "; ".join(f"{clean(name)} {rate:,.0f} images per second" for name, rate in shown)
    return Picture("throughput", title, f"{alt}.", figure)
