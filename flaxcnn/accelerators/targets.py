"""Chips to compile for: their names, topologies, memory, bandwidth and peak rates; no jax here.

A chip's figures are the maker's: the least time that they allow is a bound, never a forecast.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flaxcnn.errors import ConfigError, near_miss, one_of

SPECS = Path(__file__).parent / "specs"
# Launching a kernel takes the host about 2.5 us, and in a graph, which is launched as a whole, the
# device about 1 us from one kernel to the next: "Constant Time Launch for Straight-Line CUDA
# Graphs" and "Getting Started with CUDA Graphs", NVIDIA's technical blog, 2024 and 2019.
LAUNCH_SECONDS = 2.5e-6
KERNEL_SECONDS = 1e-6


@dataclass(frozen=True)
class Target:
    """One kind of chip."""

    name: str
    kind: str  # "gpu" or "tpu"
    memory: int  # bytes of one chip
    bandwidth: float  # bytes/s to and from that memory
    peak: Mapping[str, float]  # FLOP/s by a recipe's precision
    shapes: Mapping[int, str]  # chips -> the topology's name for the compiler
    clock: float = 0.0  # Hz of a TPU's core, in which its compiler estimates; 0 on a GPU


NODE = {chips: f"1x1x{chips}" for chips in range(1, 9)}  # partitions x hosts x GPUs of a host
# Chips that a slice of TPUs can have ("Cloud TPU v5e", "v6e", "v5p", cloud.google.com/tpu/docs). A
# slice of one chip is compiled for as the first of four: the compiler has no name for it.
FLAT = {1: "2x2", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
CUBE = {1: "2x2x1", 4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4"}


def _in_parts(bfloat16: float) -> dict[str, float]:
    return {"float32": bfloat16 / 6, "tensorfloat32": bfloat16 / 3, "bfloat16": bfloat16}


TARGETS = {
    target.name: target
    for target in (
        # "NVIDIA H200 Tensor Core GPU" data sheet, SXM; rates without sparsity are half of it
        Target("h200", "gpu", 151_397_597_184, 4.8e12,
               {"float32": 67e12, "tensorfloat32": 494.7e12, "bfloat16": 989.4e12}, NODE),
        # "NVIDIA H100 Tensor Core GPU" data sheet, SXM
        Target("h100", "gpu", 84_942_979_072, 3.35e12,
               {"float32": 67e12, "tensorfloat32": 494.7e12, "bfloat16": 989.4e12}, NODE),
        # "NVIDIA A100 Tensor Core GPU" data sheet, SXM with 80 GB
        Target("a100", "gpu", 85_100_068_864, 2.039e12,
               {"float32": 19.5e12, "tensorfloat32": 156e12, "bfloat16": 312e12}, NODE),
        # cloud.google.com/tpu/docs/v5e, /v6e and /v5p. A product of float32 numbers is six of
        # bfloat16 parts, and with tensorfloat32 three (jax.lax.Precision). A core's clock is the
        # peak over the operations of its matrix units: 4 of 128 x 128 on v5e, 4 of 256 x 256 on
        # v6e, 2 cores with 4 of 128 x 128 on v5p.
        Target("v5e", "tpu", 16 * 2**30, 819e9,
               _in_parts(197e12), FLAT, 197e12 / (4 * 2 * 128**2)),
        Target("v6e", "tpu", 32 * 2**30, 1640e9,
               _in_parts(918e12), FLAT, 918e12 / (4 * 2 * 256**2)),
        Target("v5p", "tpu", 95 * 2**30, 2765e9,
               _in_parts(459e12), CUBE, 459e12 / (2 * 4 * 2 * 128**2)),
    )
}  # fmt: skip


def parse(text: str) -> tuple[Target, int]:
    """A target and a number of chips of `NAME` or `NAME:CHIPS`.

    Raises:
        ConfigError: an unknown name, with the near miss, or a number that no topology has.
    """
    name, colon, count = text.partition(":")
    if name not in TARGETS:
        raise ConfigError(
            f"--compile-for must be {one_of(TARGETS)}, each also as NAME:CHIPS (got {text!r})"
            f"{near_miss(name, TARGETS)}"
        )
    target = TARGETS[name]
    chips = int(count) if count.isascii() and count.isdigit() else 0
    chips = 1 if not colon else chips
    if chips not in target.shapes:
        allowed = ", ".join(map(str, target.shapes))
        raise ConfigError(f"--compile-for: got {text!r}; {name} has topologies of {allowed} chips")
    return target, chips


def bounds(
    target: Target, devices: int, precision: str, flops: float, nbytes: float,
    kernels: int, launches: float,
) -> dict[str, float]:  # fmt: skip
    """The least seconds of a step by what the chip can do at most.

    Args:
        target: the chip.
        devices: that share the step.
        precision: of the recipe.
        flops: of the step on all devices.
        nbytes: that each device moves.
        kernels: of the step, on each device.
        launches: by the host for it, on each device.
    """
    peak = target.peak[precision] * devices
    bounds = {"bandwidth": nbytes / target.bandwidth, "flops": flops / peak}
    if target.kind == "gpu":
        inside = max(kernels - launches, 0)
        bounds["launches"] = launches * LAUNCH_SECONDS + inside * KERNEL_SECONDS
    assert all(math.isfinite(value) for value in bounds.values())
    return bounds
