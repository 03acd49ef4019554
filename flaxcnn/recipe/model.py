"""Model: the network."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

from flaxcnn.recipe.fields import setting
from flaxcnn.recipe.layers import WHITENED, BatchNorm, Conv, Layer, contains
from flaxcnn.recipe.networks import ForeignModel
from flaxcnn.recipe.weights import Weights


@dataclass(frozen=True)
class Model:
    """The network."""

    layers: tuple[Layer, ...] = setting(
        (), "list of layers; `layers.4.rate=0.3` changes one of them"
    )
    _: KW_ONLY
    model: ForeignModel | None = setting(
        None,
        'a network of your own in place of `layers`: `{"type":"linen","target":"FILE.py:Net"}`, '
        "`nnx` or `pure`, with its arguments",
        before=None,
    )
    init_from: Weights | None = setting(
        None,
        "start from the weights of a run or file: `init_from.path=RUN`; `only` and `leave` choose "
        "among them",
        before=None,
    )
    freeze: tuple[str, ...] = setting(
        (), "patterns of weights that are not trained, such as `conv2d*/kernel`", before=[]
    )
    batch_norm: Literal["global", "per_shard"] = setting(
        "global",
        "batch normalisation uses the statistics of the whole batch, or of the rows of a device "
        "or virtual shard",
        before="global",
    )

    @property
    def may_have_batch_norm(self) -> bool:
        """The same; also for a network of one's own, which may."""
        return self.model is not None or self.has_batch_norm

    @property
    def whitens(self) -> bool:
        """Whether the first layer's kernel is computed from the training images."""
        first = self.layers[0] if self.layers else None
        return isinstance(first, Conv) and first.init == "whiten"

    @property
    def frozen(self) -> tuple[str, ...]:
        """Patterns of all weights that are not trained."""
        return (*self.freeze, *([WHITENED] if self.whitens else ()))

    @property
    def has_batch_norm(self) -> bool:
        """Whether any layer normalises by the batch."""
        return contains(self.layers, BatchNorm)
