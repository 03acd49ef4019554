"""A data cache of its own for every test, synthetic archives, and the real ones if at hand."""

import hashlib
import os
from pathlib import Path

import pytest
from synthetic import cifar_members, expecting, rows, write_idx, write_tar

from flaxcnn.data import datasets
from flaxcnn.data.archives import IDX_FILES

REAL_ARCHIVES = Path(
    os.environ.get("FLAXCNN_ARCHIVES") or Path(__file__).parents[3] / "shared" / "data"
)


@pytest.fixture(autouse=True)
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXCNN_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.delenv("FLAXCNN_ARCHIVES", raising=False)
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def real_archives():
    if not REAL_ARCHIVES.is_dir():
        pytest.skip("no real archives: set FLAXCNN_ARCHIVES to a folder that holds them")
    return REAL_ARCHIVES


@pytest.fixture(scope="session")
def real(real_archives, tmp_path_factory):
    """Prepare a real data set once per session -> Dataset."""
    folder = tmp_path_factory.mktemp("real")

    def load(name):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FLAXCNN_DATA_DIR", str(folder))
            datasets.prepare(name, real_archives)
            return datasets.load(name)

    return load


@pytest.fixture(scope="session")
def real_mnist(real):
    return real("mnist")


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch):
    """Folder of synthetic MNIST files that the mnist builder accepts; arrays under .arrays."""
    from flaxcnn.data import builders

    folder = tmp_path / "archives" / "mnist"
    folder.mkdir(parents=True)
    arrays = (*rows(0, 50, (28, 28)), *rows(1, 20, (28, 28)))
    for file, array in zip(IDX_FILES, arrays, strict=True):
        write_idx(folder / file, array)
    cls = expecting(builders.Mnist, "mnist", folder)
    monkeypatch.setitem(builders.BUILDERS, "mnist", cls)
    return folder, arrays


@pytest.fixture
def tiny_cifar(tmp_path, monkeypatch):
    """Folder with a re-packed synthetic CIFAR-10 archive, and its members."""
    from flaxcnn.data import builders

    folder = tmp_path / "archives" / "cifar10"
    folder.mkdir(parents=True)
    members = cifar_members()
    digests = {file: hashlib.sha1(data).hexdigest() for file, data in members.items()}
    members["batches.meta.txt"] = "\n".join([*builders.CIFAR_CLASSES, "", ""]).encode()
    write_tar(folder / "cifar-10-binary.tar.xz", members)
    cls = type(
        "Cifar10", (builders.Cifar10,), {"name": "cifar10", "MEMBERS": digests},
        skip_registration=True,
    )  # fmt: skip
    monkeypatch.setitem(builders.BUILDERS, "cifar10", cls)
    return folder, members
