"""The three groups of figures: throughput, time to the first step, and a whole run of an epoch."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.models import find, trainable_as
from benchmarks.peers.processes import (
    BUILD_LIMIT,
    ROOT,
    PeerFailed,
    Worker,
    environment,
)
from benchmarks.peers.task import Task, comparable, epoch_rows, is_prepared, whole_batches

GROUPS = ("throughput", "start", "whole")
WHOLE_DATA = ("mnist",)  # data sets whose models are timed as whole runs without --whole
STARTS = 3  # of each process whose time is the figure
Row = dict[str, Any]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What one invocation measures."""

    models: tuple[str, ...]
    peers: tuple[str, ...]
    groups: tuple[str, ...]
    repeats: int
    threads: int
    dtype: str  # "float32" or "bfloat16"
    device: str  # "cpu", or the GPU's name
    synthetic: bool = False
    whole_for_all: bool = False


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles, smallest and largest of at least one value."""
    low, high = values[0], values[0]
    if len(values) > 1:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": statistics.median(values), "lower_quartile": low, "upper_quartile": high,
            "min": min(values), "max": max(values)}  # fmt: skip


def measure(plan: Plan, model: str, chosen: dict[str, Any], tell: Tell) -> Iterator[Row]:
    """Rows of one model, group by group. `chosen` has earlier calibrated settings by peer."""
    config, left_out = comparable(find(model), plan.dtype)
    task = Task(model, config, plan.dtype, plan.threads, plan.synthetic)
    shared = {"model": model, "dtype": plan.dtype, "threads": plan.threads,
              "batch_size": config.batch_size, "left_out": left_out}  # fmt: skip
    for group in plan.groups:
        rows = {"throughput": throughput, "start": start, "whole": whole}[group]
        for row in rows(plan, task, chosen, tell):
            if group == "throughput" and "settings" in row:
                chosen[row["peer"]] = row["settings"]
            yield {**shared, "group": group, **row}


def throughput(plan: Plan, task: Task, _: dict[str, Any], tell: Tell) -> Iterator[Row]:
    """Blocks in turn: all peers train, all peers evaluate, and again, each time another first."""
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        found: dict[str, Row] = {}
        for peer in plan.peers:
            tell(f"{task.model}: {peer} is built and calibrated")
            worker = Worker(peer, plan.threads, None, plan.device == "cpu")
            stack.callback(worker.close)
            with _recorded(found, peer, tell):
                ready = worker.ask("build", BUILD_LIMIT, task=task.to_dict())
                _check_device(plan, ready)
                found[peer] = {"peer": peer, **ready, "train": [], "evaluate": []}
                workers[peer] = worker
        for repeat in range(plan.repeats):
            tell(f"{task.model}: repeat {repeat + 1} of {plan.repeats}")
            for do in ("train", "evaluate"):
                for peer in _rotated(list(workers), repeat):
                    with _recorded(found, peer, tell):
                        block = workers[peer].ask(do)
                        found[peer][do].append(block["images"] / block["seconds"])
                        found[peer]["peak_bytes"] = block["peak_bytes"]
                workers = {
                    peer: one for peer, one in workers.items() if "failed" not in found[peer]
                }
        for row in found.values():
            yield row if "failed" in row else _summed_up(row)


def _summed_up(row: Row) -> Row:
    """Rates of the blocks as images/s with their spread."""
    rates = {"train_images_per_second": row.pop("train"),
             "eval_images_per_second": row.pop("evaluate")}  # fmt: skip
    return {**row, **{name: {**spread(values), "blocks": values} for name, values in rates.items()}}


def start(plan: Plan, task: Task, chosen: dict[str, Any], tell: Tell) -> Iterator[Row]:
    """Seconds from the start of a process to the end of its first training step.

    Cold is with nothing in any cache of compiled programs, warm is every start after that one.
    """
    found: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        caches = {peer: Path(folder) / peer for peer in plan.peers}
        seconds: dict[str, list[float]] = {peer: [] for peer in plan.peers}
        for number in range(1 + STARTS):
            tell(f"{task.model}: first step, {'warm' if number else 'cold'} start")
            for peer in _rotated(list(plan.peers), number):
                if peer in found and "failed" in found[peer]:
                    continue
                with _recorded(found, peer, tell):
                    took, answer = _timed_worker(plan, task, peer, "start", chosen, caches[peer])
                    seconds[peer].append(took)
                    found[peer] = {"peer": peer, **answer}
    for peer, row in found.items():
        if "failed" not in row:
            row["cold_seconds"] = seconds[peer][0]
            row["warm_seconds"] = spread(seconds[peer][1:])
        yield row


def whole(plan: Plan, task: Task, chosen: dict[str, Any], tell: Tell) -> Iterator[Row]:
    """Seconds of a process that trains one epoch, validates, tests and says so, caches warm."""
    config = find(task.model)
    if config.dataset not in WHOLE_DATA and not plan.whole_for_all:
        return
    if not is_prepared(config.dataset) or task.synthetic:
        for peer in plan.peers:
            yield {"peer": peer, "failed": f"a whole run needs {config.dataset} prepared: "
                   f"flaxcnn data prepare {config.dataset}"}  # fmt: skip
        return
    found: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        seconds: dict[str, list[float]] = {peer: [] for peer in plan.peers}
        for number in range(1 + STARTS):  # the first fills the caches and is not counted
            tell(f"{task.model}: whole run {number} of {STARTS}")
            for peer in _rotated(list(plan.peers), number):
                if peer in found and "failed" in found[peer]:
                    continue
                with _recorded(found, peer, tell):
                    cache_dir = Path(folder) / peer
                    if peer == "flaxcnn":
                        took, answer = _timed_command(plan, task, cache_dir)
                    else:
                        took, answer = _timed_worker(plan, task, peer, "whole", chosen, cache_dir)
                    seconds[peer].append(took)
                    found[peer] = {"peer": peer, **answer}
    for peer, row in found.items():
        if "failed" not in row:
            row["whole_seconds"] = spread(seconds[peer][1:])
        yield row


def _timed_worker(
    plan: Plan, task: Task, peer: str, do: str, chosen: dict[str, Any], cache_dir: Path
) -> tuple[float, Row]:
    """A fresh worker's time from its start to its answer, and the answer."""
    began = time.perf_counter()
    with Worker(peer, plan.threads, cache_dir, plan.device == "cpu") as worker:
        settings = chosen.get(peer, {})
        answer = worker.ask(do, BUILD_LIMIT, task=task.to_dict(), settings=settings)
        took = time.perf_counter() - began
    _check_device(plan, answer)
    return took, {**answer, "settings": settings}


def _timed_command(plan: Plan, task: Task, cache_dir: Path) -> tuple[float, Row]:
    """`flaxcnn train` itself, for one epoch, pinned as the workers are."""
    run = cache_dir / "run"
    shutil.rmtree(run, ignore_errors=True)
    train = [trainable_as(task.model), "-s", "epochs=1", "-s", f"precision={task.dtype}"]
    # The affinity is that of the command and of all that it starts.
    code = (
        "import sys; from benchmarks.peers.worker import pin; pin(int(sys.argv.pop(1))); "
        "from flaxcnn.cli.main import main; main()"
    )
    variables = environment("flaxcnn", plan.threads, cache_dir, plan.device == "cpu")
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, str(plan.threads), "train", *train, "--run-dir", str(run)],
        cwd=ROOT, env=variables, capture_output=True, text=True,
    )  # fmt: skip
    took = time.perf_counter() - began
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise PeerFailed(f"flaxcnn train ended with {done.returncode}: {last[:200]}")
    from flaxcnn.data.datasets import load

    rows = epoch_rows(find(task.model), load(task.config.dataset))[0]
    return took, {"device": plan.device, "pixels": task.config.dataset, "train_rows": rows,
                  "train_rows_of_peers": whole_batches(rows, task.config.batch_size)}  # fmt: skip


def _check_device(plan: Plan, answer: Row) -> None:
    if answer["device"] != plan.device:
        raise PeerFailed(f"it runs on {answer['device']}, and the others on {plan.device}")


@contextlib.contextmanager
def _recorded(found: dict[str, Row], peer: str, tell: Tell) -> Iterator[None]:
    """A peer that fails gets a row with its reason; the others go on."""
    try:
        yield
    except PeerFailed as error:
        found[peer] = {"peer": peer, "failed": str(error)}
        tell(f"{peer} failed: {error}")


def _rotated(peers: list[str], by: int) -> list[str]:
    by %= max(len(peers), 1)
    return peers[by:] + peers[:by]
