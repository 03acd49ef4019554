"""What the engine asks of a network, whoever wrote it.

A model is a value: hashable, compared by what it computes, without arrays. It is part of what a
program is compiled for. `flaxcnn.model.cnn` makes one of a recipe's layers.
"""

from __future__ import annotations

import contextlib
import fnmatch
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import flax.struct
import jax

Tree = Any
Variables = dict[str, Tree]  # "params", and "batch_stats" where there are any


@flax.struct.dataclass
class RowContext:
    """What is known of the rows of a training batch, beside their pixels."""

    # bool [B], False for padding; None: every row counts.
    mask: jax.Array | None = None
    # Typed keys [B], functions of row number and step: their draws are the same in any batch.
    keys: jax.Array | None = None
    # float32 [D], of a recipe's dropout layers in order; None: their own.
    rates: jax.Array | None = None
    # One typed key of the step, for modules that draw for the batch as a whole.
    key: jax.Array | None = None


@contextlib.contextmanager
def promotion_as_usual() -> Iterator[None]:
    """The rules of jax as users know them, for code of theirs: in here stricter ones hold."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def leaf_name(path: Any) -> str:
    """The name of an array by its path in a tree: `conv2d/kernel`."""
    name: str = jax.tree_util.keystr(path, simple=True, separator="/")
    return name


def fits(patterns: Sequence[str], path: Any) -> bool:
    """Whether a pattern, such as `*/bias`, fits the name of an array by its path."""
    return matches(patterns, leaf_name(path))


def matches(patterns: Sequence[str], name: str) -> bool:
    """Whether a pattern fits a name."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def product(numbers: Mapping[str, jax.Array], name: str) -> jax.Array | None:
    """The product of the numbers [] of all patterns that fit a name; None: no pattern does."""
    found = [number for pattern, number in numbers.items() if matches((pattern,), name)]
    return math.prod(found[1:], start=found[0]) if found else None


class Model(Protocol):
    """A network as pure functions."""

    def init(self, key: jax.Array, image: jax.Array) -> Variables:
        """Variables from a typed key, for images [1, H, W, C] float32."""

    def apply(
        self, variables: Variables, image: jax.Array, *, train: bool, rows: RowContext
    ) -> tuple[jax.Array, Tree]:
        """Logits [B, K] float32 of images [B, H, W, C] float32, and the new batch statistics.

        With `train` those of the batch and whatever is random; otherwise moving averages, which
        are given back as they are.
        """

    def alive(self, variables: Variables, image: jax.Array) -> dict[str, jax.Array]:
        """For each layer with relu: which units [C] bool give a value above 0 for any image."""

    def for_platform(self, platform: str) -> Self:
        """The same network on one device of another kind: "cpu", "gpu" or "tpu"."""
