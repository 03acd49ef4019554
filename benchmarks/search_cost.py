"""A whole search beside scikit-learn's GridSearchCV over a Keras model on TensorFlow.

    python -m benchmarks.search_cost [--rows N] [--shrink N] [--turns N] [--threads N]
        [--warm] [--output FILE]

Both search fashion-budget/grid: 24 candidates on the same 5 folds of the first `--rows` training
images of Fashion-MNIST, for the document's 20 and 30 epochs divided by `--shrink`. Neither stops
early or trains the winner again; both score a fold by the weights after the last epoch, on the same
rows. Each search is a process of its own, the sides in turn, and its time is that of the process,
imports, compilation and records included; flaxcnn starts with an empty cache of programs. Keras has
the settings and the number of jobs that are fastest in trials on a part of the grid.

flaxcnn reads runs with fewer epochs off longer ones, so it trains fewer images than the grid asks
for. Hence two ratios: of the searches, and of the images that each side trained in a second.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when jaxlib or tensorflow is imported

from benchmarks.peers import record
from benchmarks.peers.processes import ROOT, PeerFailed, environment
from benchmarks.peers.task import Task, load
from benchmarks.peers.worker import pin
from flaxcnn.data.arrays import Dataset, dataset
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import totals
from flaxcnn.recipe.splits import Archive
from flaxcnn.records.environment import source_revision
from flaxcnn.records.files import plain, write_atomic

EXPERIMENT = "fashion-budget/grid"
FOLDS = 5
TEST_ROWS = 100  # a data set has some; neither side looks at them
LIMIT = 4 * 3600  # seconds of one search
OURS, PEER = "flaxcnn", "keras-tensorflow"
Point = Mapping[str, Any]  # setting -> value, under the document's names


@dataclass(frozen=True)
class Plan:
    """What one process searches, and in which way."""

    rows: int
    shrink: int
    threads: int
    settings: dict[str, Any] = field(default_factory=dict)  # of Keras
    trial: bool = False  # a part of the grid, to compare settings by


# -- the grid and its rows -----------------------------------------------------------------------


def candidates(shrink: int) -> list[tuple[Point, Config]]:
    """Settings and recipe of every point, with the epochs divided by `shrink`."""
    found = []
    for point in catalog.find(EXPERIMENT).candidates:
        assert point.config is not None
        epochs = max(point.config.epochs // shrink, 1)
        config = dataclasses.replace(
            point.config, epochs=epochs, patience=None, keep="last", split=Archive(), validation=0.1
        )
        found.append(({**point.settings, "epochs": epochs}, config))
    return found


def points_of(plan: Plan) -> list[tuple[Point, Config]]:
    """The candidates of a plan; of a trial, one of each program."""
    points = candidates(plan.shrink)
    if not plan.trial:
        return points
    first = {key: values[0] for key, values in grid_of(points).items()}
    same = ("dropout_rate", "epochs")
    return [one for one in points if all(one[0][key] == first[key] for key in same)]


def grid_of(points: Sequence[tuple[Point, Config]]) -> dict[str, list[Any]]:
    """Setting -> its values, as GridSearchCV is given them."""
    keys = points[0][0]
    return {key: list(dict.fromkeys(point[key] for point, _ in points)) for key in keys}


def whole_rows(rows: int) -> int:
    """The largest number up to `rows` of which each fold leaves whole batches to train on."""
    unit = FOLDS * candidates(1)[0][1].batch_size
    return max(rows // unit, 1) * unit


def cut(rows: int) -> tuple[Dataset, str]:
    """The first `rows` training images; random ones, said so, where none are prepared."""
    whole, pixels = load(Task(EXPERIMENT, candidates(1)[0][1], "float32", 1, synthetic=False))
    train, test = (
        dataclasses.replace(split, image=split.image[:count], label=split.label[:count])
        for split, count in ((whole.train, rows), (whole.test, TEST_ROWS))
    )
    return dataset(whole.name, train, test, whole.classes), pixels


def images_asked(points: Sequence[tuple[Point, Config]], rows: int) -> int:
    """Images that the grid is trained on, where every run is trained on its own."""
    return sum(config.epochs for _, config in points) * rows * (FOLDS - 1)


def images_needed(points: Sequence[tuple[Point, Config]], rows: int) -> int:
    """The same where a run that is the beginning of a longer one is read off that."""
    longest: dict[Any, int] = {}
    for point, config in points:
        others = tuple(value for key, value in point.items() if key != "epochs")
        longest[others] = max(longest.get(others, 0), config.epochs)
    return sum(longest.values()) * rows * (FOLDS - 1)


# -- one process ---------------------------------------------------------------------------------


def search(plan: Plan) -> dict[str, Any]:
    """flaxcnn's side: what `flaxcnn search --protocol document --no-refit` does."""
    from flaxcnn.studies.candidates import Candidates
    from flaxcnn.studies.events import Listener
    from flaxcnn.studies.plan import Scoring
    from flaxcnn.studies.search import campaign_of, search_candidates

    (data, pixels), points = cut(plan.rows), points_of(plan)
    ways: list[tuple[int, int]] = []
    scoring = Scoring(folds=FOLDS, document=True)
    listener = Listener(note=print, group=lambda _, jobs, width: ways.append((len(jobs), width)))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        candidates = Candidates.of(points, data, max_params=50_000)
        campaign = campaign_of(
            scoring, data, Path(folder) / "search", name=EXPERIMENT, listener=listener
        )
        done = search_candidates(candidates, scoring, campaign, refit=False)
        seconds = time.perf_counter() - began
        lines = (done.path / "epochs.jsonl").read_text().splitlines()
    assert not candidates.dropped
    most = max(point["epochs"] for point, _ in points)
    longest = {r["run"]: r["train_rows"] for r in done.rows if r["setting"]["epochs"] == most}
    epochs = [line for line in map(json.loads, lines) if line["run"] in longest]
    later = [line["seconds"] for line in epochs if line["epoch"] > 1]
    means = {one["label"]: one["mean"] for one in done.summary["candidates"]}
    return {
        "search_seconds": seconds, "at_a_time": max(devices for devices, _ in ways),
        "side_by_side": max(width for _, width in ways), "pixels": pixels,
        "images_trained": sum(longest[line["run"]] for line in epochs),
        "params": sorted({one.params for one in candidates.tried}),
        "epoch_seconds": statistics.mean(later) if later else None,
        "scores": [[dict(one.settings), means[one.label]] for one in candidates.tried],
    }  # fmt: skip


def child(side: str, file: Path) -> None:
    """Search as the plan in `file` says, and put what was found in its place."""
    plan = Plan(**json.loads(file.read_text()))
    if side == PEER:
        from benchmarks import search_keras

        found = search_keras.search(plan)
    else:
        found = search(plan)
    file.write_text(json.dumps(plain(found)))


def timed(side: str, plan: Plan, cache: Path | None = None) -> dict[str, Any]:
    """What a process of its own finds, with the seconds from its start to its end.

    Raises:
        PeerFailed: with its last words.
    """
    threads = plan.threads // plan.settings.get("jobs", 1)
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "said").open("w+") as said:
        file = Path(folder) / "plan.json"
        file.write_text(json.dumps(vars(plan)))
        command = [sys.executable, "-m", "benchmarks.search_cost", "--side", side, str(file)]
        began = time.perf_counter()
        done = subprocess.run(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=said, stderr=said, timeout=LIMIT,
            env=environment(side, threads, cache or Path(folder) / "cache", cpu_only=True),
        )  # fmt: skip
        seconds = time.perf_counter() - began
        if done.returncode:
            said.seek(0)
            raise PeerFailed(f"{side} ended with {done.returncode}: {said.read()[-500:]}")
        return {"seconds": seconds, **json.loads(file.read_text())}


# -- measurements --------------------------------------------------------------------------------


def calibrate(plan: Plan) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Keras's fastest settings on a part of the grid, and all that were tried.

    One setting after the other is changed and kept where that is faster. What is compared is the
    time of trainings and scores, since that of starting worker processes is paid once a search.
    """
    best = {"jit_compile": False, "steps_per_execution": 1, "data": "arrays", "jobs": 1}
    others = {"data": "tf.data", "steps_per_execution": 16, "jobs": plan.threads,
              "jit_compile": True}  # fmt: skip
    tried: list[dict[str, Any]] = []

    def seconds(settings: dict[str, Any]) -> float:
        found = timed(PEER, dataclasses.replace(plan, settings=settings, trial=True))
        tried.append({"settings": settings, "seconds": found["busy_seconds"]})
        print(f"trial {settings}: {found['busy_seconds']:.1f} s", flush=True)
        return found["busy_seconds"]

    shortest = seconds(best)
    for key, value in others.items():
        if best[key] != value and (now := seconds({**best, key: value})) < shortest:
            best, shortest = {**best, key: value}, now
    return best, tried


def turn(number: int, plan: Plan, settings: dict[str, Any], warm: bool) -> dict[str, Any]:
    """Side -> what its search found; each turn another side begins."""
    found = {}
    for side in (OURS, PEER) if number % 2 == 0 else (PEER, OURS):
        if side == PEER:
            found[PEER] = timed(PEER, dataclasses.replace(plan, settings=settings))
            continue
        with tempfile.TemporaryDirectory() as cache:
            found[OURS] = timed(OURS, plan, Path(cache))
            if warm:
                found["flaxcnn, programs kept"] = timed(OURS, plan, Path(cache))
    print(f"turn {number + 1}: " + ", ".join(f"{side} {one['seconds']:.1f} s"
          for side, one in found.items()), flush=True)  # fmt: skip
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def summed_up(turns: Sequence[Mapping[str, Any]], asked: int) -> dict[str, Any]:
    """Each side's figures over the turns, and ratios taken within a turn: theirs over ours."""
    sides, ratios = {}, {}
    for side in turns[0]:
        own = [one[side] for one in turns]
        rates = [asked / one["seconds"] for one in own]
        sides[side] = {
            "seconds": spread([one["seconds"] for one in own]),
            "search_seconds": spread([one["search_seconds"] for one in own]),
            "images_per_second": spread(rates),  # of those that the grid asks for
            "images_trained": own[0]["images_trained"],
            "trained_per_second": spread([one["images_trained"] / one["seconds"] for one in own]),
            "epoch_seconds": [one["epoch_seconds"] for one in own],  # after the first
            "at_a_time": own[0]["at_a_time"],
        }
        if side == PEER:
            continue
        both = [(one[side], one[PEER]) for one in turns]
        share = own[0]["images_trained"] / turns[0][PEER]["images_trained"]
        whole = [theirs["seconds"] / ours["seconds"] for ours, theirs in both]
        ratios[side] = {
            "search": spread(whole),
            "images_trained": spread([share * ratio for ratio in whole]),
            "without_start": spread(
                [theirs["search_seconds"] / ours["search_seconds"] for ours, theirs in both]
            ),
        }
    return {"sides": sides, "ratios": ratios}


def side_by_side(turns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Mean accuracy over folds and turns of every candidate, of both sides."""
    found: dict[str, dict[str, list[float]]] = {}
    for one in turns:
        for side in (OURS, PEER):
            for point, score in one[side]["scores"]:
                text = json.dumps(point, sort_keys=True)
                found.setdefault(text, {}).setdefault(side, []).append(score)
    return [
        {"settings": json.loads(text), **{side: statistics.mean(own[side]) for side in own}}
        for text, own in found.items()
    ]


def check(turns: Sequence[Mapping[str, Any]], points: Any, rows: int) -> None:
    """The same networks, and as many images as they should be trained on."""
    (params,) = {totals(config.table((28, 28, 1), 10))["params"] for _, config in points}
    needed = {OURS: images_needed(points, rows), PEER: images_asked(points, rows)}
    for one in turns:
        for side, found in one.items():
            assert found["params"] == [params], (side, found["params"])
            trained = needed[PEER if side == PEER else OURS]
            assert found["images_trained"] == trained, (side, found["images_trained"], trained)


def write(path: Path, turns: list[dict[str, Any]], plan: Plan, peer: dict[str, Any]) -> None:
    """The results of the turns so far."""
    points = candidates(plan.shrink)
    check(turns, points, plan.rows)
    asked = images_asked(points, plan.rows)
    document = {
        "experiment": EXPERIMENT, "candidates": len(points), "folds": FOLDS, "rows": plan.rows,
        "rows_trained_on": plan.rows * (FOLDS - 1) // FOLDS,
        "batch_size": points[0][1].batch_size,
        "epochs": grid_of(points)["epochs"],
        "epochs_of_the_document": grid_of(candidates(1))["epochs"],
        "params": turns[0][OURS]["params"][0], "images_asked": asked,
        "pixels": turns[0][OURS]["pixels"], "turns": len(turns),
        "early_stopping": False, "refit": False, "flaxcnn_starts_with_kept_programs": False,
        "peer": peer, **summed_up(turns, asked), "scores": side_by_side(turns),
        "source_revision": source_revision(),
        "environment": record.environment(plan.threads, "cpu"), "measured": record.now(),
    }  # fmt: skip
    write_atomic(path, json.dumps(plain(document), indent=1).encode() + b"\n")


def main() -> None:
    """Calibrate the peer, search in turn, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_cost")
    parser.add_argument("--rows", type=int, default=6400)
    parser.add_argument("--shrink", type=int, default=10, choices=(1, 2, 5, 10),
                        help="divides the document's epochs")  # fmt: skip
    parser.add_argument("--turns", type=int, default=3)
    affinity = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    parser.add_argument("--threads", type=int, default=len(affinity(0)), help="cores of each side")
    parser.add_argument("--warm", action="store_true", help="flaxcnn once more, programs kept")
    parser.add_argument("--output", type=Path, default=record.FOLDER / "search-cost-cpu.json")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)  # of the children
    options = parser.parse_args()
    if options.side:
        child(options.side[0], Path(options.side[1]))
        return
    pin(options.threads)  # and so every process that is started
    plan = Plan(whole_rows(options.rows), options.shrink, options.threads)
    settings, tried = calibrate(plan)
    turns: list[dict[str, Any]] = []
    for number in range(options.turns):
        turns.append(turn(number, plan, settings, options.warm))
        write(options.output, turns, plan, {"settings": settings, "tried": tried})


if __name__ == "__main__":
    main()
