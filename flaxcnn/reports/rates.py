"""The picture of a learning-rate range test."""

from __future__ import annotations

from pathlib import Path

from flaxcnn.errors import WriteError
from flaxcnn.records.rate_range import RateRange
from flaxcnn.reports.style import (
    INK,
    TEST,
    TRAIN,
    VALIDATION,
    Picture,
    blank,
    heading,
    panel,
    styled,
)


@styled
def rate_range(found: RateRange) -> Picture:
    """Losses over the learning rate, smoothed and not; where they fall fastest and are lowest."""
    figure = blank(3.1)
    axes = panel(figure, 0.62, 0.48, top=0.62)
    length = len(found.smoothed)
    axes.plot(found.rates[:length], found.losses[:length], ".", color=INK, markersize=2,
              label="each batch")  # fmt: skip
    axes.plot(found.rates[:length], found.smoothed, "-", color=TRAIN, label="mean around it")
    for rate, name, colour, marker in ((found.steepest, "falls fastest", TEST, "s"),
                                       (found.lowest, "lowest", VALIDATION, "*")):  # fmt: skip
        if rate is not None:
            height = found.smoothed[list(found.rates).index(rate)]
            axes.plot([rate], [height], marker, color=colour, markersize=8, markeredgecolor=INK,
                      label=f"{name}, {rate:.2g}")  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss (nats per row)")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, borderpad=0)
    title = f"Loss while the learning rate grows, {len(found.rates)} updates"
    heading(axes, title)
    return Picture("rate-range", title, f"{title}: {found.sentence}.", figure)


def draw(found: RateRange, path: Path) -> None:
    """Write the picture, on white.

    Raises:
        WriteError: the file cannot be written.
    """
    try:
        rate_range(found).figure.savefig(path, dpi=200, facecolor="white")
    except OSError as error:
        raise WriteError(f"cannot write {path} ({error.strerror})") from error
