"""Trained runs that several modules look at, and a command line in a process of its own."""

import gc
import shutil
import time

import jax
import numpy as np
import pytest
from small_runs import TINY, Child, compiled_in

from flaxcnn.data import datasets
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.loop import Progress, epochs
from flaxcnn.engine.make_job import make_job
from flaxcnn.engine.train import fit


@pytest.fixture(autouse=True)
def places(no_settings_from_outside, tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXCNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("FLAXCNN_RUNS_DIR", str(tmp_path / "runs"))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """Folder of compiled programs: compiling is nearly all the time of a run this small."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def compile_once(compiled):
    with compiled_in(compiled):
        yield


@pytest.fixture(scope="session")
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="session")
def trained(compiled, digits, tmp_path_factory):
    """TINY, trained once: look, do not touch; `copy_of` is for what changes the directory."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch, compiled_in(compiled):
        patch.setenv("FLAXCNN_CACHE_DIR", str(folder / "cache"))
        return fit(TINY, digits, folder / "run", name="tiny")


@pytest.fixture
def copy_of(tmp_path):
    def copy(run):
        return shutil.copytree(run, tmp_path / "copy")

    return copy


@pytest.fixture(scope="session")
def by_hand(compiled, digits):
    """Every epoch of TINY without `fit`: (metrics, progress, params as numpy)."""
    with compiled_in(compiled):
        job = make_job(TINY, digits)
        return [
            (report.metrics, report.progress, jax.device_get(report.state.params))
            for report in epochs(job, job.init(), Progress(), Interrupt())
        ]


@pytest.fixture(scope="session")
def rows_file(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "digits.npz"
    image, label = digits.train.image, digits.train.label
    np.savez(path, image=image[:350], label=label[:350], test_image=image[350:400],
             test_label=label[350:400])  # fmt: skip
    return path


@pytest.fixture
def child(tmp_path, compiled, rows_file):
    return Child(tmp_path / "child", compiled, rows_file)


@pytest.fixture(scope="session")
def quiet(compiled, rows_file, tmp_path_factory):
    """A run of the child that nobody touched -> its directory."""
    child = Child(tmp_path_factory.mktemp("quiet") / "child", compiled, rows_file)
    done = child.run("train", child.recipe, "--run-dir", "run")
    assert done.returncode == 0, done.stderr
    return child.folder / "run"


@pytest.fixture
def collected():
    """What Orbax abandons when a read fails is destroyed while the test's filters hold."""
    yield
    time.sleep(0.05)  # TensorStore's threads answer last
    gc.collect()
