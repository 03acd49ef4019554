"""What a seed costs in a study: time of a study of N seeds over N times that of one run.

    python -m benchmarks.study_scaling [--models A,B] [--seeds 1,2,4,...] [--how auto,map,vmap]
        [--rows N] [--epochs N] [--repeats N] [--output FILE]

One run is `flaxcnn.engine.train.fit`, checkpoints and records included; a study is `flaxcnn.study`,
the measuring of its width included. Both go on in one process, in turn, with compiled programs kept
from a first round that is not counted. The training rows are cut to `--rows`, so that a point takes
seconds. Results are merged into the JSON; a chart is drawn beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when jaxlib is imported

import jax

from benchmarks.peers import record
from benchmarks.tables import COLOURS, INK, styled
from flaxcnn import backend
from flaxcnn.data.arrays import Dataset, dataset
from flaxcnn.data.datasets import load
from flaxcnn.engine.train import fit
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.splits import Archive
from flaxcnn.records.environment import source_revision
from flaxcnn.records.files import plain, write_atomic
from flaxcnn.studies.events import Listener
from flaxcnn.studies.study import study

MODELS = ("digits/quickstart", "mnist-ladder/model1", "mnist-ladder/model10",
          "fashion-slim/final", "fashion-budget/final")  # fmt: skip
TEST_ROWS = 2000


def cut(name: str, rows: int, epochs: int) -> tuple[Config, Dataset]:
    """The recipe and its data with fewer rows and epochs; a digit's few rows stay as they are."""
    config, _ = catalog.resolve(catalog.find(name))
    data = load(config.dataset)
    config = dataclasses.replace(config, epochs=epochs, patience=None, split=Archive(),
                                 validation=0.1, protocol="honest")  # fmt: skip
    if len(data.train) > rows:
        train, test = (
            dataclasses.replace(split, image=split.image[:count], label=split.label[:count])
            for split, count in ((data.train, rows), (data.test, TEST_ROWS))
        )
        data = dataset(data.name, train, test, data.classes)
    return config, data


def one_run(config: Config, data: Dataset, folder: Path) -> float:
    """Seconds of a single training."""
    began = time.perf_counter()
    fit(config, data, folder / "run", on_note=lambda _: None)
    return time.perf_counter() - began


def one_study(config: Config, data: Dataset, folder: Path, seeds: int, how: Any) -> Any:
    """(seconds, runs side by side) of a study."""
    widths: list[int] = []
    began = time.perf_counter()
    study(config, range(seeds), how=how, study_dir=folder / "study", dataset=data,
          tell=Listener(group=lambda *found: widths.append(found[-1])))  # fmt: skip
    return time.perf_counter() - began, widths[0]


def measure(name: str, seeds: int, how: str, options: argparse.Namespace) -> dict[str, Any]:
    """One point: the two in turn, the first round not counted."""
    config, data = cut(name, options.rows, options.epochs)
    alone, together, width = [], [], 0
    for _ in range(1 + options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            alone.append(one_run(config, data, Path(folder)))
            seconds, width = one_study(config, data, Path(folder), seeds, how)
            together.append(seconds)
    ratios = [study / (seeds * run) for run, study in zip(alone[1:], together[1:], strict=True)]
    return {
        "model": name, "seeds": seeds, "how": how, "width": width, "rows": len(data.train),
        "epochs": config.epochs, "batch_size": config.batch_size,
        "run_seconds": statistics.median(alone[1:]),
        "study_seconds": statistics.median(together[1:]),
        "ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios),
        "source_revision": source_revision(),
        "environment": record.environment(backend.cores(), jax.default_backend()),
    }  # fmt: skip


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Ratio against the number of seeds, a line a model."""
    pyplot = styled()
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    names = dict.fromkeys(point["model"] for point in points if point["how"] == "auto")
    for name, colour, marker in zip(names, COLOURS.values(), "os^Dv", strict=False):
        own = sorted((p["seeds"], p["ratio"]) for p in points
                     if p["model"] == name and p["how"] == "auto")  # fmt: skip
        axes.plot(*zip(*own, strict=True), marker=marker, color=colour, label=name)
    axes.axhline(1, color=INK, linewidth=1.2)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("seeds N (log scale)")
    axes.set_ylabel("time of a study / (N x time of one run)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Measure what is asked for, merge it into the results, and draw them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study_scaling")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--seeds", default="1,2,4,8,16,32")
    parser.add_argument("--how", default="auto")
    parser.add_argument("--rows", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=record.FOLDER / "study-scaling-cpu.json")
    options = parser.parse_args()
    backend.prepare()
    document: dict[str, Any] = {"points": []}
    with contextlib.suppress(FileNotFoundError):
        document = json.loads(options.output.read_text())
    for name in options.models.split(","):
        for seeds in map(int, options.seeds.split(",")):
            for how in options.how.split(","):
                point = measure(name, seeds, how, options)
                key = (name, seeds, how)
                document["points"] = [
                    p for p in document["points"] if (p["model"], p["seeds"], p["how"]) != key
                ] + [plain(point)]
                write_atomic(options.output, json.dumps(document, indent=1).encode() + b"\n")
                print(f"{name:24} {seeds:3} seeds {how:4} width {point['width']}: one run "
                      f"{point['run_seconds']:.2f} s, study {point['study_seconds']:.2f} s, "
                      f"ratio {point['ratio']:.2f}", flush=True)  # fmt: skip
    draw(document["points"], options.output.with_suffix(".svg"))


if __name__ == "__main__":
    main()
