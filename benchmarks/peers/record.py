"""The results file: one row per model, peer and group, each with where and when it was measured."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from flaxcnn.records.environment import source_revision
from flaxcnn.records.files import plain, write_atomic

FOLDER = Path(__file__).resolve().parents[1] / "results"
PACKAGES = ("flaxcnn", "jax", "jaxlib", "flax", "optax", "keras", "tensorflow", "tensorflow-cpu",
            "torch", "numpy", "scikit-learn")  # fmt: skip
Row = dict[str, Any]


def gpu() -> str | None:
    """What the driver calls the first GPU; None without one. Needs no framework."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.splitlines()[0].strip() if said.stdout.strip() else None


def file_for(device: str) -> Path:
    """`peers-cpu.json`, `peers-nvidia-h200.json`."""
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return FOLDER / f"peers-{slug}.json"


def environment(threads: int, device: str) -> dict[str, Any]:
    """Where figures come from. No host names and no paths."""
    from flaxcnn.backend import processor

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": processor(), "cores": os.cpu_count(), "threads": threads, "device": device,
        "system": platform.system(), "python": platform.python_version(), "versions": versions,
    }  # fmt: skip


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def empty(device: str) -> dict[str, Any]:
    """A results document without rows."""
    return {"device": device, "environments": {}, "rows": []}


def read(path: Path, device: str) -> dict[str, Any]:
    """The results at `path`, or none yet."""
    return json.loads(path.read_text()) if path.is_file() else empty(device)


def add(results: dict[str, Any], rows: list[Row], where: dict[str, Any], run: str) -> None:
    """Put `rows` of the invocation `run` in the place of older ones of their model, peer and group.

    Only rows of one invocation were measured in turn, so only those are compared later.
    """
    text = json.dumps(where, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:8]
    results["environments"][key] = where
    stamp = {"run": run, "time": now(), "environment": key, "source_revision": source_revision()}
    replaced = {identity(row) for row in rows}
    kept = [row for row in results["rows"] if identity(row) not in replaced]
    results["rows"] = kept + [plain({**row, **stamp}) for row in rows]
    used = {row["environment"] for row in results["rows"]}
    results["environments"] = {k: v for k, v in results["environments"].items() if k in used}


def write(path: Path, results: dict[str, Any]) -> None:
    """The whole document, with the comparison it gives."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {**results, "comparison": comparison(results)}
    write_atomic(path, (json.dumps(document, indent=1, allow_nan=False) + "\n").encode())


def identity(row: Row) -> tuple[str, str, str, str]:
    """Which row an other one replaces."""
    return row["model"], row["peer"], row["group"], row["dtype"]


def rate(row: Row, phase: str) -> float:
    """Median images/s of `train` or `eval`."""
    return row[f"{phase}_images_per_second"]["median"]


def comparison(results: dict[str, Any], dtype: str = "float32") -> dict[str, Any]:
    """flaxcnn's images/s over each peer's, per model, and geometric means over the models."""
    rows = [row for row in results["rows"]
            if row["group"] == "throughput" and row["dtype"] == dtype]  # fmt: skip
    models = []
    for ours in (row for row in rows if row["peer"] == "flaxcnn" and "failed" not in row):
        others = [row for row in rows if row["model"] == ours["model"] and row is not ours
                  and row["run"] == ours["run"]]  # fmt: skip
        ran = [row for row in others if "failed" not in row]
        entry = {"model": ours["model"], "batch_size": ours["batch_size"]}
        entry["failed"] = {row["peer"]: row["failed"] for row in others if "failed" in row}
        for phase in ("train", "eval"):
            best = max(ran, key=lambda row: rate(row, phase), default=None)
            entry[phase] = {
                "images_per_second": rate(ours, phase),
                "best_peer": best and best["peer"],
                "best_images_per_second": best and rate(best, phase),
                "ratio_to_best": best and rate(ours, phase) / rate(best, phase),
                "ratios": {row["peer"]: rate(ours, phase) / rate(row, phase) for row in ran},
            }
        models.append(entry)
    return {"models": models, "geometric_mean": {p: _means(models, p) for p in ("train", "eval")}}


def _means(models: list[dict[str, Any]], phase: str) -> dict[str, Any]:
    best = [entry[phase]["ratio_to_best"] for entry in models if entry[phase]["best_peer"]]
    peers = dict.fromkeys(peer for entry in models for peer in entry[phase]["ratios"])
    each = {
        peer: geometric_mean([
            entry[phase]["ratios"][peer] for entry in models if peer in entry[phase]["ratios"]
        ])
        for peer in peers
    }  # fmt: skip
    return {"best": geometric_mean(best), "peers": each}


def geometric_mean(values: list[float]) -> float | None:
    """None of no values."""
    if not values:
        return None
    return math.exp(sum(map(math.log, values)) / len(values))
