"""Two checkouts of this package, timed in turn on the same networks.

    python -m benchmarks.revisions --before ../old --after . --models mnist-ladder/model10

One process a checkout builds its programs, then blocks of training and of evaluation alternate,
each time another one first. The figure is the ratio of the two in one turn (images/s after over
before), so that what slows the machine slows both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.measure import spread
from benchmarks.peers.processes import BUILD_LIMIT, Worker
from benchmarks.peers.record import FOLDER, environment, geometric_mean, now, read
from flaxcnn.records.files import plain, write_atomic

MODELS = ("mnist-ladder/model10", "cifar-tuning/model1", "batchnorm-cnn",
          "mnist-archs/arch1-k7", "fashion-slim/final", "digits/quickstart")  # fmt: skip
OUTPUT = FOLDER / "revisions-cpu.json"

# Run in each checkout: its own recipe of a name, as its own workers read it.
TASK = """
import json, sys
from benchmarks.peers.models import find
from benchmarks.peers.task import Task, comparable
name, threads, synthetic = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "synthetic"
config, _ = comparable(find(name), "float32")
print(json.dumps(Task(name, config, "float32", threads, synthetic).to_dict()))
"""


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.revisions", description=__doc__.splitlines()[0],
        allow_abbrev=False,
    )  # fmt: skip
    add = found.add_argument
    add("--before", type=Path, required=True, metavar="DIR", help="the checkout compared with")
    add("--after", type=Path, default=Path(), metavar="DIR", help="the other (default: this one)")
    add("--models", default=",".join(MODELS), metavar="A,B", help="recipes by name")
    add("--repeats", type=int, default=9, metavar="N", help="alternations (default 9)")
    add("--threads", type=int, default=os.cpu_count(), metavar="N", help="cores (default: all)")
    add("--synthetic", action="store_true", help="random images even where data are prepared")
    add("--output", type=Path, default=OUTPUT, metavar="FILE", help=f"default {OUTPUT.name}")
    return found


def revision(checkout: Path) -> str:
    """The commit of a checkout, with `+` where it has been changed since."""

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(checkout), *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + (
        "+" if git("status", "--porcelain", "-uno") else ""
    )


def task(checkout: Path, model: str, options: argparse.Namespace) -> dict[str, Any]:
    """The task of `model` as the code of `checkout` writes it."""
    words = [model, str(options.threads), "synthetic" if options.synthetic else "prepared"]
    done = subprocess.run(
        [sys.executable, "-c", TASK, *words], cwd=checkout, capture_output=True, text=True,
        check=True, env={**os.environ, "PYTHONPATH": str(checkout.resolve())},
    )  # fmt: skip
    return json.loads(done.stdout)


def compare(model: str, options: argparse.Namespace) -> dict[str, Any]:
    """Ratios of one network, turn by turn, with the rates they were made of."""
    rates: dict[str, dict[str, list[float]]] = {}
    with contextlib.ExitStack() as stack:
        workers = {}
        for side in ("before", "after"):
            checkout = getattr(options, side)
            worker = Worker("flaxcnn", options.threads, None, True, checkout)
            stack.callback(worker.close)
            worker.ask("build", BUILD_LIMIT, task=task(checkout, model, options))
            workers[side] = worker
            rates[side] = {"train": [], "evaluate": []}
        for turn in range(options.repeats):
            order = ("before", "after") if turn % 2 == 0 else ("after", "before")
            for phase in ("train", "evaluate"):
                for side in order:
                    block = workers[side].ask(phase)
                    rates[side][phase].append(block["images"] / block["seconds"])
    row: dict[str, Any] = {"model": model, "rates": rates}
    for phase in ("train", "evaluate"):
        pairs = zip(rates["before"][phase], rates["after"][phase], strict=True)
        row[phase] = spread([after / before for before, after in pairs])
    return row


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; every network is written as soon as it is done."""
    options = parser().parse_args(arguments)
    results = read(options.output, "cpu")
    for model in options.models.split(","):
        row = compare(model, options) | {
            "before": revision(options.before), "after": revision(options.after), "time": now(),
            "environment": environment(options.threads, "cpu"),
        }  # fmt: skip
        results["rows"] = [old for old in results["rows"] if old["model"] != model] + [plain(row)]
        results["geometric_mean"] = {
            phase: geometric_mean([old[phase]["median"] for old in results["rows"]])
            for phase in ("train", "evaluate")
        }
        write_atomic(options.output, (json.dumps(results, indent=1) + "\n").encode())
        shown = "; ".join(
            f"{phase} {row[phase]['median']:.3f} "
            f"({row[phase]['lower_quartile']:.3f} to {row[phase]['upper_quartile']:.3f})"
            for phase in ("train", "evaluate")
        )
        print(f"{model}: {shown}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
