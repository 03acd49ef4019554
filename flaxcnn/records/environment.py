"""The software and machine that a record was made with (env.json)."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import flaxcnn
from flaxcnn.errors import ConfigError
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
# Settings of jax that change random numbers or arithmetic, with the values that it has by itself
JAX_SETTINGS = {
    "jax_threefry_partitionable": True,
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_default_matmul_precision": None,
}
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
        "jax": jax_settings(),
        "matmul_precision": str(getattr(jax.config, "jax_default_matmul_precision", None)),
        **({"accelerator": accelerator} if accelerator else {}),
        "numerics": kept() or NOT_RUN,
    }


def jax_settings() -> dict[str, Any]:
    """The settings of jax that change random numbers or arithmetic, with their present values."""
    import jax

    return {name: getattr(jax.config, name, None) for name in JAX_SETTINGS}


def check_jax_settings(where: str, before: dict[str, Any]) -> None:
    """Check that jax computes and draws as it did for an earlier part of the same work.

    Another machine may be all there is to go on with; another setting is a choice.

    Args:
        where: what is gone on with, for the message.
        before: env.json of then; older ones do not say.

    Raises:
        ConfigError: a setting that decides the bits is another one.
    """
    then = before.get("jax")
    if not isinstance(then, dict):
        return
    now = jax_settings()
    if differ := [name for name in now if name in then and then[name] != now[name]]:
        text = ", ".join(f"{name} was {then[name]}, now {now[name]}" for name in differ)
        raise ConfigError(
            f"{where} was computed with other settings of jax, which change the bits ({text}); set "
            "them as they were, or start anew"
        )


def unusual() -> str | None:
    """A sentence where jax is told to compute or draw otherwise than it does by itself."""
    now = jax_settings()
    odd = [f"{name}={now[name]}" for name, own in JAX_SETTINGS.items() if now[name] != own]
    if not odd:
        return None
    return f"{', '.join(odd)}: the bits are not those of jax's own settings"


def other_software(before: dict[str, Any]) -> str:
    """A warning if env.json, of the start, differs from the present in what decides bits."""
    now, then = environment(), {**before}
    changed = []
    for key in DECIDES_BITS:
        if isinstance(old := then.get(key), dict) and isinstance(new := now.get(key), dict):
            changed += [
                f"{name} ({old.get(name)}, now {new.get(name)})"
                for name in sorted({*old, *new})
                if old.get(name) != new.get(name)
            ]
        elif old != now.get(key):
            changed.append(f"{key} ({old}, now {now.get(key)})")
    if changed:
        return f"resumed after a change of {', '.join(changed)}: the bits may differ"
    old, new = (str(each.get("source_revision") or "") for each in (then, now))
    if old and new and old != new:
        return (
            f"resumed with another revision of flaxcnn ({old[:12]}, now {new[:12]}): "
            "the bits may differ"
        )
    return ""
