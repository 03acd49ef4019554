"""Accelerators are found by the files that the system has of them."""

import pytest

from flaxcnn import hardware
from flaxcnn.records import environment as record

NVIDIA = """NVRM version: NVIDIA UNIX {} {}  Release Build  (dvs-builder@U22)
GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2)
"""
OPEN = NVIDIA.format("Open Kernel Module for x86_64", "580.65.06")
CLOSED = NVIDIA.format("x86_64 Kernel Module", "535.104.05")


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """(names below /dev, text of the driver) -> a machine that has them."""
    monkeypatch.setattr(hardware, "ROOT", tmp_path)

    def has(*devices, driver=None):
        for name in devices:
            path = tmp_path / "dev" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        if driver is not None:
            (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
            (tmp_path / "proc/driver/nvidia/version").write_text(driver)

    return has


@pytest.fixture
def plugins(monkeypatch):
    """Package -> version of those that are installed."""
    there = {}

    def version(name):
        if name not in there:
            raise hardware.metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(hardware.metadata, "version", version)
    return there


def test_a_machine_without_any(machine, plugins):
    assert hardware.gpus() == hardware.tpus() == []
    assert hardware.driver() is None
    assert hardware.software() == {}
    assert hardware.extra_for_gpus() == "cuda13"


def test_gpus_in_the_order_of_their_numbers(machine):
    machine("nvidia10", "nvidia2", "nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-modeset")
    assert [path.name for path in hardware.gpus()] == ["nvidia0", "nvidia2", "nvidia10"]
    assert hardware.tpus() == []


@pytest.mark.parametrize(
    ("devices", "found"),
    [(["accel0", "accel1"], ["accel0", "accel1"]), (["vfio/vfio", "vfio/0"], ["0"]),
     (["vfio/vfio"], []), (["accel0", "vfio/0"], ["accel0"])],
)  # fmt: skip
def test_tpus_have_files_of_either_driver(machine, devices, found):
    machine(*devices)
    assert [path.name for path in hardware.tpus()] == found


@pytest.mark.parametrize(
    ("text", "version", "extra"),
    [(OPEN, "580.65.06", "cuda13"), (CLOSED, "535.104.05", "cuda12"), ("nonsense", None, "cuda13"),
     (NVIDIA.format("x86_64 Kernel Module", "470.1"), "470.1", "cuda13")],
)  # fmt: skip
def test_the_driver_decides_which_cuda(machine, text, version, extra):
    machine(driver=text)
    assert hardware.driver() == version
    assert hardware.extra_for_gpus() == extra


@pytest.mark.parametrize(
    ("cuda", "driver", "said"),
    [("13", CLOSED, "NVIDIA driver 535.104.05, but CUDA 13 needs 580 or newer"),
     ("12", CLOSED, ""), ("13", OPEN, ""), ("13", None, "")],
)  # fmt: skip
def test_a_driver_that_is_too_old(machine, plugins, cuda, driver, said):
    machine(driver=driver)
    plugins[f"jax-cuda{cuda}-plugin"] = "0.10.1"
    assert hardware.old_driver(hardware.software()) == said


def test_what_is_there_is_recorded(machine, plugins):
    plugins |= {"jax": "0.10.1", "jax-cuda13-plugin": "0.10.1", "nvidia-cudnn-cu13": "9.28.1.4",
                "nvidia-nccl-cu13": "2.32.3"}  # fmt: skip
    machine(driver=OPEN)
    found = record.environment()
    assert found["accelerator"] == {
        "jax-cuda13-plugin": "0.10.1", "nvidia-cudnn-cu13": "9.28.1.4",
        "nvidia-nccl-cu13": "2.32.3", "nvidia-driver": "580.65.06",
    }  # fmt: skip
    assert set(found["versions"]) == {"python", "flaxcnn", "jax"}  # others missing: no error
    plugins["nvidia-cudnn-cu13"] = "9.29"
    assert record.other_software(found) == (
        "resumed after a change of nvidia-cudnn-cu13 (9.28.1.4, now 9.29): the bits may differ"
    )


def test_records_from_before_and_machines_without_one_agree(machine, plugins):
    found = record.environment()
    assert "accelerator" not in found
    assert record.other_software(found) == ""
    older = {key: value for key, value in found.items() if key != "numerics"}
    assert record.other_software(older) == ""
    assert record.other_software({**found, "numerics": {"failed": ["sort"]}}) == ""
    plugins["libtpu"] = "0.0.41"
    assert "a change of accelerator" in record.other_software(older)


def test_a_free_port_can_be_bound():
    assert 1024 <= hardware.free_port() < 65536
