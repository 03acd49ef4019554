"""Compiled programs: with the options that each back end needs, and kept for the next call."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Hashable
from typing import Any

import jax

from flaxcnn.activity import doing
from flaxcnn.backend import NO_MEMORY
from flaxcnn.engine.step import Plan
from flaxcnn.xla_messages import hushed

log = logging.getLogger(__name__)
Tree = Any

# What a GPU may record as one graph. A small network is bound by the launches of its kernels, 20 to
# 60 a step; with loops and convolutions among these, a whole epoch is one launch.
GRAPHS = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,CONVOLUTION,WHILE"
IN_WORDS = {
    "train_epoch": "the training steps", "train_part": "the training steps",
    "train_chunk": "the training steps",
    "evaluate": "the evaluation", "evaluate_chunk": "the evaluation",
    "init": "the initial weights", "estimate": "the batch statistics", "whole": "a whole run",
    "alive_units": "the count of units", "alive_units_chunk": "the count of units",
}  # fmt: skip
NO_GRAPHS = "FLAXCNN_GPU_GRAPHS"  # set to 0: launch every kernel by itself


def jitted(
    plan: Plan, program: Callable[..., Tree], stacked: tuple[int | None, ...] | None = None,
    donate: bool = False, out: Tree = None,
) -> jax.stages.Wrapped:  # fmt: skip
    """`program(plan, ...)` ready to be lowered.

    Args:
        plan: what is compiled in.
        program: of `flaxcnn.engine.epoch`, such as `train_epoch`.
        stacked: for each argument the axis along which runs are stacked; None: a single run.
        donate: the first argument, the state, is donated.
        out: sharding of the results; None: the compiler's choice.
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
    chosen: dict[str, Any] = {}
    several = plan.sharding.devices > 1
    if os.environ.get(NO_GRAPHS) != "0":
        chosen["xla_gpu_enable_command_buffer"] = GRAPHS + (",COLLECTIVES" if several else "")
    if plan.exact:
        chosen["xla_gpu_deterministic_ops"] = True
    if several:
        chosen["xla_gpu_enable_latency_hiding_scheduler"] = True
    return chosen


def compile_program(lowered: jax.stages.Lowered, plan: Plan) -> jax.stages.Compiled:
    """Compile with the back end's options; if it refuses, with those alone that results need."""
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


def _in_words(key: Hashable) -> str:
    """What the program of a key is for."""
    first = key[0] if isinstance(key, tuple) else key
    return IN_WORDS.get(getattr(first, "__name__", str(first)), "a program")


class ProgramCache:
    """Compiled programs by what they were compiled for, and how long that took.

    Args:
        programs: to start with; by default none.
        step_seconds: of a step of a training program, by its key, as far as that is known.
    """

    def __init__(
        self, programs: dict[Hashable, jax.stages.Compiled] | None = None,
        step_seconds: dict[Hashable, float] | None = None,
    ):  # fmt: skip
        self.programs = {} if programs is None else programs
        self.step_seconds = {} if step_seconds is None else step_seconds
        self.seconds = 0.0  # of compiling, asked for through this object

    def get(
        self, key: Hashable, lower: Callable[[], jax.stages.Lowered], plan: Plan
    ) -> jax.stages.Compiled:
        """The program of `key`; compiled from what `lower` gives on first use."""
        if key not in self.programs:
            began = time.perf_counter()
            with hushed(), doing(f"compiling {_in_words(key)}"):
                self.programs[key] = compile_program(lower(), plan)
            self.seconds += time.perf_counter() - began
        return self.programs[key]

    def restarted(self) -> ProgramCache:
        """The same programs with a clock of its own, for the next run that uses them."""
        return ProgramCache(self.programs, self.step_seconds)
