"""Images as a page shows them: each with its words, in rows of a class, or behind a cell."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

LARGEST = 96  # pixels a side that a page shows
LOSSY = 48  # pixels a side from which on an image is a JPEG


@dataclass(frozen=True)
class Tile:
    """An image and what is said of it."""

    source: str  # a data: address
    width: int
    height: int
    alt: str
    head: str = ""
    lines: Sequence[str] = ()
    wrong: bool = False
    hint: str = ""  # where the pointer rests


@dataclass(frozen=True)
class Tiles:
    """Images in groups: `rows` of a name and its images, or one list under each name."""

    title: str
    groups: Sequence[tuple[str, Sequence[Tile]]]
    insight: str = ""
    rows: bool = False
    small: bool = False

    @property
    def columns(self) -> int:
        """Images in the longest row."""
        return max((len(tiles) for _, tiles in self.groups), default=1)


@dataclass(frozen=True)
class Gallery:
    """Images that a cell of a matrix opens."""

    name: str  # in its address
    title: str
    tiles: Sequence[Tile]
    more: str = ""
    open: bool = False


@dataclass(frozen=True)
class Galleries:
    """All that the cells of a matrix open."""

    galleries: Sequence[Gallery]


@dataclass(frozen=True)
class Square:
    """A cell of a matrix."""

    count: str
    share: str
    shade: str  # a class in CSS
    target: str = ""  # the gallery that it opens
    said: str = ""


@dataclass(frozen=True)
class Matrix:
    """A table of classes by classes; rows are the truth."""

    title: str
    alt: str
    insight: str
    names: Sequence[str]
    cells: Sequence[Sequence[Square]]

    @property
    def long(self) -> bool:
        """Whether names stand upright over their columns."""
        return max(map(len, self.names)) > 4

    @property
    def side(self) -> float:
        """Width of the names at the side, in letters' heights."""
        return min(8.0, 0.9 + 0.5 * max(map(len, self.names)))


def source(image: np.ndarray) -> tuple[str, int, int]:
    """(data: address, width, height) of uint8 [H, W, 1, 3 or more], every n-th pixel of a large one.

    Small images are PNG, larger ones JPEG.
    """  # noqa: E501
    step = math.ceil(max(image.shape[:2]) / LARGEST)
    small = np.ascontiguousarray(image[::step, ::step, :3] if image.shape[2] >= 3
                                 else image[::step, ::step, 0])  # fmt: skip
    drawn, file = Image.fromarray(small), io.BytesIO()
    if max(small.shape[:2]) < LOSSY:
        drawn.save(file, "PNG", optimize=True)
        kind = "png"
    else:
        drawn.save(file, "JPEG", quality=85, optimize=True)
        kind = "jpeg"
    text = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{kind};base64,{text}", small.shape[1], small.shape[0]
