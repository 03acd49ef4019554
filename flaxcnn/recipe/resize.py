"""Specification of a resize: images of any size brought to one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from flaxcnn.recipe.fields import about, check_bounds

MAX_SIDE = 4096  # pixels


@dataclass(frozen=True)
class Resize:
    """Images of any size brought to one: `stretch` ignores the aspect, the crops keep it.

    `center_crop` takes the largest central part of the wanted aspect; `random_crop` (training, and
    streamed data only) a part of 8 to 100 % of the area and of an aspect of 3/4 to 4/3, drawn again
    for every image and epoch (Szegedy et al. 2015).
    """

    BY_VALUE: ClassVar = ("height", "width")  # what `resize=64` sets

    height: int = field(metadata=about("pixels", at_least=1, at_most=MAX_SIDE))
    width: int = field(metadata=about("pixels", at_least=1, at_most=MAX_SIDE))
    train: Literal["stretch", "center_crop", "random_crop"] = "stretch"
    evaluate: Literal["stretch", "center_crop"] = "stretch"

    def __post_init__(self) -> None:
        check_bounds(self, "resize.")
