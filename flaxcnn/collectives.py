"""Whether exchanges between devices compute right: sums over them, and sums dealt out to them.

Between the devices of this process, over the links that they have, and between two processes on
CPU, where XLA exchanges over gloo: its reduce-scatter returned wrong numbers (jax issue 40830).
A sharded optimizer over several CPU processes (`parallel=jit`, `shard_optimizer`) may use it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from flaxcnn import backend
from flaxcnn.hardware import free_port
from flaxcnn.numerics import UPSTREAM, Finding, compared, guarded, judged

AXIS = "device"
# Float32 numbers that each device ends with: 4 MiB, a size at which gloo's reduce-scatter erred
# in 148 of 150 calls, where it never did at 256 KiB (jax issue 40830).
EXCHANGED = 1024 * 1024
CALLS = 3  # of each exchange, between processes
PROCESSES = 2
SECONDS = 60  # that two processes may take, most of which is their start
ACROSS = "reduce-scatter, 2 processes"
Array = Any
Function = Callable[[jax.Array], jax.Array]


def checks() -> list[Finding]:
    """Exchanges of this process, and of two processes where that is cheap."""
    return [*guarded(_within), across()]


def exchanges(devices: int) -> dict[str, Function]:
    """What each device does with its row of [devices, N]."""
    return {
        "all-reduce": lambda x: jax.lax.psum(x, AXIS),
        "reduce-scatter": lambda x: jax.lax.psum_scatter(
            x.reshape(devices, -1), AXIS, scatter_dimension=0, tiled=True
        ),
    }


def _over(mesh: Mesh, function: Function) -> Callable[..., jax.Array]:
    spec = PartitionSpec(AXIS)
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec))


def _rows(devices: int) -> Array:
    """Integers in float32, whose sums are exact: row d is what device d holds."""
    draws = np.random.default_rng(6)
    return draws.integers(-100, 100, (devices, devices * EXCHANGED)).astype(np.float32)


def _within() -> Iterator[Finding]:
    """Between the devices of this process."""
    devices = jax.local_devices()
    if len(devices) == 1:
        for name in exchanges(1):
            yield _not_run(name, "there is one device")
        return
    mesh, rows = Mesh(np.array(devices), (AXIS,)), _rows(len(devices))
    total = rows.sum(0)
    wanted = {"all-reduce": np.tile(total, len(devices)), "reduce-scatter": total}
    for name, function in exchanges(len(devices)).items():
        got = jax.device_get(_over(mesh, function)(rows))
        yield compared(name, got.ravel(), wanted[name])


def _not_run(name: str, reason: str) -> Finding:
    return Finding(name, "not run", upstream=UPSTREAM.get(name, ""), reason=reason)


def across() -> Finding:
    """Reduce-scatter between two processes of one device each."""
    if jax.default_backend() != "cpu":
        return _not_run(ACROSS, "it is for gloo, which joins processes on CPU")
    if backend.cores() < PROCESSES:
        return _not_run(ACROSS, f"it takes {PROCESSES} cores")
    where = f"127.0.0.1:{free_port()}"
    settings = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    deadline = time.monotonic() + SECONDS
    with contextlib.ExitStack() as ended:
        children = [
            ended.enter_context(subprocess.Popen(
                [sys.executable, "-m", "flaxcnn.collectives", where, str(process)],
                env=settings, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            ))
            for process in range(PROCESSES)
        ]  # fmt: skip
        try:
            answers = [each.communicate(timeout=max(deadline - time.monotonic(), 0))[0]
                    for each in children]  # fmt: skip
        except subprocess.TimeoutExpired:
            return _not_run(ACROSS, f"{PROCESSES} processes did not end within {SECONDS} s")
        finally:
            for each in children:
                each.kill()
    if any(each.returncode < 0 for each in children):  # a crash in an exchange is a finding
        return judged(ACROSS, float("inf"))
    if any(each.returncode for each in children):
        return _not_run(ACROSS, f"{PROCESSES} processes could not be joined on this machine")
    # Gloo speaks on stdout too, before the one line that counts.
    return judged(ACROSS, max(float(json.loads(text.splitlines()[-1])) for text in answers))


def main(where: str, process: int) -> None:
    """One of the processes: its last line is the largest error in what it ended with."""
    jax.distributed.initialize(where, PROCESSES, process, initialization_timeout=SECONDS)
    # XLA_FLAGS may ask for more devices: the first one of each process
    firsts = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh(np.array([firsts[one] for one in range(PROCESSES)]), (AXIS,))
    rows = _rows(PROCESSES)
    place = jax.sharding.NamedSharding(mesh, PartitionSpec(AXIS))
    mine = jax.make_array_from_process_local_data(place, rows[process : process + 1])
    program = _over(mesh, exchanges(PROCESSES)["reduce-scatter"])
    wanted = rows.sum(0).reshape(PROCESSES, -1)[process]
    worst = 0.0
    for _ in range(CALLS):
        got = np.asarray(program(mine).addressable_data(0)).ravel()
        worst = max(worst, float(np.max(np.abs(got - wanted))))
    print(json.dumps(worst), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
