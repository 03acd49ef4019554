"""Pictures of a search: scores in the order tried, settings against scores, what mattered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from flaxcnn.records.format import value_text
from flaxcnn.reports.charts import Chart, Line
from flaxcnn.reports.style import (
    INK,
    TEST,
    TRAIN,
    Picture,
    blank,
    clean,
    heading,
    panel,
    short,
    styled,
)

MOST_SETTINGS = 8  # axes of the parallel coordinates, and slices
FAINTEST, STRONGEST = 0.15, 0.75  # of lines, from the lowest score to the highest
DECADES = 1.5  # powers of ten from which an axis is logarithmic
LETTERS = 14  # of a value at an axis
FEWEST, MOST_LETTERS = 4, 9  # of a value below a small axis; then its neighbour is left out
LETTER = 0.07  # inches, of a tick's label of size 8
GAP = 0.1  # inches between two labels
BESIDE = 0.1  # of an axis of values, on both sides of them


@dataclass(frozen=True)
class Trial:
    """A candidate that was scored: its place in the order, its settings, its score."""

    number: int
    settings: Mapping[str, Any]
    score: float
    winner: bool = False

    @property
    def name(self) -> str:
        """`3: learning_rate 0.01, batch_size 32`."""
        settings = ", ".join(f"{key} {value_text(v)}" for key, v in self.settings.items())
        return f"{self.number}: {settings}"


@dataclass(frozen=True)
class Scale:
    """Values of a setting on an axis from 0 to 1."""

    key: str
    places: list[float]  # of each trial
    ticks: list[tuple[float, str]]


def scale(key: str, values: Sequence[Any]) -> Scale:
    """Numbers by size, over several powers of ten by their logarithm; others side by side.

    >>> scale("optimizer", ["sgd", "adam", "sgd"]).places
    [0.0, 1.0, 0.0]
    >>> scale("learning_rate", [0.001, 0.1, 0.01]).places
    [0.0, 1.0, 0.5]
    """
    distinct = list(dict.fromkeys(map(value_text, values)))
    numbers = [float(value) for value in values
               if isinstance(value, int | float) and not isinstance(value, bool)]  # fmt: skip
    if len(numbers) < len(values) or len(distinct) == 1:
        step = 1 / max(len(distinct) - 1, 1)
        places = [distinct.index(value_text(value)) * step for value in values]
        ticks = [(number * step, text) for number, text in enumerate(distinct)]
        return Scale(key, places if len(distinct) > 1 else [0.5] * len(values),
                     ticks if len(distinct) > 1 else [(0.5, distinct[0])])  # fmt: skip
    low, high = min(numbers), max(numbers)
    log = low > 0 and high / low > 10**DECADES
    moved = [math.log10(number) if log else number for number in numbers]
    first, last = min(moved), max(moved)
    places = [round((each - first) / (last - first), 9) for each in moved]
    shown = sorted(set(numbers)) if len(set(numbers)) <= 5 else [low, high]
    if len(set(numbers)) > 5:
        middle = (first + last) / 2
        shown.append(10**middle if log else middle)
    at = lambda number: ((math.log10(number) if log else number) - first) / (last - first)  # noqa: E731
    return Scale(key, places, [(at(number), f"{number:.3g}") for number in sorted(shown)])


def apart(ticks: Sequence[tuple[float, str]], room: float) -> list[tuple[float, str]]:
    """The ticks whose labels do not touch on an axis of so many inches: both ends, then in order.

    >>> apart([(0.0, "32"), (0.1, "48"), (1.0, "256")], 1.5)
    [(0.0, '32'), (1.0, '256')]
    """
    ticks = sorted(ticks)
    step = room / max(len(ticks) - 1, 1)
    letters = max(FEWEST, min(MOST_LETTERS, int((step - GAP) / LETTER)))
    kept: list[tuple[float, str]] = []
    for at, text in [*ticks[:1], *ticks[:0:-1][:1], *ticks[1:-1]]:
        text = short(text, letters)
        needed = lambda other: LETTER * (len(text) + len(other)) / 2 + GAP  # noqa: B023, E731
        if all(abs(at - place) * room >= needed(other) for place, other in kept):
            kept.append((at, text))
    return sorted(kept)


@styled
def history(trials: Sequence[Trial], split: str) -> Picture:
    """The score of each candidate in the order tried, and the best so far."""
    numbers = [trial.number for trial in trials]
    scores = [trial.score for trial in trials]
    best = list(np.maximum.accumulate(scores))
    figure = blank(2.7)
    axes = panel(figure, 0.62, 0.48, top=0.55)
    axes.plot(numbers, scores, "o", color=TRAIN, alpha=0.7, label="each candidate")
    axes.step(numbers, best, where="post", color=TEST, label="best so far")
    axes.set_xlabel("candidates in the order tried")
    axes.set_ylabel(f"{split} accuracy (share of rows)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, borderpad=0)
    title = "Scores in the order tried"
    heading(axes, title)
    at = numbers[int(np.argmax(scores))]
    alt = (
        f"{len(trials)} candidates; the best score, {max(scores):.4f}, is that of candidate {at}, "
        f"and the first one has {scores[0]:.4f}."
    )
    points = [(trial.number, trial.score, trial.name, "train") for trial in trials]
    # A line with steps: two points at each change
    xs: list[float] = []
    ys: list[float] = []
    for number, value in zip(numbers, best, strict=True):
        if ys and value != ys[-1]:
            xs.append(number)
            ys.append(ys[-1])
        xs.append(number)
        ys.append(value)
    chart = Chart([Line("best so far", xs, ys, "test")], "candidate", percent=True, points=points)
    left = len(trials) - 1 - numbers.index(at)
    insight = f"The best was candidate {at} of {len(trials)}; {left} later ones were not better."
    return Picture("history", title, alt, figure, insight=insight, chart=chart)


@styled
def parallel(trials: Sequence[Trial], split: str) -> Picture:
    """A line for each candidate through its settings to its score: parallel coordinates."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))[:MOST_SETTINGS]
    scales = [scale(key, [trial.settings.get(key) for trial in trials]) for key in keys]
    scores = np.array([trial.score for trial in trials])
    low, high = float(scores.min()), float(scores.max())
    heights = (scores - low) / (high - low) if high > low else np.full(len(scores), 0.5)
    figure = blank(3.3)
    axes = panel(figure, 0.55, 0.5, right=0.6, top=0.42)
    for trial, height, *places in sorted(
        zip(trials, heights, *(each.places for each in scales), strict=True),
        key=lambda one: (one[0].winner, one[1]),
    ):
        strength = FAINTEST + (STRONGEST - FAINTEST) * float(height)
        colour, alpha, width = (TEST, 1.0, 2.6) if trial.winner else (TRAIN, strength, 1.2)
        axes.plot(range(len(keys) + 1), [*places, height], color=colour, alpha=alpha,
                  linewidth=width)  # fmt: skip
    ends = [(0.0, f"{low:.4f}"), (1.0, f"{high:.4f}")] if high > low else [(0.5, f"{low:.4f}")]
    for number, ticks in enumerate([*(each.ticks for each in scales), ends]):
        axes.plot([number, number], [0, 1], color=INK, linewidth=1)
        last = number == len(keys)
        for at, text in ticks:
            inner = 0 < number < len(keys) and at in (0.0, 1.0)  # lines meet there: above or below
            place = (0, 4 if at else -4) if inner else (4 if last else -4, 0)
            across = "center" if inner else "left" if last else "right"
            axes.annotate(short(text, LETTERS), (number, at), place, textcoords="offset points",
                          size=8, ha=across,
                          va=("bottom" if at else "top") if inner else "center")  # fmt: skip
    names = [short(key.rpartition(".")[2], 16) for key in keys]
    axes.set_xticks(range(len(keys) + 1), [*names, "score"], size=8.5)
    axes.set_yticks([])
    axes.set_ylim(-0.1, 1.06)
    axes.set_xlim(-0.1, len(keys) + 0.05)
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    title = "Settings of every candidate, and its score"
    heading(axes, title)
    best = max(trials, key=lambda trial: (trial.winner, trial.score))
    settings = ", ".join(f"{clean(key)} {clean(value_text(value))}"
                         for key, value in best.settings.items())  # fmt: skip
    alt = f"{len(trials)} candidates; the best has {settings or 'the recipe unchanged'}."
    insight = f"Green: the winner. The stronger the blue, the higher the {split} accuracy."
    return Picture("parallel", title, alt, figure, insight=insight)


@styled
def importance(shares: Mapping[str, float], by: str) -> Picture:
    """How much of the difference in scores each setting explains, the most first."""
    ranked = sorted(shares.items(), key=lambda item: -item[1])[: 2 * MOST_SETTINGS]
    figure = blank(0.36 + 0.5 + 0.36 * len(ranked))
    axes = panel(figure, 0.2, 0.5, right=0.55)
    for row, (key, share) in enumerate(ranked):
        axes.barh(row + 0.12, share, 0.3, color=TRAIN, alpha=0.5, edgecolor=TRAIN)
        axes.text(0.0, row - 0.12, short(key, 50), size=8.5, va="bottom")
        axes.annotate(f"{share:.0%}", (share, row + 0.12), (4, 0), textcoords="offset points",
                      va="center", size=8)  # fmt: skip
    axes.set_yticks([])
    axes.set_ylim(len(ranked) - 0.55, -0.6)
    axes.set_xlim(0, max(*shares.values(), 0.01) * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0%}"))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("share of the differences in score")
    title = "Which settings mattered"
    heading(axes, title)
    words = ", ".join(f"{clean(key)} {share:.0%}" for key, share in ranked[:4])
    return Picture("importance", title, f"{words}; {by}.", figure, insight=f"{by}.")


def main_effects(trials: Sequence[Trial]) -> dict[str, float]:
    """Setting -> share of the variance of scores that the means over its values explain.

    Shares of a whole grid add up to at most 1; the rest is what settings do together.
    """
    scores = np.array([trial.score for trial in trials])
    total = float(((scores - scores.mean()) ** 2).sum())
    keys = dict.fromkeys(key for trial in trials for key in trial.settings)
    if total == 0.0 or len(trials) < 3:
        return {}
    shares = {}
    for key in keys:
        groups: dict[str, list[float]] = {}
        for trial in trials:
            groups.setdefault(value_text(trial.settings.get(key)), []).append(trial.score)
        if len(groups) in (1, len(trials)):  # each value once explains everything
            continue
        between = sum(len(own) * (np.mean(own) - scores.mean()) ** 2 for own in groups.values())
        shares[key] = float(between) / total
    return shares


@styled
def slices(trials: Sequence[Trial], split: str) -> Picture:
    """The score over each setting, whatever the others are."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.settings))[:MOST_SETTINGS]
    rows = math.ceil(len(keys) / 2)
    figure = blank(0.4 + 1.75 * rows)
    height = figure.get_size_inches()[1]
    width = figure.get_size_inches()[0]
    scores = [trial.score for trial in trials]
    winner = next((i for i, trial in enumerate(trials) if trial.winner), None)
    for number, key in enumerate(keys):
        row, column = divmod(number, 2)
        left, wide = (0.62, 1.78) if column == 0 else (2.72, 1.96)
        bottom = height - 0.4 - 1.75 * row - 1.3
        axes = figure.add_axes((left / width, bottom / height, wide / width, 1.25 / height))
        own = scale(key, [trial.settings.get(key) for trial in trials])
        axes.plot(own.places, scores, "o", color=TRAIN, alpha=0.6, markersize=4)
        if winner is not None:
            axes.plot([own.places[winner]], [scores[winner]], "o", color=TEST, markersize=7,
                      markeredgecolor=INK)  # fmt: skip
        ticks = apart(own.ticks, wide / (1 + 2 * BESIDE))
        axes.set_xticks([at for at, _ in ticks], [text for _, text in ticks], size=8)
        axes.set_xlim(-BESIDE, 1 + BESIDE)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlabel(short(key, 28), size=8.5)
        if column == 0:
            axes.set_ylabel("score")
        else:
            axes.set_yticklabels([])
        if number == 0:
            heading(axes, "Score over each setting")
    alt = "; ".join(_range_of(key, trials) for key in keys)
    insight = f"Points: {split} accuracy of each candidate; green: the winner."
    return Picture("slices", "Score over each setting", f"{alt}.", figure, insight=insight)


def _range_of(key: str, trials: Sequence[Trial]) -> str:
    best = max(trials, key=lambda trial: trial.score)
    return f"{clean(key)}: the best score is at {clean(value_text(best.settings.get(key)))}"
