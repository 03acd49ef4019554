"""Execution: how a run is computed and saved."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.fields import Role, setting
from flaxcnn.signals import GRACE_SECONDS

MAX_WORKERS = 256
MAX_SHARDS = 2**16
# The short names of precisions on command lines and in tables of benchmarks.
PRECISIONS = {"f32": "float32", "tf32": "tensorfloat32", "bf16": "bfloat16"}


@dataclass(frozen=True)
class Execution:
    """How a run is computed and saved."""

    _: KW_ONLY
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = setting(
        "float32",
        "`float32` on every back end; `tensorfloat32`: products rounded to TF32 on a GPU, three "
        "bfloat16 products on a TPU; `bfloat16`: activations too. Parameters are always float32",
        role=Role.COST,
    )
    determinism: Literal["fast", "exact"] = setting(
        "fast",
        "`fast`: results agree to rounding, and two runs on a GPU may differ by it; `exact`: the "
        "same bits alone and in any study, on any number of devices and processes",
        role=Role.PROGRAM | Role.COST,
    )
    virtual_shards: int = setting(
        1,
        "with `determinism=exact`: parts of a batch that are summed in a fixed order and divided "
        "among devices; with 1, one device computes",
        at_least=1,
        at_most=MAX_SHARDS,
        before=1,
    )
    parallel: Literal["auto", "jit", "pmap", "shard_map"] = setting(
        "auto",
        "how devices share a batch: `auto`, `shard_map`, `pmap` or `jit`",
        role=Role.EXECUTION,
        before="auto",
    )
    accumulate: int = setting(
        1,
        "split each batch into so many parts, one after the other: less memory, the same update",
        at_least=1,
        role=Role.COST,
        before=1,
    )
    remat: bool = setting(
        False,
        "recompute activations in the backward pass, one pooling segment at a time, instead of "
        "storing them (XLA's CPU compiler undoes it)",
        role=Role.EXECUTION | Role.COST,
        before=False,
    )
    shard_optimizer: bool = setting(
        False,
        "divide the optimizer's state among the devices",
        role=Role.EXECUTION,
        before=False,
    )
    save_every: int = setting(
        1,
        "epochs between checkpoints; the best and the last epoch are always saved",
        at_least=1,
        role=Role.EXECUTION,
    )
    grace: float = setting(
        GRACE_SECONDS,
        "seconds from a scheduler's signal to SIGKILL: calls of the device are so short that a run "
        "has saved its state by then",
        above=0,
        role=Role.DELIVERY,
        before=30.0,
    )
    sdc_check: int = setting(
        0,
        "compute every so many steps one twice and compare all bits, to find a device that "
        "corrupts data silently; 0: never",
        at_least=0,
        role=Role.EXECUTION,
        before=0,
    )
    input: Literal["auto", "resident", "stream"] = setting(
        "auto",
        "`resident` holds all pixels on the device, `stream` decodes them when needed, `auto` "
        "streams what is larger than `data_memory`",
        role=Role.DELIVERY,
    )
    workers: int | None = setting(
        None,
        "processes that decode streamed images; `none`: one per core, 0: no extra process",
        at_least=0,
        at_most=MAX_WORKERS,
        role=Role.DELIVERY,
    )
    data_memory: int = setting(4 * 2**30, "bytes of pixels to hold", at_least=1, role=Role.DELIVERY)

    def _check_execution(self) -> None:
        shards, parallel = self.virtual_shards, self.parallel
        if shards > 1 and self.determinism != "exact":
            raise ConfigError(
                f"virtual_shards={shards} fixes the order of sums and needs determinism=exact "
                f"(got {self.determinism})"
            )
        if shards > 1 and (parallel == "jit" or self.shard_optimizer):
            other = "parallel=jit" if parallel == "jit" else "shard_optimizer=true"
            raise ConfigError(
                f"virtual_shards={shards} does not work with {other}, which lets XLA choose the "
                "order of sums; use parallel=shard_map or pmap"
            )
        if self.shard_optimizer and parallel in ("pmap", "shard_map"):
            raise ConfigError(
                f"shard_optimizer=true does not work with parallel={parallel}; use auto or jit"
            )
