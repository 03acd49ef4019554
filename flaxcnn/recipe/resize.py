"""How images of any size are brought to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from flaxcnn.errors import ConfigError

MAX_SIDE = 4096  # pixels


@dataclass(frozen=True)
class Resize:
    """Images of any size brought to one: `stretch` ignores the aspect, the crops keep it.

    `center_crop` takes the largest central part of the wanted aspect; `random_crop` (training, and
    streamed data only) a part of 8 to 100 % of the area and of an aspect of 3/4 to 4/3, drawn anew
    for every image and epoch (Szegedy et al. 2015).
    """

    height: int
    width: int
    train: Literal["stretch", "center_crop", "random_crop"] = "stretch"
    evaluate: Literal["stretch", "center_crop"] = "stretch"

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if not 1 <= getattr(self, name) <= MAX_SIDE:
                raise ConfigError(
                    f"resize.{name}: got {getattr(self, name)!r}; "
                    f"allowed is an integer from 1 to {MAX_SIDE}"
                )
