"""Workers seen from outside: started, asked, and ended; their environment and their failures."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from flaxcnn.data import cache

ROOT = Path(__file__).resolve().parents[2]
BUILD_LIMIT = 1800  # seconds for calibration; compilers can be slow, but not for ever
BLOCK_LIMIT = 600


class PeerFailed(Exception):
    """A worker died, hung, or said that it could not do what it was asked."""


def environment(peer: str, threads: int, cache_dir: Path | None, cpu_only: bool) -> dict[str, str]:
    """Variables of a worker: threads for all alike, and every persistent cache in `cache_dir`.

    Without one nothing is kept between compilations, so each is measured in full.
    """
    number = str(threads)
    # The prepared data stay where they are, even where they lie beside the cache.
    found = {**os.environ, "FLAXCNN_DATA_DIR": str(cache.root()), "PYTHONUNBUFFERED": "1"}
    found |= {
        "OMP_NUM_THREADS": number, "MKL_NUM_THREADS": number,
        "TF_NUM_INTRAOP_THREADS": number, "TF_NUM_INTEROP_THREADS": number,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # Several workers share one GPU.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }  # fmt: skip
    if peer.startswith("keras-"):
        found["KERAS_BACKEND"] = peer.removeprefix("keras-")
    if cpu_only:
        found |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    if cache_dir is None:
        return found | {
            "JAX_ENABLE_COMPILATION_CACHE": "false", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"
        }  # fmt: skip
    found["FLAXCNN_CACHE_DIR"] = str(cache_dir / "flaxcnn")
    found["TORCHINDUCTOR_CACHE_DIR"] = str(cache_dir / "torch")
    if peer in ("flax", "keras-jax"):  # flaxcnn sets its own
        found["JAX_COMPILATION_CACHE_DIR"] = str(cache_dir / "jax")
        found["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        found["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    return found


class Worker:
    """A running worker. As a context manager it is ended in any case."""

    def __init__(
        self, peer: str, threads: int, cache_dir: Path | None, cpu_only: bool,
        checkout: Path = ROOT,
    ):  # fmt: skip
        self.peer = peer
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers.worker", peer, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True,
            cwd=checkout,
            env=environment(peer, threads, cache_dir, cpu_only)
            | {"PYTHONPATH": str(checkout.resolve())},
        )  # fmt: skip

    def ask(self, do: str, limit: float = BLOCK_LIMIT, **arguments: Any) -> dict[str, Any]:
        """The answer to one command.

        Raises:
            PeerFailed: with the worker's own reason, its last words, or the time it was given.
        """
        process = self._process
        assert process.stdin is not None  # both are pipes
        assert process.stdout is not None
        alarm = threading.Timer(limit, process.kill)
        alarm.start()
        try:
            process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            late = not alarm.is_alive()
            alarm.cancel()
        if late:
            raise PeerFailed(f"no answer to {do!r} in {limit:g} s")
        if not line:
            raise PeerFailed(self._last_words())
        answer = json.loads(line)
        if "failed" in answer:
            raise PeerFailed(answer["failed"])
        return answer

    def close(self) -> None:
        """End it, politely first."""
        process = self._process
        try:
            process.communicate(json.dumps({"do": "quit"}) + "\n", timeout=5)
        except (OSError, ValueError, subprocess.TimeoutExpired):
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout, self._said):
            with contextlib.suppress(OSError):  # a dead worker never read what is left in stdin
                if pipe is not None:
                    pipe.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _last_words(self) -> str:
        code = self._process.wait()
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return f"its process ended with {code}: {lines[-1][:200] if lines else 'it said nothing'}"
