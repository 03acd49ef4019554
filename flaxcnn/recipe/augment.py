"""Specifications of augmentation; `flaxcnn.data.augment` applies them inside the step."""

from __future__ import annotations

from dataclasses import dataclass

from flaxcnn.recipe.fields import check_bounds, setting


@dataclass(frozen=True)
class Shift:
    """Move an image by up to `height` and `width` of its size; whole pixels, edges repeated."""

    height: float = setting(0.1, "largest vertical shift, as a fraction", at_least=0, below=1)
    width: float = setting(0.1, "largest horizontal shift, as a fraction", at_least=0, below=1)

    def __post_init__(self) -> None:
        check_bounds(self, "augment.")


@dataclass(frozen=True)
class Flip:
    """Mirror an image left to right with probability 1/2."""


Augment = Shift | Flip
