"""One step of training with several releases of jax, in turn: processor time and time on the clock.

    python -m benchmarks.jax_versions --setup 0.10.1=.venv/bin/python \\
        --setup 0.12=.venv-newest/bin/python --setup 0.12-onednn=.venv-newest/bin/python,onednn

Each set-up is a process on one device, all of them on the same core; they take turns of a short
epoch. Processor time (user and system) is what to compare on a machine that does other things. The
first set-up is what the others are divided by.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from benchmarks.peers.measure import spread
from benchmarks.peers.record import FOLDER, geometric_mean, now, read
from flaxcnn import backend
from flaxcnn.hardware import installed
from flaxcnn.records.environment import source_revision
from flaxcnn.records.files import plain, write_atomic

MODELS = ("mnist-ladder/model10", "fashion-budget/final", "cifar-tuning/model3",
          "digits/quickstart")  # fmt: skip
OUTPUT = FOLDER / "jax-versions-cpu.json"
STEPS = 8  # of an epoch: enough that its start does not count
ONEDNN = f"{backend.ONEDNN_FLAG} {backend.YNN_BUT_CONVOLUTIONS}"


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.jax_versions", description=__doc__.splitlines()[0],
        allow_abbrev=False,
    )  # fmt: skip
    add = found.add_argument
    add("--setup", action="append", metavar="NAME=PYTHON[,onednn]", help="the first is the base")
    add("--models", default=",".join(MODELS), metavar="A,B", help="recipes by name")
    add("--repeats", type=int, default=7, metavar="N", help="turns (default 7)")
    add("--core", type=int, default=0, metavar="K", help="the core of all (default 0)")
    add("--output", default=str(OUTPUT), metavar="FILE", help=f"default {OUTPUT.name}")
    add("--worker", metavar="MODEL", help=argparse.SUPPRESS)
    return found


def work(model: str) -> None:
    """Build the program; then, for every line read, an epoch and a line with its times."""
    import jax

    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_enable_compilation_cache", False)
    from benchmarks.peers.models import find
    from benchmarks.peers.task import Task, comparable, load
    from flaxcnn.bench import all_rows_train
    from flaxcnn.data.arrays import dataset, repeated
    from flaxcnn.engine.make_job import make_job

    config = all_rows_train(comparable(find(model), "float32")[0])
    data, _ = load(Task(model, config, "float32", 1, synthetic=config.dataset != "digits"))
    train = repeated(data.train, STEPS * config.batch_size)
    job = make_job(config, dataset(data.name, train, repeated(data.test, 1000), data.classes))
    state = job.init()
    state, _ = job.train_epoch(state)
    jax.block_until_ready(state)
    print(json.dumps(installed(("jax", "jaxlib"))), flush=True)
    for _ in sys.stdin:
        used, began = time.process_time(), time.perf_counter()
        state, sums = job.train_epoch(state)
        jax.block_until_ready((state, sums))
        times = time.process_time() - used, time.perf_counter() - began
        print(json.dumps([1e3 * one / STEPS for one in times]), flush=True)


def start(setup: str, model: str, core: int) -> subprocess.Popen[str]:
    """The process of a set-up."""
    python, *more = setup.split(",")
    command = [python, "-m", "benchmarks.jax_versions", "--worker", model]
    flags = ONEDNN if "onednn" in more else ""
    environment = {**os.environ, "XLA_FLAGS": flags, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(process.pid, {core})
    return process


def answer(process: subprocess.Popen[str]) -> Any:
    """Its next line."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def compare(model: str, setups: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of a step of each set-up, and its rate divided by that of the first one."""
    workers = {name: start(setup, model, options.core) for name, setup in setups.items()}
    try:
        row: dict[str, Any] = {
            "model": model, "versions": {name: answer(one) for name, one in workers.items()},
            "cpu_ms": {name: [] for name in workers}, "wall_ms": {name: [] for name in workers},
        }  # fmt: skip
        for turn in range(options.repeats):
            order = list(workers) if turn % 2 == 0 else list(workers)[::-1]
            for name in order:
                stdin = workers[name].stdin
                assert stdin is not None
                print("epoch", file=stdin, flush=True)
                used, took = answer(workers[name])
                row["cpu_ms"][name].append(used)
                row["wall_ms"][name].append(took)
    finally:
        for one in workers.values():
            one.kill()
            one.communicate()  # waits, and closes its pipes
    base, *others = setups
    row["speed"] = {
        name: spread([b / a for b, a in zip(row["cpu_ms"][base], row["cpu_ms"][name], strict=True)])
        for name in others
    }
    return row


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; every network is written as soon as it is done."""
    options = parser().parse_args(arguments)
    if options.worker:
        work(options.worker)
        return 0
    setups = dict(one.split("=", 1) for one in options.setup)
    path = type(OUTPUT)(options.output)
    results = read(path, "cpu")
    for model in options.models.split(","):
        row = compare(model, setups, options)
        row |= {"time": now(), "processor": backend.processor(), "load": os.getloadavg()[0]}
        row["revision"] = source_revision()
        results["rows"] = [old for old in results["rows"] if old["model"] != model] + [plain(row)]
        results["geometric_mean"] = {
            name: geometric_mean([old["speed"][name]["median"] for old in results["rows"]])
            for name in list(setups)[1:]
        }
        write_atomic(path, (json.dumps(results, indent=1) + "\n").encode())
        shown = [f"{name} {statistics.median(row['cpu_ms'][name]):.2f} ms" for name in setups]
        ratios = [f"{name} {one['median']:.2f}" for name, one in row["speed"].items()]
        print(f"{model}: {'; '.join(shown)}; speed {', '.join(ratios)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
