"""Programs compiled for the devices they run on, with the options that each back end needs."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import jax

from flaxcnn.backend import NO_MEMORY
from flaxcnn.engine.step import Plan

log = logging.getLogger(__name__)
Tree = Any

# What a GPU may record as one graph. A small network is bound by the launches of its kernels, 20 to
# 60 a step; with loops and convolutions among these, a whole epoch is one launch.
GRAPHS = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,CONVOLUTION,WHILE"
NO_GRAPHS = "FLAXCNN_GPU_GRAPHS"  # set to 0: launch every kernel by itself


def jitted(
    plan: Plan, program: Callable[..., Tree], stacked: tuple[int | None, ...] | None = None,
    donate: bool = False, out: Tree = None,
) -> jax.stages.Wrapped:  # fmt: skip
    """`program(plan, ...)` ready to be lowered.

    Args:
        plan: what is compiled in.
        program: of `flaxcnn.engine.epoch`, such as `train_epoch`.
        stacked: for each argument the axis along which runs lie side by side; None: a single run.
        donate: the first argument, the state, is used up.
        out: where results lie; None: where the compiler puts them.
    """

    @functools.wraps(program)  # for its name in profiles
    def of_plan(*arguments: Tree) -> Tree:
        return program(plan, *arguments)

    function = of_plan if stacked is None else jax.vmap(of_plan, stacked)
    return jax.jit(function, donate_argnums=(0,) if donate else (), out_shardings=out)


def options(plan: Plan) -> dict[str, Any]:
    """Options of the compiler for the back end that the plan is for.

    On a GPU: graphs, unless FLAXCNN_GPU_GRAPHS is 0; deterministic operations in exact mode, which
    change nothing in these programs but cuDNN's choice of algorithms; and exchanges that overlap
    with computing where several share a batch.
    """
    if plan.sharding.platform != "gpu":
        return {}
    found: dict[str, Any] = {}
    several = plan.sharding.devices > 1
    if os.environ.get(NO_GRAPHS) != "0":
        found["xla_gpu_enable_command_buffer"] = GRAPHS + (",COLLECTIVES" if several else "")
    if plan.exact:
        found["xla_gpu_deterministic_ops"] = True
    if several:
        found["xla_gpu_enable_latency_hiding_scheduler"] = True
    return found


def compiled(lowered: jax.stages.Lowered, plan: Plan) -> jax.stages.Compiled:
    """Compile with the back end's options; without those that promise nothing where it refuses."""
    wanted = options(plan)
    if not wanted:
        return lowered.compile()
    try:
        return lowered.compile(compiler_options=wanted)
    except jax.errors.JaxRuntimeError as error:
        if NO_MEMORY.search(str(error)):
            raise
        needed = {name: value for name, value in wanted.items() if "deterministic" in name}
        log.warning(
            "the compiler refuses %s (%s); programs run without, and may be slower",
            ", ".join(sorted(set(wanted) - set(needed))), str(error).splitlines()[0][:200],
        )  # fmt: skip
        return lowered.compile(compiler_options=needed)
