"""What it costs that a run can stop within an epoch: epochs in parts beside epochs in one call.

    python -m benchmarks.stopping [--turns N] [--output FILE]

Both train the same recipe on random pixels in the sizes of its data. "whole" is one call of the
program of an epoch, as before; "parts" is what `flaxcnn train` does: calls of about two seconds,
looked at for a signal. They take turns, so that what else the machine does falls on both alike;
ratios are taken within a turn. Processor seconds, of all threads, are beside the times.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when jaxlib is imported

import jax

from benchmarks.peers import record
from flaxcnn import backend
from flaxcnn.bench import synthetic
from flaxcnn.engine import epoch
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.make_job import make_resident_job
from flaxcnn.recipe import catalog
from flaxcnn.records.environment import source_revision
from flaxcnn.records.files import plain, write_atomic

OUTPUT = record.FOLDER / "stopping-cpu.json"
# Epochs of a turn, and one in how many turns; long epochs vary less.
RECIPES = {"digits/quickstart": (6, 1), "mnist-ladder/model10": (1, 4)}


class Epochs:
    """Epochs of a recipe, in one call or in parts."""

    def __init__(self, name: str):
        config, _ = catalog.resolve(catalog.find(name))
        self.job = make_resident_job(config, synthetic(config.dataset))
        self.states = {"whole": self.job.init(), "parts": self.job.init()}
        state = self.states["whole"]
        self.program = self.job._program(epoch.train_epoch, state)
        self.job.compile(state)
        self.calls = 0

    def whole(self) -> None:
        """An epoch in one call."""
        job = self.job
        state, sums = self.program(self.states["whole"], job.hypers, job.data, job._train_rows)
        Interrupt().wait((state, sums))
        self.states["whole"] = state

    def parts(self) -> None:
        """An epoch as a run does it."""
        self.calls = 0
        for state, _, _ in self.job.train_parts(self.states["parts"], 0, Interrupt().overdue):
            self.states["parts"] = state
            self.calls += 1
        jax.block_until_ready(self.states["parts"])


def measure(name: str, epochs: int, turns: int) -> dict[str, Any]:
    """Seconds of an epoch of each; the first turn warms up and does not count."""
    case = Epochs(name)
    ways: dict[str, Callable[[], None]] = {"whole": case.whole, "parts": case.parts}
    wall: list[dict[str, float]] = []
    used: list[dict[str, float]] = []
    for turn in range(1 + turns):
        order = list(ways) if turn % 2 else list(ways)[::-1]
        times, processor = {}, {}
        for way in order:
            began, before = time.perf_counter(), time.process_time()
            for _ in range(epochs):
                ways[way]()
            times[way] = (time.perf_counter() - began) / epochs
            processor[way] = (time.process_time() - before) / epochs
        wall.append(times)
        used.append(processor)
    same = jax.tree.all(jax.tree.map(
        lambda one, other: bool((one == other).all()), *case.states.values()
    ))  # fmt: skip
    return {
        "steps": case.job.plan.steps_per_epoch, "turns": turns, "epochs": epochs,
        "calls": case.calls, "devices": case.job.plan.sharding.devices, "same_bits": same,
        "seconds": wall[1:], "processor_seconds": used[1:],
        "parts_over_whole": ratios(wall[1:]), "processor_parts_over_whole": ratios(used[1:]),
    }  # fmt: skip


def ratios(turns: list[dict[str, float]]) -> dict[str, float]:
    """Median and quartiles of the time in parts over that in one call."""
    low, middle, high = statistics.quantiles([t["parts"] / t["whole"] for t in turns], n=4)
    return {"median": middle, "lower_quartile": low, "upper_quartile": high}


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stopping")
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    backend.prepare()
    load = os.getloadavg()[0]
    document = {
        "recipes": {
            name: measure(name, epochs, max(options.turns // share, 2))
            for name, (epochs, share) in RECIPES.items()
        },
        "load_average": [load, os.getloadavg()[0]], "source_revision": source_revision(),
        "environment": record.environment(backend.cores(), jax.default_backend()),
    }  # fmt: skip
    write_atomic(options.output, (json.dumps(plain(document), indent=1) + "\n").encode())
    for name, one in document["recipes"].items():
        for what in ("parts_over_whole", "processor_parts_over_whole"):
            print(f"{name}, {what}: {one[what]['median']:.4f} ({one[what]['lower_quartile']:.4f} "
                  f"to {one[what]['upper_quartile']:.4f}), {one['calls']} calls")  # fmt: skip


if __name__ == "__main__":
    main()
