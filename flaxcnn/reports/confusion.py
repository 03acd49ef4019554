"""The confusion matrix of a page: counts in cells that open their images."""

from __future__ import annotations

import numpy as np

from flaxcnn.reports.matrices import frequent_pairs
from flaxcnn.reports.numbers import error_rates
from flaxcnn.reports.predicted import FILE, Predicted, short_name
from flaxcnn.reports.style import STEPS, clean
from flaxcnn.reports.tiles import Galleries, Gallery, Matrix, Square

MOST = 20  # classes of a table that can be read
LIGHT = 0.1  # of a class: less than this is never the darkest shade
PER_CELL = 8  # images that a cell opens
IMAGES = 500  # in all cells
BYTES = 900_000  # of their addresses


def matrix(counts: np.ndarray, predicted: Predicted, opened: set[tuple[int, int]]) -> Matrix:
    """Counts [K, K] with the truth at the side; cells of `opened` lead to their images."""
    names, totals = [clean(name) for name in predicted.classes], counts.sum(axis=1)
    rates = np.nan_to_num(error_rates(counts))
    most = max(float(rates.max()), LIGHT)
    cells = []
    for i, row in enumerate(counts.tolist()):
        line = []
        for j, count in enumerate(row):
            part = count / totals[i] if i == j else rates[i, j] / most
            step = round(STEPS * part**0.5) if count else 0
            shade = f"{'right' if i == j else 'wrong'}-{step}" if count else ""
            share = f"{100 * count / totals[i]:.1f}" if count else ""
            as_what = "predicted right" if i == j else f"taken for {names[j]}"
            said = f"{names[i]} {as_what}: {count:,} of {totals[i]:,}"
            target = cell_name(i, j) if (i, j) in opened else ""
            line.append(Square(str(count) if count else "", share, shade, target, said))
        cells.append(line)
    right, pairs = int(np.trace(counts)), frequent_pairs(counts, names)
    insight = "; ".join(f"{pair}: {times(rows)}" for rows, pair in pairs) or "There are no errors"
    alt = (
        f"Confusion matrix: {right:,} of {counts.sum():,} test rows are on the diagonal, predicted "
        f"right; most frequent errors: {insight}. Rows are the true class, columns the predicted."
    )
    shown = insight[0].upper() + insight[1:] if pairs else insight
    more = " A cell opens its images." if opened else ""
    title = f"Confusion matrix of {counts.sum():,} test rows"
    return Matrix(title, alt, f"{shown}. Rows are the truth.{more}", names, cells)


def times(rows: int) -> str:
    """`once`, `11 times`."""
    return {1: "once", 2: "twice"}.get(rows, f"{rows:,} times")


def cell_name(i: int, j: int) -> str:
    """In the address of its images."""
    return f"cell-{i}-{j}"


def galleries(counts: np.ndarray, predicted: Predicted) -> tuple[Galleries, set[tuple[int, int]]]:
    """The images of each cell, and which cells have some.

    Of an error the most confident ones, of the diagonal the least; of a page's room, each cell gets
    one image before any gets two, and errors come first.

    Raises:
        ValueError: the data has other labels.
        DataError: an image cannot be read.
    """
    turns = []
    for i, j in zip(*np.nonzero(counts), strict=True):
        places = np.flatnonzero((predicted.label == i) & (predicted.called == j))
        order = predicted.sure[places] * (1 if i == j else -1)
        for rank, place in enumerate(places[np.argsort(order, kind="stable")][:PER_CELL].tolist()):
            turns.append((i == j, rank, -counts[i, j], int(i), int(j), place))
    turns.sort()
    turns = turns[:IMAGES]
    images = predicted.images(np.array([place for *_, place in turns], int)) if turns else ()
    cells: dict[tuple[int, int], list] = {}
    used = 0
    for (*_, i, j, place), image in zip(turns, images, strict=True):
        name = short_name(predicted.name[place])
        tile = predicted.tile(place, image, predicted.first_classes(place), name)
        used += len(tile.source)
        if used > BYTES:
            break
        cells.setdefault((i, j), []).append(tile)
    off = {cell: counts[cell] for cell in cells if cell[0] != cell[1]} or dict.fromkeys(cells, 0)
    shown = max(off, key=lambda cell: (off[cell], -cell[0], -cell[1])) if off else None
    made = []
    for (i, j), tiles in cells.items():
        names, count = predicted.classes, int(counts[i, j])
        title = f"{names[i]}, predicted right" if i == j else f"{names[i]} taken for {names[j]}"
        more = ""
        if count > len(tiles):
            which = "least" if i == j else "most"
            more = f"The {len(tiles)} {which} confident of {count:,}; all are in `{FILE}`."
        made.append(Gallery(cell_name(i, j), title, tiles, more, (i, j) == shown))
    return Galleries(made), set(cells)
