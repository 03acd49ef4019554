"""Pictures of `flaxcnn bench`: rates of one machine, and ratios of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from flaxcnn.records.timings import Ratio, Timings, case_labels, case_of, shared_words
from flaxcnn.reports.print_style import GREY, INK, PALETTE, printed

ROW = 0.3  # inches a case
WIDTH = 6.5
# Of ratios; a quarter more or less only where there is nothing larger
TICKS = (*(n * 10.0**e for e in range(-3, 4) for n in (1, 2, 5)), 0.8, 1.25)


@printed()
def rates(results: Sequence[Mapping[str, Any]], machine: str) -> Figure:
    """A bar for each case: the median, with the slowest and the fastest block."""
    rows = [row for row in results if row["images_per_second"]]
    figure = Figure(figsize=(WIDTH, 1.0 + ROW * len(rows)), layout="constrained")
    axes = figure.subplots()
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    fastest = max((row["spread"][1] for row in rows), default=1)
    for place, row in enumerate(rows):
        rate, (low, high) = row["images_per_second"], row["spread"]
        axes.barh(place, rate, 0.62, color=PALETTE[modes.index(row["mode"])],
                  xerr=[[rate - low], [high - rate]], ecolor=INK, capsize=2)  # fmt: skip
        axes.annotate(f"{rate:,.0f}", (high, place), (4, 0), textcoords="offset points",
                      va="center", size="small")  # fmt: skip
    cases = [case_of(row) for row in rows]
    axes.set_yticks(range(len(rows)), case_labels(cases))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, fastest * 1.14)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("images per second: median of the blocks, slowest and fastest")
    axes.set_title(f"{shared_words(cases)} on {machine}".lstrip(), loc="left")
    return figure


@printed()
def compared(first: Timings, second: Timings, found: Sequence[Ratio]) -> Figure:
    """How many times as fast the second machine is in each case, on a logarithmic axis."""
    figure = Figure(figsize=(WIDTH, 1.35 + ROW * len(found)), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(found):
        colour = GREY if not one.apart else PALETTE[2] if one.ratio > 1 else PALETTE[1]
        axes.plot([1, one.ratio], [place, place], color=colour, linewidth=1, alpha=0.5)
        axes.errorbar([one.ratio], [place], xerr=[[one.ratio - one.low], [one.high - one.ratio]],
                      fmt="o", color=colour, capsize=2, markersize=4)  # fmt: skip
        axes.annotate(f"{one.ratio:.3g}x", (one.high, place), (5, 0), textcoords="offset points",
                      va="center", size="small")  # fmt: skip
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.set_xscale("log")
    ends = min(0.8, *(o.low for o in found)), max(1.25, *(o.high for o in found))
    axes.set_xlim(ends[0] / 1.1, ends[1] * (ends[1] / ends[0]) ** 0.12)
    ticks = [tick for tick in TICKS if ends[0] / 1.1 <= tick <= ends[1] * 1.1]
    axes.set_xticks([t for t in ticks if ends[1] / ends[0] < 4 or t not in TICKS[-2:]])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}x"))
    axes.minorticks_off()
    cases = [one.case for one in found]
    axes.set_yticks(range(len(found)), case_labels(cases))
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    what = f"images per second, {second.name} over {first.name}; grey: ranges touch"
    axes.set_xlabel(f"{shared_words(cases)}: {what}".lstrip(": "))
    axes.set_title(f"{second.name}: {second.machine}\n{first.name}: {first.machine}", loc="left")
    return figure
