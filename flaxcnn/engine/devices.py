"""Which devices a run may use, in which order, and where arrays lie on them."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import (
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

AXIS = "batch"  # of the mesh
Tree = Any

_devices: contextvars.ContextVar[Sequence[jax.Device] | None] = contextvars.ContextVar(
    "devices", default=None
)


@contextlib.contextmanager
def devices_used(devices: Sequence[jax.Device]) -> Iterator[None]:
    """Programs made meanwhile are for these devices instead of the ones jax has.

    For devices that are not there but can be compiled for, as those of
    `jax.experimental.topologies`.
    """
    token = _devices.set(tuple(devices))
    try:
        yield
    finally:
        _devices.reset(token)


def all_devices() -> list[jax.Device]:
    """Those of all processes that a run may use, a process's own next to each other.

    Each process reads its own part of a batch, so its devices must hold columns that lie side by
    side. `jax.make_mesh` would order a slice's chips in a ring, in which they do not.
    """
    devices = _devices.get() or jax.devices()
    return sorted(devices, key=lambda device: (device.process_index, device.id))


def platform() -> str:
    """Of the devices: cpu, gpu or tpu."""
    name = all_devices()[0].platform
    return {"cuda": "gpu", "rocm": "gpu"}.get(name, name)


def mesh(devices: int) -> Mesh:
    """The first `devices` devices of all processes as one axis."""
    return Mesh(np.array(all_devices()[:devices]), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(devices: int) -> Sharding:
    """Placement of arrays that every device holds whole."""
    if devices == 1:
        chosen = _devices.get() or jax.local_devices()
        return SingleDeviceSharding(chosen[0])
    return NamedSharding(mesh(devices), PartitionSpec())


def output_sharding(place: Sharding) -> Sharding | None:
    """Where results lie: where each device has its own, unless other processes must read them.

    No exchange where none is needed: many short programs under way at once that exchange would wait
    for one another in XLA's CPU runtime.
    """
    return None if place.is_fully_addressable else place


def device_put_global(tree: Tree, place: Sharding) -> Tree:
    """The arrays of `tree` on `place`, also where some of its devices are another process's."""
    if place.is_fully_addressable:
        return jax.device_put(tree, place)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(place, np.asarray(x), x.shape), tree
    )


def process_share(devices: int) -> tuple[int, int]:
    """(index, count) of this process among those whose devices share a batch."""
    processes = sorted({device.process_index for device in mesh(devices).devices.flat})
    return processes.index(jax.process_index()), len(processes)


def pixel_memory() -> int | None:
    """Bytes of pixels that a device takes, half its memory; None where it is the host's."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats["bytes_limit"] // 2 if "bytes_limit" in stats else None
