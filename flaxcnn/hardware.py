"""The machine as the system shows it, without jax: accelerators, driver, plugins, a free port."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

ROOT = Path("/")  # where /dev and /proc begin

# What decides the bits on an accelerator beside jax itself: plugins, kernels, collectives.
# Constraints do not pin NVIDIA's packages or libtpu, so that they are recorded.
PACKAGES = (
    "jax-cuda12-plugin", "jax-cuda12-pjrt", "jax-cuda13-plugin", "jax-cuda13-pjrt",
    "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-nccl-cu12", "nvidia-nccl-cu13", "libtpu",
)  # fmt: skip
# Drivers that run programs of a CUDA major, as JAX's installation page has them:
# https://docs.jax.dev/en/latest/installation.html
OLDEST_DRIVER = {"12": 525, "13": 580}
VERSION = re.compile(r"Kernel Module(?: for \w+)?\s+(\d[\d.]*)")


def gpus() -> list[Path]:
    """Device files of NVIDIA GPUs, in their order."""
    return _numbered("dev", "nvidia")


def tpus() -> list[Path]:
    """Device files that TPU chips have: /dev/accelN, or a group of /dev/vfio with newer drivers.

    A group of vfio may also be another device that a virtual machine was given.
    """
    return _numbered("dev", "accel") or _numbered("dev/vfio", "")


def _numbered(folder: str, name: str) -> list[Path]:
    """Files that are `name` and a number, by the number."""
    paths = [p for p in (ROOT / folder).glob(f"{name}*") if p.name[len(name) :].isdecimal()]
    return sorted(paths, key=lambda path: int(path.name[len(name) :]))


def driver() -> str | None:
    """Version of the NVIDIA driver that is loaded, or None."""
    try:
        text = (ROOT / "proc/driver/nvidia/version").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    match = VERSION.search(text)
    return match[1] if match else None


def installed(names: Iterable[str]) -> dict[str, str]:
    """Version of each package that is there; what is missing is left out."""
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def software() -> dict[str, str]:
    """What is there of PACKAGES, and the NVIDIA driver."""
    there = driver()
    return {**installed(PACKAGES), **({"nvidia-driver": there} if there else {})}


def extra_for_gpus() -> str:
    """The extra of flaxcnn whose CUDA the driver runs: the newest where nothing is known of it."""
    there = driver()
    fits = [cuda for cuda, oldest in OLDEST_DRIVER.items() if there and _major(there) >= oldest]
    return f"cuda{fits[-1] if fits else max(OLDEST_DRIVER)}"


def old_driver(versions: dict[str, str]) -> str:
    """A sentence where the driver is too old for the CUDA plugin of `software()`; or nothing."""
    there = versions.get("nvidia-driver")
    for cuda, oldest in OLDEST_DRIVER.items():
        if there and f"jax-cuda{cuda}-plugin" in versions and _major(there) < oldest:
            return f"NVIDIA driver {there}, but CUDA {cuda} needs {oldest} or newer"
    return ""


def _major(version: str) -> int:
    return int(version.partition(".")[0])


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
