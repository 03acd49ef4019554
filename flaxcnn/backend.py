"""Is this jax to be trusted? A cheap probe before anything is computed, remembered per version."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from pathlib import Path

import jax
import jax.numpy as jnp
import platformdirs

from flaxcnn.errors import FlaxcnnError

MENDING_FLAG = "--xla_cpu_experimental_ynn_fusion_type="
# The race of jaxlib 0.10.2 and 0.11.0-0.11.2 shows within a few calls; a sound jaxlib never errs.
PROBES = 30
PROBE_SHAPE = (2, 1024, 1024)


def cache_root() -> Path:
    """FLAXCNN_CACHE_DIR, or the user's cache folder."""
    chosen = os.environ.get("FLAXCNN_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("flaxcnn")


def sums_are_right() -> bool:
    """Whether a broadcast that feeds a full sum gives the same, right answer every time."""

    @jax.jit
    def probe(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.broadcast_to(x, PROBE_SHAPE))

    expected = float(PROBE_SHAPE[0] * PROBE_SHAPE[1] * PROBE_SHAPE[2])
    ones = jnp.ones((PROBE_SHAPE[1], 1), jnp.float32)
    return all(float(probe(ones)) == expected for _ in range(PROBES))


@functools.cache
def require_sound() -> None:
    """Refuse a CPU backend that sums wrongly. The verdict is kept per jaxlib, flags and processor.

    Raises:
        FlaxcnnError: naming the versions that are sound and the flag that mends the others.
    """
    if jax.default_backend() != "cpu":
        return
    machine = (jax.lib.__version__, os.environ.get("XLA_FLAGS", ""), platform.processor(),
               platform.machine(), str(os.cpu_count()))  # fmt: skip
    name = hashlib.sha256("\n".join(machine).encode()).hexdigest()[:16]
    verdict = cache_root() / "probe" / name
    if verdict.is_file():
        return
    if not sums_are_right():
        raise FlaxcnnError(
            f"jaxlib {jax.lib.__version__} returns wrong sums on this CPU; "
            "install jax 0.10.1 or 0.12 (`pip install 'jax[cpu]==0.10.1'`), "
            f"or set XLA_FLAGS={MENDING_FLAG} (empty value)"
        )
    try:
        verdict.parent.mkdir(parents=True, exist_ok=True)
        verdict.write_text("sound\n")
    except OSError:
        return  # nowhere to remember it: the next start probes again
