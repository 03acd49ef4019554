"""A line as small as a word, in the cell of a table."""

from __future__ import annotations

import math

from markupsafe import Markup

from flaxcnn.records.tables import Cell

WIDE, HIGH = 96, 22  # pixels
EDGE = 3  # of them, so that the last point is whole


def sparkline(cell: Cell) -> Markup:
    """The numbers of a cell from the lowest to the highest, the last one as a point."""
    values = [value for value in cell.line if math.isfinite(value)]
    if not values:
        return Markup.escape(cell.text)
    low, high = min(values), max(values)
    step = (WIDE - 2 * EDGE) / max(len(values) - 1, 1)
    scale = (HIGH - 2 * EDGE) / (high - low) if high > low else 0.0
    places = [
        (EDGE + number * step, HIGH - EDGE - (value - low) * scale if scale else HIGH / 2)
        for number, value in enumerate(values)
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    words = f"{len(values)} values from {values[0]:.4f} to {values[-1]:.4f}"
    x, y = places[-1]
    return Markup(
        f'<span class="spark"><span class="unseen">{words}</span>'
        f'<svg viewBox="0 0 {WIDE} {HIGH}" aria-hidden="true">'
        f'<polyline points="{path}" fill="none" stroke="var(--train)" stroke-width="1.5" '
        'stroke-linejoin="round"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="var(--train)"/></svg></span>'
    )
