"""JAX set up for a process: CPU devices, compilation cache, and a check that sums are right."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import platformdirs

from flaxcnn.errors import FlaxcnnError, OutOfMemoryError
from flaxcnn.xla_messages import hushed

MENDING_FLAG = "--xla_cpu_experimental_ynn_fusion_type="
# The race of jaxlib 0.10.2 and 0.11.0-0.11.2 shows within a few calls; a sound jaxlib never errs.
# Reported upstream with the same program: jax issue 39103, tensorflow issue 126812.
PROBES = 30
PROBE_SHAPE = (2, 1024, 1024)
# In XLA_FLAGS: oneDNN for the convolutions, where jaxlib has it; together with the second flag,
# since YNNPACK is asked first (docs/howto/newest-jax.md).
ONEDNN_FLAG = "--xla_cpu_experimental_onednn_custom_call=true"
YNN_BUT_CONVOLUTIONS = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
FIRST_WITH_ONEDNN = (0, 12)  # the release of jaxlib whose convolutions can go there
# Batches of small images are not worth dividing further; more cores help inside an operation.
MOST_CPU_DEVICES = 8
CACHE_LIMIT = 2 * 1024**3  # bytes of compiled programs that are kept, the newest first
# In XLA's errors on accelerators, and on CPUs, where they are called internal.
NO_MEMORY = re.compile("RESOURCE_EXHAUSTED|out.of.memory|ALLOC_FAILED", re.IGNORECASE)


def cache_root() -> Path:
    """FLAXCNN_CACHE_DIR, or the user's cache folder."""
    chosen = os.environ.get("FLAXCNN_CACHE_DIR")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("flaxcnn")


def cores() -> int:
    """Processors this process may use: its affinity, and PJRT_NPROC or NPROC where set lower."""
    usable = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    wanted = os.environ.get("PJRT_NPROC") or os.environ.get("NPROC") or ""
    return min(len(usable(0)), int(wanted) if wanted.isdecimal() and int(wanted) else 2**30)


def processor() -> str:
    """The CPU's model as the system names it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


@functools.cache
def by_onednn() -> bool:
    """Whether XLA_FLAGS give the convolutions of a CPU to oneDNN; model/kernels.py follows."""
    release = tuple(int(part) for part in jax.lib.__version__.split(".")[:2])
    return release >= FIRST_WITH_ONEDNN and ONEDNN_FLAG in os.environ.get("XLA_FLAGS", "").split()


def prepare(cache: bool = True) -> None:
    """Set JAX up, once per process and before its first computation; the user's settings are kept.

    On CPU, one virtual device a core: several devices with a part of the batch each beat one
    device with several threads (benchmarks/NOTES.md). Compiled programs are kept in a private
    folder per jaxlib and processor, unless `cache` is False or they call oneDNN, which jaxlib
    cannot write down. If JAX is initialised already, it keeps its devices.

    Raises:
        FlaxcnnError: this jax computes wrong sums on CPU.
    """
    now: Any = jax.config  # its settings are attributes that no stub declares
    given = "device_count" in os.environ.get("XLA_FLAGS", "")
    if now.jax_num_cpu_devices == -1 and not given:
        # jax raises once it has initialised its devices: it keeps them then
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", min(cores(), MOST_CPU_DEVICES))
    if not cache or by_onednn():
        jax.config.update("jax_enable_compilation_cache", False)
    elif now.jax_enable_compilation_cache and now.jax_compilation_cache_dir is None:
        _keep_compiled(cache_root() / "compiled")
    with hushed():
        require_sound()


@contextlib.contextmanager
def enough_memory(
    less: str = "a smaller batch_size or network, accumulate=N or remat=true",
) -> Iterator[None]:
    """Turn a failure for lack of memory into one sentence, which ends in what needs `less`.

    What calls the device is inside such a block, so it is where XLA is hushed too.

    Raises:
        OutOfMemoryError: also a MemoryError.
    """
    try:
        with hushed():
            yield
    except OutOfMemoryError:
        raise
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        text = " ".join(str(error).split())
        match = NO_MEMORY.search(text)
        if not (isinstance(error, MemoryError) or match):
            raise
        cause = text[match.start() :] if match else text or type(error).__name__
        raise OutOfMemoryError(f"out of memory ({cause[:200]}); try {less}") from error


def _keep_compiled(root: Path) -> None:
    """Point jax's persistent cache to a folder that only this user can write.

    Its entries are machine code, so a folder that others can write is not used, and one for each
    jaxlib and processor keeps code from a processor that cannot run it.
    """
    name = hashlib.sha256(f"{jax.lib.__version__}\n{processor()}".encode()).hexdigest()[:16]
    folder = root / name
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        stats = folder.stat()
        if stats.st_uid != os.getuid() or stats.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return
        _prune(folder)
    except OSError:
        return  # the home folder is read-only: compile every time
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # small nets compile fast
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _prune(folder: Path) -> None:
    """Remove the oldest entries beyond CACHE_LIMIT."""
    entries = [(path.stat(), path) for path in folder.iterdir() if path.is_file()]
    kept = 0
    for stats, path in sorted(entries, key=lambda entry: -entry[0].st_mtime):
        kept += stats.st_size
        if kept > CACHE_LIMIT:
            path.unlink(missing_ok=True)


def sums_are_right() -> bool:
    """Whether a broadcast that feeds a full sum gives the same, right answer every time."""

    @jax.jit
    def probe(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.broadcast_to(x, PROBE_SHAPE))

    expected = float(PROBE_SHAPE[0] * PROBE_SHAPE[1] * PROBE_SHAPE[2])
    ones = jnp.ones((PROBE_SHAPE[1], 1), jnp.float32)
    return all(float(probe(ones)) == expected for _ in range(PROBES))


def verdict_file(kind: str, *more: str) -> Path:
    """The file with a verdict on the arithmetic of this jaxlib, its flags and processor.

    Args:
        kind: the folder in the cache.
        more: what else it depends on.
    """
    machine = (jax.lib.__version__, os.environ.get("XLA_FLAGS", ""), platform.processor(),
               platform.machine(), str(os.cpu_count()), *more)  # fmt: skip
    name = hashlib.sha256("\n".join(machine).encode()).hexdigest()[:16]
    return cache_root() / kind / name


@functools.cache
def require_sound() -> None:
    """Refuse a CPU backend with wrong sums. The verdict is cached per jaxlib, flags and processor.

    Raises:
        FlaxcnnError: naming the versions that are sound and the flag that mends the others.
    """
    if jax.default_backend() != "cpu":
        return
    verdict = verdict_file("probe")
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
        return  # it cannot be cached, so the next start probes again
