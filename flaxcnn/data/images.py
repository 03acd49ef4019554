"""Images decoded on demand, in place of an array too large to hold."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from flaxcnn.data.resize import Draws

AT_ONCE = 16 * 2**20  # bytes of pixels that a pass over all images holds


@dataclass(frozen=True, eq=False)
class Images(abc.ABC):
    """uint8 [N, H, W, C] stored in files; indexing decodes only the requested rows.

    Row i is entry `index[i]` of the source, resized as for evaluation; `read` can also resize as
    for training, at random in every epoch. Holds no open file: workers get copies.
    """

    index: np.ndarray  # int64 [N]
    size: tuple[int, int, int]  # (H, W, C)

    dtype = np.dtype(np.uint8)
    ndim = 4

    @abc.abstractmethod
    def read_into(self, pixels: np.ndarray, rows: np.ndarray, draws: Draws | None = None) -> None:
        """Decode rows [n] to `pixels`, uint8 [n, H, W, C]; DataError names what cannot be read."""

    @abc.abstractmethod
    def digest(self) -> str:
        """SHA-256 that identifies the source without reading its pixels."""

    def read(self, rows: np.ndarray, draws: Draws | None = None) -> np.ndarray:
        """Decode rows [n] -> uint8 [n, H, W, C]; DataError names what cannot be read."""
        pixels = np.empty((len(rows), *self.size), np.uint8)
        self.read_into(pixels, rows, draws)
        return pixels

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        return (len(self), *self.size)

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels once decoded."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, chosen: int | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        rows = np.arange(len(self))[chosen]
        return self.read(np.atleast_1d(rows)).reshape(*rows.shape, *self.size)

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)  # type: ignore[call-overload]

    def select(self, rows: np.ndarray) -> Self:
        """These rows, still undecoded."""
        return dataclasses.replace(self, index=self.index[rows])


Pixels = np.ndarray | Images  # uint8 [N, H, W, C]


def select(image: Pixels, rows: np.ndarray) -> Pixels:
    """These rows; undecoded images stay undecoded."""
    return image.select(rows) if isinstance(image, Images) else image[rows]


def rows_at_once(shape: tuple[int, ...], limit: int = AT_ONCE) -> int:
    """Number of rows of images [N, H, W, C] that fit into `limit` bytes, at least one.

    >>> rows_at_once((60_000, 28, 28, 1), limit=1_000_000)
    1275
    """
    return max(limit // max(math.prod(shape[1:]), 1), 1)
