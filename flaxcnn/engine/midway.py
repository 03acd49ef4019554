"""An epoch of which some steps are done: what is kept of it, so that a run stops anywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.struct
import jax
import numpy as np

from flaxcnn.engine.metrics import MetricSums, as_vector, from_vector, joined_sums
from flaxcnn.engine.step import Plan, TrainState

Tree = Any


@dataclass(frozen=True)
class Midway:
    """How far an epoch is. `after` gives the next."""

    done: int = 0  # steps
    parts: tuple[tuple[MetricSums, int], ...] = ()  # sums of a call [K], and how many steps it did
    seconds: float = 0.0  # that they took, also in an earlier process

    def after(self, sums: MetricSums, count: int, seconds: float) -> Midway:
        """With another part; the epoch has taken `seconds`."""
        return Midway(self.done + count, (*self.parts, (sums, count)), seconds)

    def sums(self) -> MetricSums:
        """Of its steps [done]."""
        return joined_sums(self.parts, 1)  # all devices have the same

    def record(self) -> dict[str, Any]:
        """What a checkpoint says of it, beside the arrays."""
        return {"done": self.done, "seconds": self.seconds}


BEGINNING = Midway()
# Called with the state and the progress of an epoch that a signal stops, to save them.
Keep = Callable[[TrainState, Midway], None]


@flax.struct.dataclass
class Underway:
    """The arrays of an epoch that is not done, all that its checkpoint holds."""

    state: TrainState
    sums: jax.Array  # [..., S, 3 + M] as `as_vector` has them; 0 for steps to come


def underway(plan: Plan, state: TrainState, midway: Midway) -> Underway:
    """Arrays to save, of one shape however many steps are done."""
    runs = state.step.shape  # (W,) of a stack
    vector = np.zeros((*runs, plan.steps_per_epoch, 3 + len(plan.metrics)), np.float32)
    if midway.done:
        vector[..., : midway.done, :] = as_vector(jax.device_get(midway.sums()))
    return Underway(state, vector)  # type: ignore[arg-type]


def restored(plan: Plan, arrays: Underway, record: dict[str, Any]) -> tuple[TrainState, Midway]:
    """The reverse of `underway`, of what a checkpoint says."""
    done, seconds = int(record["done"]), float(record["seconds"])
    vector: Any = np.asarray(arrays.sums)[..., :done, :]
    sums = from_vector(vector, plan.metrics)
    parts = ((sums, done),) if done else ()
    return arrays.state, Midway(done, parts, seconds)
