"""Checks of the machine and the installation, each a name, a verdict and a detail."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import flaxcnn.backend as backend
from flaxcnn import collectives, hardware, numerics
from flaxcnn.data import cache
from flaxcnn.data.datasets import listing
from flaxcnn.errors import FlaxcnnError
from flaxcnn.records.environment import NOT_RUN, environment
from flaxcnn.records.folder import runs_folder
from flaxcnn.records.format import count_text

LOW_DISK_BYTES = 2 * 2**30  # CIFAR-10's caches and a few runs


@dataclass(frozen=True)
class Check:
    """One finding; a note is nothing to mend."""

    name: str
    verdict: Literal["ok", "note", "warning", "bad"]
    detail: str


def checks() -> list[Check]:
    """All findings, the versions first."""
    env = environment()
    checks = [Check(name, "ok", version) for name, version in env["versions"].items()]
    devices = f"{env['devices']} x {env['device']} ({env['backend']}), {env['cpus']} CPU cores"
    checks.append(Check("devices", "ok", devices))
    checks += _accelerator(env)
    checks.append(Check("matmul precision", "ok", _precision(env)))
    checks += [_sums(), _numerics(env["numerics"])]
    checks.append(Check("XLA_FLAGS", "ok", env["XLA_FLAGS"] or "not set"))
    folders = {"data": cache.root(), "cache": backend.cache_root(), "runs": runs_folder()}
    checks += [_folder(f"{n} folder", f.expanduser().absolute()) for n, f in folders.items()]
    for entry in listing():
        ready = entry["prepared"]
        where = entry["path"] if ready else f"not prepared; flaxcnn data prepare {entry['name']}"
        checks.append(Check(f"data {entry['name']}", "ok" if ready else "note", where))
    return checks


def conclusion(checks: list[Check]) -> str:
    """Whether one can train here and on what, in a sentence."""
    if bad := [check for check in checks if check.verdict == "bad"]:
        return f"not ready to train: {'; '.join(f'{c.name}: {c.detail}' for c in bad)}"
    env = environment()
    where = f"{env['devices']} x {env['device']}"
    if env["backend"] == "cpu":
        where = count_text(backend.cores(), "CPU core")
    unused = {check.name: check for check in checks}
    for kind, maker in (("GPU", "an NVIDIA GPU"), ("TPU", "a TPU")):
        if kind in unused:
            way_out = unused[kind].detail.rpartition("; ")[2]
            cause = "jax is the CPU build" if way_out.startswith("pip") else "jax does not use it"
            return f"ready to train on {where}, but {maker} is here and {cause}: {way_out}"
    return f"ready to train on {where}"


def suite() -> list[numerics.Finding]:
    """Check the numerics of this back end and keep the verdict for the env.json of runs."""
    with contextlib.suppress(FlaxcnnError):  # wrong sums, which a check tells among the others
        backend.prepare()  # the devices and kept programs of a training
    findings = [*numerics.checks(), *collectives.checks()]
    numerics.keep(numerics.verdict(findings))
    return findings


def _accelerator(env: dict[str, Any]) -> list[Check]:
    """Plugins, libraries and driver, and a GPU or TPU that jax does not use."""
    software = env.get("accelerator", {})
    checks = [Check(name, "ok", version) for name, version in software.items()]
    if text := hardware.old_driver(software):
        checks.append(Check("driver", "warning", f"{text}; update it or change the plugin"))
    if env["backend"] != "cpu":
        return checks
    for kind, files, extra in (
        ("GPU", hardware.gpus(), hardware.extra_for_gpus()),
        ("TPU", hardware.tpus(), "tpu"),
    ):
        if files:
            text = f"{files[0]} is there, but jax computes on the CPU; {_way_out(extra, software)}"
            checks.append(Check(kind, "warning", text))
    return checks


def _way_out(extra: str, software: dict[str, str]) -> str:
    """What makes jax use an accelerator that is there."""
    plugins = [name for name in software if name.endswith("-plugin") or name == "libtpu"]
    if platforms := os.environ.get("JAX_PLATFORMS"):
        return f"JAX_PLATFORMS={platforms} says so"
    if any(("tpu" in name) == (extra == "tpu") for name in plugins):
        platform = "tpu" if extra == "tpu" else "cuda"
        return f"{' and '.join(plugins)} cannot use it; JAX_PLATFORMS={platform} makes jax say why"
    return f"pip install 'flaxcnn[{extra}]'"


def _precision(env: dict[str, Any]) -> str:
    """What float32 products are computed in."""
    precision = env["matmul_precision"]
    digits = {0.0: "float32", 2.0**-10: "TensorFloat-32", 2.0**-8: "bfloat16"}
    means = digits[numerics.promised()]
    setting = "not set" if precision == "None" else precision
    return f"{setting}: products of float32 are computed in {means}"


def _numerics(kept: Any) -> Check:
    """The verdict of the last `doctor --numerics` on this jaxlib, device and flags."""
    if kept == NOT_RUN:
        return Check("numerics", "note", "not run; flaxcnn doctor --numerics")
    if kept["failed"]:
        return Check("numerics", "bad", f"wrong: {', '.join(kept['failed'])}")
    return Check("numerics", "ok", f"{len(kept['passed'])} checks passed")


def _sums() -> Check:
    if backend.sums_are_right():
        return Check("sums", "ok", "a broadcast that is summed gives the right answer every time")
    return Check("sums", "bad", f"wrong sums; set XLA_FLAGS={backend.MENDING_FLAG} or change jax")


def _folder(name: str, folder: Path) -> Check:
    """Whether the folder, or the nearest one that exists above it, can be written and has room."""
    there = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(there).free
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Check(name, "bad", f"{folder}: cannot be written")
    verdict: Literal["ok", "warning"] = "warning" if free < LOW_DISK_BYTES else "ok"
    return Check(name, verdict, f"{folder}: {free / 2**30:.1f} GiB free")
