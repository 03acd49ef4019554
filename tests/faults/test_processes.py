"""Real processes: closed pipes, disks that go, stopped readers, a launcher that is killed."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from faulty import MOUNTS, SAFETY_NET, Train
from PIL import Image

from flaxcnn.data.folders import folder
from flaxcnn.data.stream import RowReader
from flaxcnn.engine.saved import open_run
from flaxcnn.errors import ConfigError, DataError, ReaderError
from flaxcnn.records.environment import (
    JAX_SETTINGS,
    check_jax_settings,
    environment,
    other_software,
    unusual,
)
from flaxcnn.records.files import read_json

BELOW_ORBAX = 280  # seconds; its threads wait for 300 on a disk that failed, and nobody else may
GONE = ("rm -rf {run}", "mv {run} {run}.away")


def mounted(where, options):
    where.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)], check=False)
    if done.returncode:
        pytest.skip("no file system can be mounted here")


@contextlib.contextmanager
def disk(where, options="size=64m"):
    """A small disk of its own."""
    mounted(where, options)
    try:
        yield where
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(where)], check=False)
        subprocess.run(["umount", "-l", str(where)], check=False)


def status(run):
    return read_json(run / "status.json")["status"]


@pytest.mark.soak
def test_nobody_reads_what_is_printed(home):
    """`flaxcnn train | head -1`: the training goes on."""
    reading, writing = os.pipe()
    train = Train(home / "run", epochs=4, stdout=writing)
    os.close(writing)
    os.read(reading, 1)
    os.close(reading)
    code, err = train.ended()
    assert code == 0, err
    assert status(home / "run") == "complete"
    assert open_run(home / "run").summary["epochs_run"] == 4


@pytest.mark.soak
@pytest.mark.parametrize("what", GONE)
def test_a_run_directory_that_goes(home, what):
    train = Train(home / "run").until(3)
    subprocess.run(what.format(run=home / "run"), shell=True, check=True)
    code, err = train.ended()
    assert code == 6, err
    assert "is gone" in err
    assert not (home / "run" / "summary.json").exists()


def called(*command):
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


class FailingDisk:
    """An ext4 file system in a file, which Linux makes read-only on an error of the disk."""

    def __init__(self, image, where):
        self.image, self.where = image, where
        where.mkdir()
        try:
            called("truncate", "-s", "64M", image)
            called("mkfs.ext4", "-q", image)
            self.mount()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no ext4 file system can be mounted here: {error}")

    def mount(self):
        called("mount", "-o", "loop,errors=remount-ro", self.image, self.where)

    def fail(self):
        named = ["findmnt", "-n", "-o", "SOURCE", str(self.where)]
        device = subprocess.run(named, check=True, capture_output=True, text=True).stdout.strip()
        Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error").write_text("1")

    def mend(self):
        called("umount", self.where)
        subprocess.run(["e2fsck", "-y", str(self.image)], check=False, capture_output=True)
        self.mount()


@contextlib.contextmanager
def failing_disk(home):
    disk = FailingDisk(home / "disk.img", home / "disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk.where)], check=False)


def resumes(run):
    code, err = Train(run, "--resume").ended()
    assert code == 0, err
    assert open_run(run).summary["epochs_run"] == 60


@MOUNTS
@pytest.mark.soak
def test_a_disk_that_turns_read_only(home):
    """It ends soon, though Orbax's threads wait for minutes; once it can be written, it goes on."""
    with failing_disk(home) as disk:
        with Train(disk.where / "run").until(3) as train:
            disk.fail()
            train.patience = BELOW_ORBAX
            code, err = train.ended()
        assert code == 6, err
        assert "Read-only file system" in err
        disk.mend()
        resumes(disk.where / "run")


@MOUNTS
@pytest.mark.soak
def test_checkpoints_that_turn_read_only(home):
    with disk(home / "disk") as where:
        checkpoints = where / "run" / "checkpoints"
        with Train(where / "run").until(3) as train:
            called("mount", "--bind", checkpoints, checkpoints)
            called("mount", "-o", "remount,bind,ro", checkpoints)
            train.patience = BELOW_ORBAX
            code, err = train.ended()
        assert code == 6, err
        assert "Read-only file system" in err
        called("umount", checkpoints)
        resumes(where / "run")


@MOUNTS
@pytest.mark.soak
def test_a_disk_without_inodes(home):
    with disk(home / "disk", "size=50m,nr_inodes=12") as where:
        train = Train(where / "run", epochs=4)
        train.patience = BELOW_ORBAX
        code, err = train.ended()
        assert code == 6, err
        assert "No space left" in err
        assert "unexpected" not in err
        subprocess.run(["mount", "-o", "remount,nr_inodes=5000", str(where)], check=True)
        code, err = Train(where / "run", "--resume-if-any", epochs=4).ended()
        assert code == 0, err


@pytest.mark.soak
def test_a_launcher_that_is_killed_takes_its_processes_along(home):
    run = home / "run"
    launcher = subprocess.Popen(
        [sys.executable, "-m", "flaxcnn", "launch", "--processes", "2", "--", "train",
         "-s", "epochs=100000", "-s", "patience=none", "-s", "batch_size=500",
         "--run-dir", str(run)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    waiting = Train.__new__(Train)
    waiting.run, waiting.child = run, launcher
    waiting.until(2)
    launcher.kill()
    launcher.wait()
    until = time.monotonic() + SAFETY_NET
    while status(run) == "running" and time.monotonic() < until:
        time.sleep(0.1)
    assert status(run) == "interrupted"


# -- readers ---------------------------------------------------------------------------------------


@pytest.fixture
def pictures(home):
    """A folder of 24 images of two classes, decoded on demand."""
    for number in range(24):
        path = home / "pictures" / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), number, np.uint8)).save(path)
    return folder(home / "pictures", most=0)


def test_how_long_a_reader_may_take(home, monkeypatch, pictures):
    for text in ("abc", "0", "-1", "inf", "nan"):
        monkeypatch.setenv("FLAXCNN_READ_SECONDS", text)
        with pytest.raises(ConfigError, match=r"FLAXCNN_READ_SECONDS must be a number of seconds"):
            RowReader([pictures.train.image], 1)


@pytest.mark.soak
def test_a_reader_that_was_stopped(home, monkeypatch, pictures):
    """SIGSTOP, or a disk that does not answer: it is not waited for without end."""
    monkeypatch.setenv("FLAXCNN_READ_SECONDS", "1000")
    reader = RowReader([pictures.train.image], 1)
    rows = np.arange(4, dtype=np.int32)
    reader.submit(rows)
    assert reader.read().shape == (4, 4, 4, 3)  # it is there, whatever that took
    (worker,) = reader._folder.glob("worker-*")
    os.kill(int(worker.name.removeprefix("worker-")), signal.SIGSTOP)
    reader.patience = 2.0
    for _ in range(20):
        reader.submit(rows)
    with pytest.raises(ReaderError, match="no image was decoded for"):
        [reader.read() for _ in range(20)]
    reader.close()


def test_an_image_that_became_a_pipe(home, pictures):
    images = pictures.train.image
    file = home / "pictures" / images.files[images.index[0]]
    file.unlink()
    os.mkfifo(file)
    reader = RowReader([images], 0)
    reader.submit(np.arange(len(images), dtype=np.int32))
    with pytest.raises(DataError, match="not a regular file"):
        reader.read()


# -- what decides the bits -------------------------------------------------------------------------


def test_settings_of_jax_that_change_bits_are_recorded_and_refused_on_resume():
    import jax

    before = environment()
    assert before["jax"] == JAX_SETTINGS
    assert unusual() is None
    assert other_software(before) == ""
    check_jax_settings("run", before)
    for name, value in (("jax_threefry_partitionable", False), ("jax_default_prng_impl", "rbg"),
                        ("jax_default_matmul_precision", "float32")):  # fmt: skip
        own = getattr(jax.config, name)
        jax.config.update(name, value)
        try:
            assert f"{name}={value}" in unusual()
            with pytest.raises(ConfigError, match=f"{name} was {own}, now {value}"):
                check_jax_settings("run", before)
            check_jax_settings("run", {"versions": {}})  # older records do not say
        finally:
            jax.config.update(name, own)
    moved = before | {"source_revision": "0" * 40}
    assert "another revision of flaxcnn (000000000000, now " in other_software(moved) or (
        before["source_revision"] is None
    )
