"""The software and machine that a record was made with (env.json)."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import flaxcnn
from flaxcnn.hardware import installed, software

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "tensorflow-datasets")

# What must be equal for a resumed run to end in the bits of an unbroken one.
DECIDES_BITS = (
    "versions",
    "backend",
    "device",
    "devices",
    "processes",
    "cpus",
    "XLA_FLAGS",
    "PJRT_NPROC",
    "accelerator",  # older records and machines without one have no such field
)
DECIDES_NOTHING = ("numerics",)  # recorded, but no cause of other bits
NOT_RUN = "not run"  # the numerics suite, on this software and device


def versions() -> dict[str, str]:
    """Versions of Python, flaxcnn and the installed packages that decide what is computed.

    tensorflow-datasets may be missing: embedded and own data do not need it.
    """
    return {
        "python": platform.python_version(),
        "flaxcnn": flaxcnn.__version__,
        **installed(PACKAGES),
    }


def source_revision() -> str | None:
    """Commit of the package's checkout, with `+` if it has changes; None for a wheel."""
    here = Path(flaxcnn.__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None
    try:
        git = [
            subprocess.run(
                ["git", "-C", str(here), *args], capture_output=True, text=True, check=True
            )
            for args in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", "flaxcnn"))
        ]
    except (OSError, subprocess.CalledProcessError):
        return None
    return git[0].stdout.strip() + ("+" if git[1].stdout.strip() else "")


def environment() -> dict[str, Any]:
    """env.json: the software and hardware that decide the bits."""
    import jax

    from flaxcnn.backend import cores, processor
    from flaxcnn.numerics import kept

    devices, accelerator = jax.devices(), software()
    return {
        "versions": versions(),
        "source_revision": source_revision(),
        "platform": platform.platform(),
        "processor": processor(),
        "cpus": cores(),
        "backend": jax.default_backend(),
        "device": devices[0].device_kind,
        "devices": len(devices),
        "processes": jax.process_count(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "PJRT_NPROC": os.environ.get("PJRT_NPROC", ""),
        "matmul_precision": str(getattr(jax.config, "jax_default_matmul_precision", None)),
        **({"accelerator": accelerator} if accelerator else {}),
        "numerics": kept() or NOT_RUN,
    }


def other_software(before: dict[str, Any]) -> str:
    """A warning if env.json, of the start, differs from the present in what decides bits."""
    now = environment()
    changed = [key for key in DECIDES_BITS if before.get(key) != now.get(key)]
    return f"resumed with another {', '.join(changed)}: the bits may differ" if changed else ""
