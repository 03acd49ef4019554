"""Model: the network."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

from flaxcnn.recipe.fields import about, setting
from flaxcnn.recipe.layers import BatchNorm, Layer, contains


@dataclass(frozen=True)
class Model:
    """The network."""

    layers: tuple[Layer, ...] = field(
        metadata=about("list of layers; `layers.4.rate=0.3` changes one of them")
    )
    _: KW_ONLY
    batch_norm: Literal["global", "per_shard"] = setting(
        "global",
        "batch normalisation uses the statistics of the whole batch, or of the rows of a device "
        "or virtual shard",
        before="global",
    )

    @property
    def has_batch_norm(self) -> bool:
        """Whether any layer normalises by the batch."""
        return contains(self.layers, BatchNorm)
