"""Cases to compile, each in a process of its own, and what came out of them; no jax here."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import platformdirs

from flaxcnn.accelerators.targets import Target, bounds, parse
from flaxcnn.errors import ConfigError
from flaxcnn.recipe.config import Config

FOLDER = "FLAXCNN_ACCELERATORS"
# Compilers without the libraries that their programs would call: 340 MB, and no driver
WHEELS = ("libtpu==0.0.41.*", "jax-cuda13-plugin==0.10.1", "jax-cuda13-pjrt==0.10.1")
MODULES = {"tpu": ("libtpu",), "gpu": ("jax_cuda13_plugin", "jax_plugins/xla_cuda13")}
IMPLEMENTATIONS = ("flaxcnn", "flax")
STEPS = 20  # of a training program: the body of a loop is the same however often it runs


@dataclass(frozen=True)
class Case:
    """One program to compile for one target."""

    experiment: str
    config: Config
    target: str  # as `targets.parse` reads it
    program: str = "train_epoch"
    implementation: str = "flaxcnn"  # or "flax": linen and optax as the examples of Flax have them
    width: int = 0  # runs side by side; 0: one run
    steps: int = STEPS
    keep: str = ""  # a file for the optimized HLO

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON value."""
        return {**vars(self), "config": self.config.to_dict()}


def folder(target: Target) -> Path | None:
    """Where the compiler of a target is: a folder of its own, or None where jax finds it.

    Raises:
        ConfigError: it is in neither; says how to get it.
    """
    chosen = os.environ.get(FOLDER)
    own = Path(chosen).expanduser() if chosen else _default()
    if all((own / name).is_dir() for name in MODULES[target.kind]):
        return own
    if all(_importable(name.replace("/", ".")) for name in MODULES[target.kind]):
        return None
    raise ConfigError(
        f"--compile-for {target.name}: its compiler is not installed; `{install_command(own)}` "
        "downloads 340 MB into a folder of its own, where it does not disturb jax"
    )


def _default() -> Path:
    cache = os.environ.get("FLAXCNN_CACHE_DIR")
    root = Path(cache).expanduser() if cache else platformdirs.user_cache_path("flaxcnn")
    return root / "accelerators"


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def install_command(where: Path) -> str:
    """What installs the compilers there."""
    words = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(where), *WHEELS]
    return shlex.join(words)


def versions(where: Path | None) -> dict[str, str]:
    """Of jax and of the compilers, in their folder or the environment; of those that are there."""
    versions: dict[str, str] = {}
    for name in ("jax", "jaxlib", *(wheel.partition("==")[0] for wheel in WHEELS)):
        path = [str(where), *sys.path] if where else sys.path
        for one in metadata.distributions(name=name, path=path):
            versions.setdefault(name, one.version)
    return versions


def compile_case(case: Case) -> dict[str, Any]:
    """A row of `results`; of a case that cannot be compiled, with `error` and its `kind`.

    Raises:
        ConfigError: an unknown target, or its compiler is missing.
    """
    target, chips = parse(case.target)
    where = folder(target)
    words = [sys.executable, "-m", "flaxcnn.accelerators.compile_for"]
    done = subprocess.run(
        [*words, json.dumps(case.to_dict()), str(where or "")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    row = {
        "experiment": case.experiment, "target": target.name, "chips": chips, "devices": chips,
        "program": case.program, "implementation": case.implementation,
        "precision": case.config.precision, "batch_size": case.config.batch_size,
        "width": case.width,
    }  # fmt: skip
    return row | _result(target, row, done)


def _result(
    target: Target, row: Mapping[str, Any], done: subprocess.CompletedProcess[str]
) -> dict[str, Any]:
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return {"fits": None, "error": _ended(done), "kind": "compiler"}
    result: dict[str, Any] = json.loads(lines[-1])
    if "error" in result:
        return {"fits": False if result["kind"] == "out of memory" else None, **result}
    result["bounds"] = bounds(
        target, result["devices"], row["precision"], result.pop("flops"), result["main_bytes"],
        result["kernels"], result["launches"] or 0,
    )  # fmt: skip
    if result["cycles"] is not None:
        result["bounds"]["cycles"] = result["cycles"] / target.clock
    return result


def _ended(done: subprocess.CompletedProcess[str]) -> str:
    """A sentence on a process that ended without a result."""
    code = done.returncode
    how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    # A failed check is logged as fatal: F0102 15:04:05.000000 thread file:line] what
    reason = next((line for line in lines if line.startswith("F")), lines[-1] if lines else "")
    return f"the compiler {how}: {reason[:300]}"
