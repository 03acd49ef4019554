"""Several processes as one run: how they find each other, agree on what they run, and end.

The engine is `jax.distributed`: every process runs the same program on its own devices, and XLA's
collectives join them. A process that is lost ends the others within HEARTBEAT_SECONDS or so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

import flaxcnn
from flaxcnn.errors import ConfigError, FlaxcnnError, OutOfMemoryError, PeerLostError

START_SECONDS = 120  # to wait for all processes; FLAXCNN_START_SECONDS
HEARTBEAT_SECONDS = 10  # without a sign of life, after which a process counts as lost
SHUTDOWN_SECONDS = 60  # that processes may end apart
MARGIN_SECONDS = 5  # before jax gives up waiting, which it does with a trace of its stack
DIGEST_BYTES = 32
# What gloo, NCCL and the coordination service say of a process that is gone.
LOST = re.compile(r"Gloo|NCCL|Barrier failed|heartbeat|coordination service|Socket closed")


def connect(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Join the other processes; nothing may have been computed yet.

    Args:
        coordinator: HOST:PORT of process 0, or None: jax finds the cluster (TPU, GKE, Slurm, MPI).
        processes: how many there are.
        process: which one this is, 0 to processes - 1.

    Raises:
        ConfigError: the three do not go together, or there is no cluster to be found.
        FlaxcnnError: the port is taken.
    """
    _check(coordinator, processes, process)
    seconds = start_seconds()
    if coordinator is not None and process == 0:
        _check_port(coordinator)
    joined = threading.Event()
    where = coordinator or "the cluster"
    late = (
        f"{where}: not all {processes or ''} processes came within {seconds} s; "
        "start the others, or check --processes and --coordinator"
    )
    _after(seconds, joined, late)
    try:
        jax.distributed.initialize(
            coordinator, processes, process,
            cluster_detection_method=None if coordinator is None else "deactivate",
            initialization_timeout=seconds + MARGIN_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        if coordinator is None:
            raise ConfigError(
                "--distributed: joined no cluster (TPU, GKE, Slurm, MPI); allowed there, or with "
                f"--coordinator HOST:PORT, --processes N and --process I ({error})"
            ) from None
        raise FlaxcnnError(f"{where}: process {process} cannot join ({error})") from None
    finally:
        joined.set()


def start_seconds() -> int:
    """FLAXCNN_START_SECONDS, or its default; ConfigError where that is no number of seconds."""
    given = os.environ.get("FLAXCNN_START_SECONDS") or str(START_SECONDS)
    if not given.isdecimal() or not 0 < int(given[:10]) < 2**31:
        raise ConfigError(
            f"FLAXCNN_START_SECONDS must be a whole number of seconds (got {given!r})"
        )
    return int(given)


def _check(coordinator: str | None, processes: int | None, process: int | None) -> None:
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return
    if coordinator is None or processes is None or process is None:
        raise ConfigError(f"{', '.join(missing)} is missing; give all of {', '.join(given)}")
    if not re.fullmatch(r"[\w.\-\[\]:]+:\d{1,5}", coordinator):
        raise ConfigError(f"--coordinator must be HOST:PORT (got {coordinator!r})")
    if processes < 1:
        raise ConfigError(f"--processes must be at least 1 (got {processes})")
    if not 0 <= process < processes:
        raise ConfigError(f"--process must be from 0 to {processes - 1} (got {process})")


def _check_port(coordinator: str) -> None:
    port = int(coordinator.rpartition(":")[2])
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            raise FlaxcnnError(
                f"--coordinator: port {port} cannot be used ({error}); choose another one"
            ) from None


def _after(seconds: float, done: threading.Event, text: str) -> None:
    """End this process with `text` unless `done` is set in time: jax would abort, with a trace."""

    def watch() -> None:
        if not done.wait(seconds):
            print(f"error: {text}", file=sys.stderr, flush=True)
            os._exit(PeerLostError.exit_code)

    threading.Thread(target=watch, daemon=True).start()


# -- while it runs -------------------------------------------------------------------------------


def several() -> bool:
    """Whether this process is one of several."""
    return jax.process_count() > 1


def primary() -> bool:
    """Whether this is the process that writes records and speaks."""
    return jax.process_index() == 0


def described() -> str:
    """What to say of the processes; nothing of a single one."""
    if not several():
        return ""
    return f", {jax.process_count()} processes with {jax.device_count()} devices"


def agree(facts: Mapping[str, str]) -> None:
    """Every process holds the same facts, and runs the same code.

    Args:
        facts: name -> text, the same names everywhere.

    Raises:
        ConfigError: on all processes, naming those that differ from process 0, and in what.
    """
    if not several():
        return
    facts = {**facts, "code": code_digest()}
    own = b"".join(hashlib.sha256(text.encode()).digest() for text in facts.values())
    every = np.asarray(multihost_utils.process_allgather(np.frombuffer(own, np.uint8)))
    every = every.reshape(jax.process_count(), len(facts), DIGEST_BYTES)
    differs = (every != every[:1]).any(-1)  # [process, fact]
    if differs.any():
        text = "; ".join(
            f"process {process} has other {', '.join(np.array(list(facts))[row])}"
            for process, row in enumerate(differs)
            if row.any()
        )
        raise ConfigError(f"{text} than process 0; all processes need the same")


def any_of(flag: bool) -> bool:
    """Whether the flag is set on any process; all must ask at the same point."""
    if not several():
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.uint8(flag))))


def slowest(seconds: float) -> float:
    """What the slowest process took, so that all plan with the same; all ask at the same point."""
    if not several():
        return seconds
    return float(np.max(multihost_utils.process_allgather(np.float32(seconds))))


def same_text(text: str) -> str:
    """Process 0's text, on all of them."""
    if not several():
        return text
    data = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    padded = np.zeros(length, np.uint8)
    padded[: min(length, len(data))] = data[:length]
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))).decode()


def code_digest() -> str:
    """SHA-256 of the package's own sources: processes must run the same."""
    digest = hashlib.sha256()
    root = Path(flaxcnn.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@contextlib.contextmanager
def lost_peers() -> Iterator[None]:
    """An exchange that failed because a process is gone becomes one sentence.

    Raises:
        PeerLostError: resumable.
    """
    try:
        yield
    except Exception as error:
        if not (several() and _says_lost(error)) or isinstance(error, OutOfMemoryError):
            raise
        raise PeerLostError(
            f"process {jax.process_index()} lost another process of "
            f"{jax.process_count()}, which ended or does not answer "
            f"({' '.join(str(error).split())[:200]}); the same command with --resume goes on from "
            "the last checkpoint"
        ) from error


def _says_lost(error: BaseException | None) -> bool:
    """Whether the error, or one that led to it, is that of an exchange: each layer has its own."""
    while error is not None:
        if isinstance(error, jax.errors.JaxRuntimeError) or LOST.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
