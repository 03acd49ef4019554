"""Pictures of images: samples, predictions, mistakes, and the filters of the first layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.patches import Rectangle

from flaxcnn.records.format import count_text
from flaxcnn.reports.style import (
    ERROR,
    INK,
    WIDTH,
    Picture,
    blank,
    clean,
    heading,
    panel,
    short,
    styled,
)
from flaxcnn.reports.tiles import Tile, Tiles, source

LARGEST = 64  # pixels a side that a page shows
FILLED = 0.86  # of a cell's width, by its image
BRIEF = 3  # letters of a class name that fits under a small image
MOST_FILTERS = 64
LINES = 2  # under an image that is mixed
SIGN = "×"  # before a wrong prediction


def _rgba(images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, 1, 3 or any] as [N, h, w, 4], every n-th pixel of what is large."""
    step = math.ceil(max(images.shape[1:3]) / LARGEST)
    small = images[:, ::step, ::step]
    if small.shape[-1] != 3:
        small = np.repeat(small[..., :1], 3, axis=-1)
    return np.concatenate([small, np.full((*small.shape[:3], 1), 255, np.uint8)], axis=-1)


def _grid(
    images: np.ndarray, texts: Sequence[str], wrong: Sequence[bool], columns: int, title: str,
    size: float = 7.0, lines: int = 1,
) -> Picture:  # fmt: skip
    """Images in rows, a text under each and a frame around wrong ones; no text alternative yet."""
    pixels = _rgba(images)
    count, height, width = pixels.shape[:3]
    rows = math.ceil(count / columns)
    per_inch = width / (FILLED * (WIDTH - 0.2) / columns)
    across = max(math.ceil(width / FILLED), width + 1)
    down = height + math.ceil(lines * size * 1.45 / 72 * per_inch) + (across - width)
    canvas = np.zeros((rows * down, columns * across, 4), np.uint8)
    for index, image in enumerate(pixels):
        y, x = index // columns * down, index % columns * across
        canvas[y : y + height, x : x + width] = image
    tall = (WIDTH - 0.2) * canvas.shape[0] / canvas.shape[1]
    figure = blank(tall + 0.42)
    axes = figure.add_axes(
        (0.1 / WIDTH, 0.06 / (tall + 0.42), 1 - 0.2 / WIDTH, tall / (tall + 0.42))
    )
    box = (0, canvas.shape[1], canvas.shape[0], 0)
    axes.imshow(canvas, interpolation="none", extent=box, aspect="auto")
    axes.axis("off")
    for index, (text, is_wrong) in enumerate(zip(texts, wrong, strict=True)):
        y, x = index // columns * down, index % columns * across
        axes.text(x + width / 2, y + height + 0.12 * (down - height), text, ha="center", va="top",
                  size=size, color=ERROR if is_wrong else INK,
                  weight="bold" if is_wrong else "normal", linespacing=1.15)  # fmt: skip
        if is_wrong:
            axes.add_patch(Rectangle((x, y), width, height, fill=False, color=ERROR, linewidth=1.6))
    heading(axes, title)
    return Picture("", title, "", figure)


def brief(names: Sequence[str]) -> list[str]:
    """Class names that fit under a small image: their numbers if one of them is too long."""
    plain = [clean(name) for name in names]
    fits = all(len(name) <= BRIEF for name in plain)
    return plain if fits else [str(i) for i in range(len(plain))]


def legend(names: Sequence[str], used: np.ndarray) -> str:
    """What the numbers of `brief` stand for; empty if it has the names themselves."""
    if brief(names) == list(names):
        return ""
    return " " + ", ".join(f"{i} is {clean(names[i])}" for i in np.unique(used)) + "."


@styled
def variants(
    stored: np.ndarray, augmented: np.ndarray, label: np.ndarray, target: np.ndarray | None,
    names: Sequence[str],
) -> Picture:  # fmt: skip
    """Rows of a data set as they are stored, and augmented in each of the first epochs.

    Args:
        stored: uint8 [N, H, W, C]; each is the first of its row.
        augmented: uint8 [E, N, H, W, C].
        label: int32 [N].
        target: float32 [E, N, K], the share of each class; None: the label.
        names: of the classes.
    """
    called = [short(name, 8) for name in names]
    images = np.concatenate([stored[None], augmented]).swapaxes(0, 1)
    texts = []
    for row, own in enumerate(label):
        texts.append(short(names[own], 12))
        for epoch in range(len(augmented)):
            shares = () if target is None else target[epoch, row]
            mixed = {k: share for k, share in enumerate(shares) if share >= 0.005 and k != own}
            if mixed and shares[own] >= 0.005:
                mixed = {int(own): shares[own], **mixed}
            named = [f"{called[k]} {share:.2f}" for k, share in mixed.items()]
            texts.append("\n".join(named[:LINES]))
    title = f"As stored, and in epochs 1 to {len(augmented)}"
    flat = images.reshape(-1, *images.shape[2:])
    lines = 1 if target is None else LINES
    drawn = _grid(flat, texts, [False] * len(texts), images.shape[1], title, size=6.0, lines=lines)
    alt = f"{len(label)} training images, and {len(augmented)} augmented variants of each."
    return Picture("augmented", title, alt, drawn.figure)


@styled
def first_grid(label: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> Picture:
    """Predictions of the first test rows, without images; errors with a sign and the truth."""
    called, wrong = brief(names), predicted != label
    rows = math.ceil(len(label) / 10)
    figure = blank(0.42 + 0.3 * rows)
    axes = panel(figure, 0.1, 0.06, right=0.1)
    for index, (p, t) in enumerate(zip(predicted, label, strict=True)):
        y, x = divmod(index, 10)
        if p == t:
            axes.text(x, y, called[p], ha="center", va="center")
            continue
        axes.text(x, y, f"{SIGN}{called[p]} is {called[t]}", ha="center", va="center", size=7,
                  color=ERROR, weight="bold")  # fmt: skip
        axes.add_patch(Rectangle((x - 0.48, y - 0.44), 0.96, 0.88, fill=False, color=ERROR))
    axes.set_xlim(-0.5, 9.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.axis("off")
    title = f"First {len(label)} test rows: {int(wrong.sum())} wrong"
    heading(axes, title)
    return Picture("first-grid", title, _first_alt(label, predicted, names), figure)


def _first_alt(label: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> str:
    """The errors among the first test rows in words."""
    wrong = predicted != label
    errors = [
        f"row {i + 1} is {clean(names[label[i]])}, taken for {clean(names[predicted[i]])}"
        for i in np.flatnonzero(wrong)
    ]
    more = f"; and {len(errors) - 6} more" if len(errors) > 6 else ""
    return (
        f"{int(wrong.sum())} of the first {len(label)} test rows are predicted wrong"
        + (f": {'; '.join(errors[:6])}{more}." if errors else ".")
        + f" Errors are marked {SIGN} and framed."
        + legend(names, np.concatenate([label, predicted]))
    )


def first_predictions_text(label: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> str:
    """The same for a terminal: predictions in rows of ten, an error with * before it."""
    called = brief(names)
    wide = max(map(len, called)) + 1
    cells = [
        f"{'*' if p != t else ''}{called[p]}".rjust(wide)
        for p, t in zip(predicted, label, strict=True)
    ]
    lines = [" ".join(cells[start : start + 10]) for start in range(0, len(cells), 10)]
    errors = int((predicted != label).sum())
    return "\n".join([*lines, f"* marks {errors} wrong of the first {len(label)} test rows"])


def filters(kernel: np.ndarray, layer: str) -> Tiles:
    """Weights [H, W, C, N] of the first convolution on one scale: mid grey is 0, white positive."""
    height, width, channels, count = kernel.shape
    shown = np.moveaxis(kernel, -1, 0)[:MOST_FILTERS].astype(float)
    if channels not in (1, 3):
        shown = shown.mean(axis=-1, keepdims=True)
    finite = shown[np.isfinite(shown)]
    largest = float(np.abs(finite).max()) if finite.size else 0.0
    grey = (127.5 + 127.5 * np.nan_to_num(shown) / (largest or 1.0)).round().astype(np.uint8)
    tiles = [Tile(*source(image), f"filter {i + 1}") for i, image in enumerate(grey)]
    colours = {1: "", 3: ", in the colours of their channels"}.get(
        channels, ", mean of their channels"
    )
    which = "" if count == len(shown) else f"{len(shown)} of "
    title = f"{which}{count_text(count, 'filter')} of {clean(layer)}, {height}×{width}{colours}"
    insight = f"One scale from {-largest:.3f} (black) over 0 (grey) to {largest:.3f} (white)."
    return Tiles(title, [("", tiles)], insight, small=True)
