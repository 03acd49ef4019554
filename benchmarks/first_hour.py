"""What benchmarks/first_hour.sh asks of Python: data, what there is, and the summary of its steps.

    python -m benchmarks.first_hour platform              # back end and devices, as JSON
    python -m benchmarks.first_hour said FILE KEY ELSE    # a value of a JSON file, or ELSE
    python -m benchmarks.first_hour peers                 # those that are installed
    python -m benchmarks.first_hour data FILE ROWS        # images of MNIST's shape, to be learned
    python -m benchmarks.first_hour summary FOLDER        # summary.json, and a table

The summary compares what the steps left: speed with CUDA graphs and without, parameters of two
runs in exact mode, studies side by side and one by one, devices, streaming, seconds to an accuracy,
peers. A step that failed leaves its comparison out, never the others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Validation accuracies whose first epoch is told; the last is the goal of the run.
GOALS = {"model10": (0.97, 0.98, 0.99), "model3": (0.5, 0.6, 0.7)}
TEST_SHARE = 6  # a row of test for so many of training, as MNIST has
NO_GRAPHS = "-no-graphs"


def document(path: Path) -> Any:
    """A JSON file, or None where a step left none or something else."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def platform() -> dict[str, Any]:
    """What jax computes on in a training."""
    import jax

    from flaxcnn.backend import prepare

    prepare()
    return {"backend": jax.default_backend(), "devices": jax.device_count(),
            "device": jax.devices()[0].device_kind, "jax": jax.__version__}  # fmt: skip


def installed_peers() -> list[str]:
    """Peers whose packages can be imported."""
    from benchmarks.peers.__main__ import NEEDS, check_installed
    from flaxcnn.errors import ConfigError

    found = []
    for peer in NEEDS:
        try:
            check_installed((peer,))
        except ConfigError:
            continue
        found.append(peer)
    return found


def write_rows(path: Path, rows: int) -> None:
    """Noise with a bright bar whose place is the class: any network learns it, at MNIST's size."""
    import numpy as np

    draws = np.random.default_rng(0)
    arrays = {}
    for prefix, count in (("", rows), ("test_", max(rows // TEST_SHARE, 10))):
        label = np.arange(count, dtype=np.int32) % 10
        image = draws.integers(0, 128, (count, 28, 28), np.uint8)
        for each in range(10):
            image[label == each, 2 * each + 4 : 2 * each + 6, 6:22] += 100
        arrays |= {f"{prefix}image": image, f"{prefix}label": label}
    np.savez(path, **arrays)


# -- comparisons: each a line for a person and figures, from what the steps left -----------------

Comparison = tuple[str, dict[str, Any]]


def ratio(one: float | None, other: float | None) -> float | None:
    """One over the other, where both are known."""
    return one / other if one and other else None


def times(value: float | None) -> str:
    """A ratio in words."""
    return "–" if value is None else f"{value:.2f} times"


def graphs(folder: Path) -> Iterator[Comparison]:
    """Images per second of each network, and how much of it is due to CUDA graphs."""
    for path in sorted(folder.glob("bench-*.json")):
        if path.stem.endswith(NO_GRAPHS) or not (found := document(path)):
            continue
        without = document(path.with_name(f"{path.stem}{NO_GRAPHS}.json")) or {"results": []}
        keys = ("experiment", "mode", "dtype", "batch_size")
        others = {tuple(row[k] for k in keys): row["images_per_second"]
                  for row in without["results"]}  # fmt: skip
        for row in found["results"]:
            if (speed := row["images_per_second"]) is None:
                continue
            gain = ratio(speed, others.get(tuple(row[k] for k in keys)))
            text = (f"{row['experiment']} {row['mode']} {row['batch_size']} {row['dtype']}: "
                    f"{speed:,.0f} images/s")  # fmt: skip
            figures = {key: row[key] for key in keys}
            yield (
                text + (f", {times(gain)} that without graphs" if gain else ""),
                {**figures, "images_per_second": speed, "with_over_without_graphs": gain},
            )


def exact(folder: Path) -> Iterator[Comparison]:
    """Whether two runs in exact mode end in the same parameters."""
    runs = [document(folder / f"exact-{turn}.json") for turn in (1, 2)]
    if all(runs):
        digests = [run["params_digest"] for run in runs]
        equal = digests[0] == digests[1]
        yield (
            f"determinism=exact twice: {'the same bits' if equal else 'OTHER BITS'}",
            {"equal": equal, "params_digests": digests},
        )


def studies(folder: Path, seconds: dict[str, float]) -> Iterator[Comparison]:
    """Seeds side by side over one after the other, without compilation."""
    spent = {}
    for how in ("map", "vmap"):
        runs = folder / "runs" / f"study-{how}" / "runs.jsonl"
        if document(folder / f"study-{how}.json") and runs.is_file():
            lines = [json.loads(line) for line in runs.read_text().splitlines()]
            compiling = max(line.get("compile_seconds", 0.0) for line in lines)
            spent[how] = seconds[f"study-{how}"] - compiling
    if len(spent) == 2:
        yield (
            f"study: {spent['vmap']:.0f} s side by side, {spent['map']:.0f} s one by one",
            {f"{how}_seconds": value for how, value in spent.items()},
        )


def pairs(folder: Path) -> Iterator[Comparison]:
    """All devices over one, and rows streamed over rows on the device."""
    wanted = [(path.stem, path.stem.replace("-all-", "-one-"))
              for path in sorted(folder.glob("devices-all-*.json"))]  # fmt: skip
    for one, other in [*wanted, ("input-stream", "input-resident")]:
        runs = [document(folder / f"{name}.json") for name in (one, other)]
        if all(runs):
            speeds = [run["images_per_second"] for run in runs]
            equal = runs[0]["params_digest"] == runs[1]["params_digest"]
            yield (
                f"{one}: {speeds[0]:,.0f} images/s, {times(ratio(*speeds))} {other}",
                {"step": one, "images_per_second": speeds[0], "beside": other,
                 "ratio": ratio(*speeds), "same_bits": equal},
            )  # fmt: skip


def accuracy(folder: Path) -> Iterator[Comparison]:
    """Seconds of training, validation included, until an epoch reached each goal."""
    for model, goals in GOALS.items():
        history = folder / "runs" / f"accuracy-{model}" / "metrics.jsonl"
        if not history.is_file():
            continue
        reached: dict[str, float | None] = dict.fromkeys(map(str, goals))
        spent = 0.0
        for line in history.read_text().splitlines():
            epoch = json.loads(line)
            spent += epoch["seconds"]
            for goal in goals:
                if epoch["val_accuracy"] >= goal and reached[str(goal)] is None:
                    reached[str(goal)] = spent
        told = ", ".join(f"{goal}: {'not reached' if at is None else f'{at:.1f} s'}"
                         for goal, at in reached.items())  # fmt: skip
        yield f"{model} to validation accuracy {told}", {"model": model, "seconds_to": reached}


def peers(folder: Path) -> Iterator[Comparison]:
    """flaxcnn over its fastest peer."""
    found = document(folder / "peers.json") or {"comparison": {"models": []}}
    for entry in found["comparison"]["models"]:
        train = entry["train"]
        if train["best_peer"]:
            text = f"{entry['model']}: {times(train['ratio_to_best'])} {train['best_peer']}"
            yield (
                f"{text} in training",
                {"model": entry["model"], "best_peer": train["best_peer"],
                 "ratio": train["ratio_to_best"]},
            )  # fmt: skip


def steps(folder: Path) -> list[dict[str, Any]]:
    """Name, verdict and seconds of each step."""
    lines = (folder / "steps.tsv").read_text().splitlines()
    return [
        {"step": name, "verdict": verdict, "seconds": float(seconds)}
        for name, verdict, seconds in (line.split("\t") for line in lines)
    ]


def summary(folder: Path) -> dict[str, Any]:
    """summary.json: the steps, and every comparison that they allow."""
    done = steps(folder)
    seconds = {row["step"]: row["seconds"] for row in done}
    found: dict[str, Any] = {"platform": document(folder / "platform.json"), "steps": done}
    numerics = (document(folder / "numerics.json") or {}).get("numerics")
    found["numerics_failed"] = None if numerics is None else [
        one["name"] for one in numerics if one["verdict"] == "failed"
    ]  # fmt: skip
    groups = {
        "bench": graphs(folder), "exact": exact(folder), "study": studies(folder, seconds),
        "pairs": pairs(folder), "accuracy": accuracy(folder), "peers": peers(folder),
    }  # fmt: skip
    found["lines"] = []
    for name, comparisons in groups.items():
        found[name] = []
        try:
            for text, figures in comparisons:
                found["lines"].append(text)
                found[name].append(figures)
        except (KeyError, TypeError, ValueError) as error:
            found["lines"].append(f"{name}: cannot be read ({type(error).__name__}: {error})")
    return found


def show(folder: Path) -> None:
    """Write summary.json and print it as lines."""
    found = summary(folder)
    (folder / "summary.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"\n{'step':32} {'verdict':24} seconds")
    for row in found["steps"]:
        print(f"{row['step']:32} {row['verdict']:24} {row['seconds']:7.0f}")
    failed = found["numerics_failed"]
    wrong = f"WRONG: {', '.join(failed)}" if failed else "nothing wrong found"
    print(f"\nnumerics: {'not run' if failed is None else wrong}")
    print("\n".join(found["lines"]))
    print(f"\n{folder / 'summary.json'}")


def main(arguments: list[str]) -> None:
    """One of the words above."""
    match arguments:
        case ["platform"]:
            print(json.dumps(platform()))
        case ["said", path, key, otherwise]:
            print((document(Path(path)) or {}).get(key, otherwise))
        case ["peers"]:
            print(",".join(installed_peers()))
        case ["data", path, rows]:
            write_rows(Path(path), int(rows))
        case ["summary", folder]:
            show(Path(folder))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
