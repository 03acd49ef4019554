"""Several recipes or seeds side by side: accuracy with intervals, spread, settings, speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from flaxcnn.records.intervals import clipped
from flaxcnn.reports.style import (
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

MOST = 40  # recipes that a picture holds
DESCRIBED = 4  # of them in words


@dataclass(frozen=True)
class Point:
    """A recipe: its accuracy, its 95 % interval clipped to 0 and 1, and its parameters."""

    name: str
    value: float
    interval: tuple[float, float] | None
    params: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "interval", clipped(self.interval))

    def described(self) -> str:
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
    sizes = [params for _, params in shown]
    for number, (point, params) in enumerate(shown):
        colour, marker = pair_of(number)
        low, high = point.interval or (point.value, point.value)
        # Those of one size stand side by side, not on one another.
        aside = sizes[:number].count(params) - (sizes.count(params) - 1) / 2
        axes.errorbar(
            [params * 1.02**aside], [point.value],
            [[max(0.0, point.value - low)], [max(0.0, high - point.value)]],
            fmt=marker, color=colour, capsize=3, markersize=6,
            label=short(point.name, 60) if number < 8 else "_",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    lowest, highest = axes.get_ylim()
    axes.set_ylim(max(lowest, 0.0), min(highest, 1.01))  # an axis's margins know no bounds
    if max(sizes) < 10 * min(sizes):  # no power of ten may lie between them
        axes.set_xticks(sorted(set(sizes)))
        axes.minorticks_off()
        if len(set(sizes)) > 4:
            axes.set_xticks([min(sizes), max(sizes)])
        axes.set_xlim(min(sizes) / 1.25, max(sizes) * 1.25)
    axes.set_xlabel("parameters (log scale; equal ones side by side)")
    axes.set_ylabel(f"{split} accuracy (share of rows)")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), borderpad=0)
    title = "Accuracy against parameters, 95 % intervals"
    heading(axes, title)
    alt = "; ".join(
        f"{p.described()} with {params:,} parameters" for p, params in shown[:DESCRIBED]
    )
    more = f"; and {len(points) - DESCRIBED} more" if len(points) > DESCRIBED else ""
    words = f"{split.capitalize()} accuracy: {alt}{more}."
    return Picture("accuracy-parameters", title, words, figure)


@styled
def seed_distribution(
    settings: Sequence[tuple[Point, Mapping[int, float]]],
    split: str = "test",
    unit: str = "seed",
) -> Picture:
    """The accuracy of every seed (or fold) as a point, the mean and its interval beside them."""
    shown = settings[:MOST]
    alone = len(settings) == 1
    step = 0.62 if alone else 0.72  # inches a setting, with its name above it
    figure = blank(0.36 + 0.5 + step * len(shown))
    axes = panel(figure, 0.2, 0.5)
    for row, (point, values) in enumerate(shown):
        x = np.array(list(values.values()))
        axes.plot(x, row + 0.15 + _lifted(x), "o", color=TRAIN, alpha=0.75, markersize=4)
        low, high = point.interval or (point.value, point.value)
        axes.errorbar([point.value], [row - 0.1], xerr=[[point.value - low], [high - point.value]],
                      fmt="D", color=TEST, capsize=4, markersize=5)  # fmt: skip
        if not alone:
            axes.text(0.01, row - 0.3, short(point.name, 60), size=8, va="bottom",
                      transform=axes.get_yaxis_transform())  # fmt: skip
    left, right = axes.get_xlim()
    axes.set_xlim(max(left, 0.0), min(right, 1.004))  # an axis's margins know no bounds
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(shown) - 0.4, -0.35 if alone else -0.62)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(f"{split} accuracy (share of rows); points: {unit}s, diamond: mean, 95 %")
    title = f"{split.capitalize()} accuracy of every {unit}"
    heading(axes, title)
    ranked = sorted(shown, key=lambda one: -one[0].value)
    described = "; ".join(
        f"{point.described()} over {len(values)} {unit}s, from {min(values.values()):.4f} to "
        f"{max(values.values()):.4f}"
        for point, values in (ranked if len(ranked) < 3 else (ranked[0], ranked[-1]))
    )
    which = (
        "Mean with 95 % interval" if len(ranked) < 3 else "Highest and lowest mean with interval"
    )
    more = f" {len(settings) - MOST} settings are not drawn." if len(settings) > MOST else ""
    return Picture("seeds", title, f"{which}: {described}.{more}", figure)


def _lifted(values: np.ndarray) -> np.ndarray:
    """How far each point is moved aside, so that equal ones do not hide each other."""
    seen: dict[float, int] = {}
    places = []
    for value in values:
        places.append(min(seen.get(value, 0), 5))
        seen[value] = places[-1] + 1
    return 0.06 * np.array(places, float)


@styled
def heat_map(
    rows: tuple[str, Sequence[str]], columns: tuple[str, Sequence[str]], values: np.ndarray,
    split: str = "test",
) -> Picture:  # fmt: skip
    """Mean accuracy [R, C] of a grid of two settings, each (name, values); NaN: none complete."""
    labels = [short(text, 18) for text in rows[1]]
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
    figure = blank(0.36 + 0.5 + 0.42 * len(shown))
    axes = panel(figure, 0.2, 0.5, right=0.7)
    speeds = [rate for _, rate in shown]
    axes.barh(range(len(shown)), speeds, 0.4, color=TRAIN, alpha=0.5, edgecolor=TRAIN)
    for row, (name, speed) in enumerate(shown):
        axes.annotate(f"{speed:,.0f}", (speed, row), (4, 0), textcoords="offset points",
                      va="center", size=8, color=INK)  # fmt: skip
        axes.text(0.0, row - 0.27, short(name, 60), size=8, va="bottom")
    axes.set_yticks([])
    axes.set_ylim(len(shown) - 0.6, -0.75)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_xlabel("images per second in training")
    title = "Throughput of each run"
    heading(axes, title)
    ranked = sorted(rates, key=lambda one: -one[1])
    alt = "; ".join(f"{clean(name)} {rate:,.0f}" for name, rate in ranked[:DESCRIBED])
    more = f"; and {len(rates) - DESCRIBED} more" if len(rates) > DESCRIBED else ""
    return Picture("throughput", title, f"Images per second: {alt}{more}.", figure)
