"""What the ways of sharing a batch cost: steps of jit, pmap and shard_map, of exact mode, scaling.

    python -m benchmarks.parallel [--models A,B] [--steps N] [--repeats N] [--output FILE]

Every case is the program of an epoch of `flaxcnn train`, on random pixels, compiled beforehand. The
cases of a model take turns, so that what else the machine does falls on all of them alike; ratios
are taken within a turn, and compare images per second. Results are merged into the JSON by model.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when jaxlib is imported

import jax

from benchmarks.peers import record
from benchmarks.peers.models import BATCHNORM_CNN, OWN
from flaxcnn import backend
from flaxcnn.bench import OTHER_ROWS, all_rows_train, synthetic
from flaxcnn.data.arrays import Dataset, repeated
from flaxcnn.engine.job import Job
from flaxcnn.engine.make_job import make_job, make_resident_job
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.records.environment import source_revision
from flaxcnn.records.files import plain, write_atomic

MODELS = ("mnist-ladder/model1", "mnist-ladder/model10", "cifar-tuning/model1", "batchnorm-cnn")
SHARDS = 8  # of exact mode


def cases(config: Config) -> dict[str, tuple[dict[str, Any], bool]]:
    """Name -> (settings, whether it runs on one device alone)."""
    exact = {"determinism": "exact", "virtual_shards": SHARDS, "batch_norm": "per_shard"}
    larger = {"batch_size": config.batch_size * jax.device_count()}
    found = {
        "one device": ({}, True),
        "shard_map": ({"parallel": "shard_map"}, False),
        "pmap": ({"parallel": "pmap"}, False),
        "jit": ({"parallel": "jit"}, False),
        "per-shard batch norm": ({"batch_norm": "per_shard"}, False),
        "exact, one device": (exact, True),
        "exact": (exact, False),
        "accumulate 4": ({"accumulate": 4}, False),
        "sharded optimizer": ({"shard_optimizer": True}, False),
        "remat": ({"remat": True}, False),
        "weak": (larger, False),
    }
    if config.layers != BATCHNORM_CNN:
        del found["per-shard batch norm"]
    return found


class Case:
    """Epochs of `steps` batches, one after the other."""

    def __init__(self, config: Config, data: Dataset, steps: int, alone: bool):
        rows = steps * config.batch_size
        sized = dataclasses.replace(
            data, train=repeated(data.train, rows), test=repeated(data.test, OTHER_ROWS)
        )
        config = all_rows_train(dataclasses.replace(config, patience=None))
        self.job: Job = (
            make_resident_job(config, sized, jax.devices()[0]) if alone else make_job(config, sized)
        )
        self.state, self.steps = self.job.init(), steps
        program = self.job.train_program(self.state)
        self.bytes = getattr(program.memory_analysis(), "temp_size_in_bytes", None)

    def step_seconds(self) -> float:
        """Of one step, over an epoch."""
        began = time.perf_counter()
        self.state, _ = jax.block_until_ready(self.job.train_epoch(self.state))
        return (time.perf_counter() - began) / self.steps


def measure(name: str, steps: int, repeats: int) -> list[dict[str, Any]]:
    """A row a case; the first turn warms up and does not count."""
    experiment = OWN.get(name) or catalog.find(name)
    config, _ = catalog.resolve(experiment)
    data, ready = synthetic(config.dataset), {}
    for case, (settings, alone) in cases(config).items():
        ready[case] = Case(dataclasses.replace(config, **settings), data, steps, alone)
    turns = [{case: ready[case].step_seconds() for case in ready} for _ in range(1 + repeats)][1:]
    rows = []
    for case, one in ready.items():
        images = one.job.config.batch_size / config.batch_size
        ratios = [images * turn["one device"] / turn[case] for turn in turns]
        seconds = [turn[case] for turn in turns]
        rows.append({
            "model": name, "case": case, "batch_size": one.job.config.batch_size,
            "devices": one.job.plan.sharding.devices, "mode": one.job.plan.sharding.mode,
            "step_seconds": statistics.median(seconds), "lowest": min(seconds),
            "highest": max(seconds), "speedup": statistics.median(ratios),
            "speedup_lowest": min(ratios), "speedup_highest": max(ratios),
            "compile_seconds": one.job.programs.seconds, "temporary_bytes": one.bytes,
        })  # fmt: skip
    return rows


def main() -> None:
    """Measure what is asked for, and merge it into the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parallel")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    backend.prepare()
    name = f"parallel-{jax.default_backend()}.json"
    output = options.output or record.FOLDER / name
    document: dict[str, Any] = {"models": {}}
    with contextlib.suppress(FileNotFoundError):
        document = json.loads(output.read_text())
    for model in options.models.split(","):
        rows = measure(model, options.steps, options.repeats)
        document["models"][model] = plain({
            "rows": rows, "source_revision": source_revision(), "steps": options.steps,
            "repeats": options.repeats,
            "environment": record.environment(backend.cores(), jax.default_backend()),
        })  # fmt: skip
        write_atomic(output, json.dumps(document, indent=1).encode() + b"\n")
        for row in rows:
            print(
                f"{model:22} {row['case']:22} batch {row['batch_size']:4} on {row['devices']}  "
                f"{1e3 * row['step_seconds']:8.2f} ms  speed-up {row['speedup']:.2f} "
                f"({row['speedup_lowest']:.2f} to {row['speedup_highest']:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
