"""Arrays that take the place of random initial ones."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from flaxcnn.engine.devices import device_put_global
from flaxcnn.engine.step import TrainState
from flaxcnn.model.protocol import leaf_name

Flat = dict[str, np.ndarray]  # "params/conv2d/kernel" -> array


@dataclass(frozen=True)
class Start:
    """Arrays that take the place of random ones, and what a person should know of them."""

    arrays: Flat
    notes: tuple[str, ...] = ()

    def into(self, state: TrainState) -> TrainState:
        """The state with them, each where the random one was."""

        def put(collection: str, tree: Any) -> Any:
            def chosen(path: Any, leaf: jax.Array) -> jax.Array:
                array = self.arrays.get(f"{collection}/{leaf_name(path)}")
                if array is None:
                    return leaf
                new: jax.Array = device_put_global(array.astype(leaf.dtype), leaf.sharding)
                return new

            return jax.tree_util.tree_map_with_path(chosen, tree)

        return dataclasses.replace(
            state, params=put("params", state.params),
            batch_stats=put("batch_stats", state.batch_stats),
            average={name: put(name, tree) for name, tree in state.average.items()},
        )  # fmt: skip


def flat(tree: Any) -> Flat:
    """Leaves by path: "params/conv2d/kernel"."""
    return {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
