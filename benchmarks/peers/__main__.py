"""The command: `python -m benchmarks.peers --help`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path

from benchmarks.peers import record, table
from benchmarks.peers.measure import GROUPS, Plan, measure
from benchmarks.peers.models import DEFAULT, find
from benchmarks.peers.task import DTYPES, is_prepared
from flaxcnn.errors import ConfigError, FlaxcnnError, near_miss
from flaxcnn.recipe.data import KNOWN_DATA

# What each peer imports beyond flaxcnn's own requirements.
NEEDS = {
    "flaxcnn": (),
    "keras-tensorflow": ("keras", "tensorflow"),
    "keras-jax": ("keras",),
    "torch": ("torch",),
    "torch-compile": ("torch",),
    "flax": (),
}


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description="Train the same networks with flaxcnn and its peers, in turn, and compare.",
        epilog="Example: python -m benchmarks.peers --models mnist-ladder/model10 --peers "
        "flaxcnn,torch --measure throughput",
        allow_abbrev=False,
    )
    add = found.add_argument
    add("--models", default=",".join(DEFAULT), metavar="A,B", help="recipes by name")
    add("--peers", default=",".join(NEEDS), metavar="P,Q", help=", ".join(NEEDS))
    add("--measure", default=",".join(GROUPS), metavar="G,H", help=", ".join(GROUPS))
    add("--repeats", type=int, default=5, metavar="N", help="alternations (default 5)")
    add("--threads", type=int, metavar="N", help="cores for every peer (default: all)")
    add("--dtype", default="f32", metavar="f32|bf16", help="of the computation (default f32)")
    add("--device", default="auto", metavar="auto|cpu", help="cpu: even where there is a GPU")
    add("--whole", action="store_true", help="whole runs of all models, not of MNIST's alone")
    add("--synthetic", action="store_true", help="random images even where data are prepared")
    add("--output", type=Path, metavar="FILE", help="default benchmarks/results/peers-DEVICE.json")
    add("--json", action="store_true", help="print one JSON document on stdout")
    return found


def chosen(option: str, text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    """The comma-separated words of an option, each once.

    Raises:
        ConfigError: none at all, or one that is not known; the near miss is named.
    """
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    for word in words:
        if word not in known:
            raise ConfigError(
                f"{option}: got {word!r}; allowed are {', '.join(known)}{near_miss(word, known)}"
            )
    if not words:
        raise ConfigError(f"{option}: got none; allowed are {', '.join(known)}")
    return words


def make_plan(options: argparse.Namespace) -> Plan:
    """The options as a plan.

    Raises:
        ConfigError: an option is wrong, or a peer is not installed.
    """
    peers = chosen("--peers", options.peers, tuple(NEEDS))
    models = tuple(
        dict.fromkeys(name.strip() for name in options.models.split(",") if name.strip())
    )
    if not models:
        raise ConfigError("--models: got none; allowed are names of `flaxcnn experiments list`")
    for name in models:
        data = find(name).dataset
        if data not in KNOWN_DATA and (options.synthetic or not is_prepared(data)):
            raise ConfigError(
                f"--models: {name} trains on {data}, which is not prepared, and random images "
                f"need a known shape; allowed are models on {', '.join(KNOWN_DATA)}"
            )
    groups = chosen("--measure", options.measure, GROUPS)
    dtype = DTYPES[chosen("--dtype", options.dtype, tuple(DTYPES))[0]]
    device = chosen("--device", options.device, ("auto", "cpu"))[0]
    affinity = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    cores = len(affinity(0))
    threads = cores if options.threads is None else options.threads
    for option, value, most in (
        ("--threads", threads, cores),
        ("--repeats", options.repeats, 1000),
    ):
        if not 1 <= value <= most:
            raise ConfigError(f"{option}: got {value}; allowed is an integer from 1 to {most}")
    check_installed(peers)
    return Plan(
        models=models, peers=peers, groups=groups, repeats=options.repeats, threads=threads,
        dtype=dtype, device=(record.gpu() or "cpu") if device == "auto" else "cpu",
        synthetic=options.synthetic, whole_for_all=options.whole,
    )  # fmt: skip


def check_installed(peers: tuple[str, ...]) -> None:
    """ConfigError naming the extra unless every peer's packages can be imported; imports none."""
    for peer in peers:
        missing = [name for name in NEEDS[peer] if importlib.util.find_spec(name) is None]
        if missing:
            raise ConfigError(
                f"--peers: {peer} needs {' and '.join(missing)}; install the extra "
                "(pip install 'flaxcnn[peers]') or leave it out (--peers flaxcnn,flax)"
            )


def run(plan: Plan, output: Path | None) -> dict:
    """Measure, and write after every model: what is done stays done."""
    path = output or record.file_for(plan.device)
    results = record.read(path, plan.device)
    began = record.now()
    where = record.environment(plan.threads, plan.device)
    for model in plan.models:
        settings = {
            row["peer"]: row["settings"] for row in results["rows"]
            if row["model"] == model and row["dtype"] == plan.dtype
            and row["group"] == "throughput" and "settings" in row
        }  # fmt: skip
        rows = list(measure(plan, model, settings, tell))
        record.add(results, rows, where, began)
        record.write(path, results)
    return results


def tell(text: str) -> None:
    """Progress, on stderr: stdout is for results."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Exit code of the command: 0 done, 2 wrong usage, others as flaxcnn has them."""
    options = parser().parse_args(arguments)
    try:
        plan = make_plan(options)
        results = run(plan, options.output)
    except FlaxcnnError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        if options.json:
            print(json.dumps({"error": str(error), "exit_code": error.exit_code}))
        return error.exit_code
    except KeyboardInterrupt:
        print("error: interrupted; models that were done are recorded", file=sys.stderr)
        return 130
    if options.json:
        shown = {**results, "comparison": record.comparison(results, plan.dtype)}
        print(json.dumps(shown, indent=1, allow_nan=False))
    else:
        print(table.text(results, plan.models, plan.dtype))
    return 0


if __name__ == "__main__":
    sys.exit(main())
