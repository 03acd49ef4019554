"""Test-time augmentation: an image seen in several ways, and the logits averaged."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.fields import check_bounds, setting
from flaxcnn.recipe.layers import Shape


@dataclass(frozen=True)
class Views:
    """The views of an image whose logits are averaged wherever rows are evaluated or predicted.

    With `shift` the image as it is counts one half, and moved by so many pixels, up and left and
    down and right, one quarter each, as in airbench (Jordan 2024, arXiv:2404.00498). Pixels that
    come in are reflected.
    """

    flip: bool = setting(True, "each view mirrored left and right, too")
    shift: int = setting(0, "pixels of a move", at_least=0, whole=True)
    transpose: bool = setting(False, "each view with rows and columns exchanged, too")
    unsure: float = setting(
        1.0,
        "only for rows whose largest probability is less; 1: for all",
        above=0,
        at_most=1,
    )
    share: float = setting(
        1.0,
        "only for this share of the rows of a split, those whose largest probability is least; 1: "
        "for all",
        above=0,
        at_most=1,
        before=1.0,
    )

    def __post_init__(self) -> None:
        check_bounds(self, "tta.")
        if not (self.flip or self.shift or self.transpose):
            raise ConfigError("tta has one view alone; give flip, shift or transpose")
        if self.unsure < 1 and self.share < 1:
            raise ConfigError(
                f"tta.unsure={self.unsure:g} and tta.share={self.share:g} both say which rows have "
                "several views; give one of them"
            )

    @property
    def of_all(self) -> Views:
        """The same views for every row."""
        return replace(self, unsure=1.0, share=1.0)

    def count(self, rows: int) -> int:
        """How many of `rows` rows have several views, by `share`; at least one.

        >>> Views(share=0.25).count(10_000)
        2500
        """
        return min(rows, max(1, math.floor(self.share * rows + 0.5)))

    def check_on(self, shape: Shape) -> None:
        """ConfigError unless images of `shape`, (H, W, C), can be seen so."""
        height, width, _ = shape
        if self.transpose and height != width:
            raise ConfigError(
                f"tta.transpose exchanges rows and columns and needs square images "
                f"(these are {height}x{width})"
            )
        if self.shift >= min(height, width):
            raise ConfigError(
                f"tta.shift must be less than {min(height, width)}, the side of an image "
                f"(got {self.shift})"
            )
