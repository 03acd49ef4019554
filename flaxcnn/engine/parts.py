"""How many steps of an epoch one call does: few enough that a run can stop within its grace.

On CPU a call does as many steps as it is told to, so they follow from how long the last ones took.
Elsewhere the number is compiled in, before anything has been timed: an epoch is one call, a single
graph on a GPU, unless the arithmetic of a slow device says that it may take too long.
"""

from __future__ import annotations

import math

from flaxcnn.engine.step import Plan
from flaxcnn.model.layout import on_cpu
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Shape, totals

# Seconds of a call: hundreds of times what it takes to make one, and nobody minds to wait as long.
PART_SECONDS = 2.0
PART_OF_GRACE = 0.25
# What any accelerator does: a network of small kernels reaches a hundredth of the peak.
LEAST_FLOPS = 1e12  # a second, on each device
LEAST_STEP_SECONDS = 1e-3  # to launch the kernels of a step
MORE = 1.5  # a part may be so much longer if the epoch ends with it


def part_seconds(config: Config) -> float:
    """Seconds that a call should take."""
    return min(PART_SECONDS, PART_OF_GRACE * config.grace)


def part_steps(plan: Plan, config: Config, shape: Shape, classes: int) -> int:
    """Most steps of a call of the training program; 0: an epoch is one call of another program."""
    if on_cpu(plan.sharding.platform):
        return plan.steps_per_epoch
    # A multiply-add is 2 operations; the backward pass takes twice the forward pass.
    flops = 6 * totals(config.table(shape, classes))["macs"] * plan.batch_size
    seconds = LEAST_STEP_SECONDS + flops / LEAST_FLOPS / plan.sharding.devices
    steps = max(int(PART_OF_GRACE * config.grace / seconds), 1)
    return 0 if steps >= plan.steps_per_epoch else steps


def next_steps(left: int, most: int, seconds: float, step_seconds: float | None) -> int:
    """Steps of the next call, of the `left` ones of an epoch.

    >>> next_steps(400, 400, 2.0, None), next_steps(399, 400, 2.0, 0.01)
    (1, 200)
    >>> next_steps(199, 400, 2.0, 0.01), next_steps(250, 400, 2.0, 0.01)
    (199, 250)

    Args:
        left: steps.
        most: that a call may do.
        seconds: that it should take.
        step_seconds: that a step took before; None: that is to be found out.
    """
    if step_seconds is None:
        return 1
    steps = max(math.floor(seconds / step_seconds), 1)
    return min(left if left <= MORE * steps else steps, left, most)
