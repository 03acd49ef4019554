"""Checks of the machine and the installation, each a name, a verdict and a detail."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import flaxcnn.backend as backend
from flaxcnn.data import cache
from flaxcnn.data.datasets import listing
from flaxcnn.engine.folder import runs_folder
from flaxcnn.engine.record import environment

LOW_DISK_BYTES = 2 * 2**30  # CIFAR-10's caches and a few runs


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    verdict: Literal["ok", "warning", "bad"]
    detail: str


def checks() -> list[Check]:
    """All findings, the versions first."""
    env = environment()
    found = [Check(name, "ok", version) for name, version in env["versions"].items()]
    devices = f"{env['devices']} x {env['device']} ({env['backend']}), {env['cpus']} CPU cores"
    found.append(Check("devices", "ok", devices))
    found.append(_sums())
    found.append(Check("XLA_FLAGS", "ok", env["XLA_FLAGS"] or "not set"))
    folders = {"data": cache.root(), "cache": backend.cache_root(), "runs": runs_folder()}
    found += [_folder(f"{n} folder", f.expanduser().absolute()) for n, f in folders.items()]
    for entry in listing():
        ready = entry["prepared"]
        where = entry["path"] if ready else f"not prepared; flaxcnn data prepare {entry['name']}"
        found.append(Check(f"data {entry['name']}", "ok" if ready else "warning", where))
    return found


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
