"""The averaged weights of a run in place of its own: to be evaluated, kept and tested."""

from __future__ import annotations

import dataclasses

from flaxcnn.engine.sharding import gather
from flaxcnn.engine.step import TrainState
from flaxcnn.recipe.config import Config


def averaged(state: TrainState) -> TrainState:
    """The state with the average in place of weights and batch statistics."""
    average = gather(state.average)
    return dataclasses.replace(state, params=average["params"], batch_stats=average["batch_stats"])


def chosen(config: Config, state: TrainState) -> TrainState:
    """The state whose weights are kept and tested: averaged where the recipe says so."""
    return averaged(state) if config.average and config.average.keep else state
