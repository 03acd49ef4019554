"""tfds builders of the built-in data sets that run without TensorFlow.

Three changes keep TensorFlow out: `download` instead of `download_and_extract`, gzip and tarfile
instead of `tf.io`, and PIL images instead of arrays (tfds would encode an array with
`tf.image.encode_png`). A fourth keeps the archive's order: records are written unshuffled, since
documents number rows by their order in the archive and MNIST's records carry no number.

Imports tfds, which takes a second, so import this module only where it is needed.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import lzma
import os
import tarfile
import urllib.parse
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.image_classification import cifar, mnist

from flaxcnn.data.archives import IDX_FILES, PUBLISHED
from flaxcnn.data.arrays import Split
from flaxcnn.data.prepared import decode
from flaxcnn.errors import DataError, first_line

CIFAR_RECORD = 3073  # label, then 1024 red, 1024 green, 1024 blue
CIFAR_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
MAX_TAR = 2**28  # bytes in all members together; CIFAR-10 has 184,380,061 and a small readme
MAX_ROWS = 2**17  # of an IDX file
UNREADABLE = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, tarfile.TarError)


class Ordered(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Keeps the archive's order, and the rows it has read, to compare with the written ones."""

    original: dict[str, Split]

    def _info(self) -> Any:
        info = super()._info()
        info.as_proto.disable_shuffling = True
        return info

    def _keep(self, original: dict[str, Split]) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        self.original = original
        return {name: self._rows(name, split) for name, split in original.items()}

    def _rows(self, name: str, split: Split) -> Iterator[tuple[int, dict[str, Any]]]:
        extra = "id" in self.info.features
        for i, (image, label) in enumerate(zip(np.asarray(split.image), split.label, strict=True)):
            pixels = image if image.shape[-1] == 3 else image[..., 0]
            row = {"image": Image.fromarray(np.ascontiguousarray(pixels)), "label": int(label)}
            yield i, row | ({"id": f"{name}_{i:05d}"} if extra else {})


class Idx(Ordered, skip_registration=True):  # type: ignore[call-arg]
    """The IDX archives of MNIST and Fashion-MNIST."""

    def _split_generators(self, dl_manager: Any) -> Any:
        paths = dl_manager.download([urllib.parse.urljoin(self.URL, file) for file in IDX_FILES])
        train, train_label, test, test_label = (read_idx(Path(path)) for path in paths)
        return self._keep({
            "train": Split(train[..., None], train_label.astype(np.int32)),
            "test": Split(test[..., None], test_label.astype(np.int32)),
        })  # fmt: skip


class Mnist(Idx, mnist.MNIST, skip_registration=True):  # type: ignore[call-arg]
    """tfds's mnist."""

    name = "mnist"


class FashionMnist(Idx, mnist.FashionMNIST, skip_registration=True):  # type: ignore[call-arg]
    """tfds's fashion_mnist."""

    name = "fashion_mnist"


class Cifar10(Ordered, cifar.Cifar10, skip_registration=True):  # type: ignore[call-arg]
    """tfds's cifar10. Its members are checked, so a re-packed archive is accepted too."""

    name = "cifar10"
    # As published by Apache MXNet (gluon.data.vision.CIFAR10).
    MEMBERS: ClassVar = {
        "data_batch_1.bin": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
        "data_batch_2.bin": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
        "data_batch_3.bin": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
        "data_batch_4.bin": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
        "data_batch_5.bin": "26e2849e66a845b7f1e4614ae70f4889ae604628",
        "test_batch.bin": "67eb016db431130d61cd03c7ad570b013799c88c",
    }

    def _split_generators(self, dl_manager: Any) -> Any:
        path = Path(dl_manager.download(self._cifar_info.url))
        members = read_tar(path, {*self.MEMBERS, "batches.meta.txt"})
        for file, sha1 in self.MEMBERS.items():
            if (actual := hashlib.sha1(members[file]).hexdigest()) != sha1:
                raise DataError(f"{path}: {file} must have SHA-1 {sha1} (got {actual})")
        names = members["batches.meta.txt"].decode("utf-8", "replace").split()
        if tuple(names) != CIFAR_CLASSES:
            raise DataError(f"{path}: the classes in batches.meta.txt are not those of CIFAR-10")
        self.info.features["label"].names = names
        batches = [self._cifar_info.train_files, self._cifar_info.test_files]
        return self._keep({
            name: _cifar_rows(b"".join(members[file] for file in files))
            for name, files in zip(("train", "test"), batches, strict=True)
        })  # fmt: skip


BUILDERS: dict[str, type[Ordered]] = {
    "mnist": Mnist, "fashion_mnist": FashionMnist, "cifar10": Cifar10,
}  # fmt: skip


def _cifar_rows(data: bytes) -> Split:
    records = np.frombuffer(data, np.uint8).reshape(-1, CIFAR_RECORD)
    image = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(image), records[:, 0].astype(np.int32))


def read_idx(path: Path) -> np.ndarray:
    """uint8 array of a gzipped IDX file; inflates no more bytes than its header announces.

    Raises:
        DataError: cut short, damaged, or another number of bytes than its header says.
    """
    try:
        with gzip.open(path) as file:
            magic = file.read(4)
            if magic[:3] != b"\0\0\x08" or magic[3] not in (1, 3):
                raise ValueError("not an IDX file of bytes")
            shape = np.frombuffer(file.read(4 * magic[3]), ">u4").astype(int)
            if shape[0] > MAX_ROWS or shape[1:].tolist() not in ([], [28, 28]):
                raise ValueError(f"its header must have rows of 28x28 (got {shape.tolist()})")
            data = file.read(int(shape.prod()) + 1)
    except UNREADABLE as error:
        raise DataError(f"{path}: the archive is damaged ({first_line(error)})") from None
    if len(data) != shape.prod():
        raise DataError(
            f"{path}: must hold {shape.prod()} bytes, as its header says (got {len(data)})"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def read_tar(path: Path, wanted: set[str]) -> dict[str, bytes]:
    """The regular members of these base names, read into memory; nothing is unpacked to disk.

    Raises:
        DataError: cut short, damaged, far too large, or a member missing or twice.
    """
    members: dict[str, bytes] = {}
    total = 0
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                total += member.size
                if total > MAX_TAR:
                    raise ValueError(f"its members exceed {MAX_TAR} bytes")
                name = os.path.basename(member.name)
                if name in wanted and member.isfile():
                    if name in members:
                        raise ValueError(f"it holds {name} twice")
                    opened = tar.extractfile(member)
                    members[name] = opened.read() if opened else b""
    except UNREADABLE as error:
        raise DataError(f"{path}: the archive is damaged ({first_line(error)})") from None
    if missing := sorted(wanted - set(members)):
        raise DataError(f"{path}: the archive lacks {missing[0]}")
    return members


class Made(NamedTuple):
    """A data set that a builder made of its archives."""

    train: Split
    test: Split
    classes: tuple[str, ...]
    sources: dict[str, str]  # archive -> SHA-256
    records: Path  # the tfds folder, <name>/<version>


def make(cls: type[Ordered], archives: Sequence[Path], work: Path) -> Made:
    """Prepare ArrayRecords under `work` from `archives` (one folder) and decode them.

    Raises:
        DataError: an archive is not the published one or is damaged.
    """
    cls, sources = _checked(cls, archives)
    builder = cls(data_dir=str(work / "tfds"), file_format="array_record")
    config = tfds.download.DownloadConfig(
        manual_dir=str(archives[0].parent), try_download_gcs=False, force_checksums_validation=True
    )
    with _quiet(), _own_checksums():
        builder.download_and_prepare(download_config=config, download_dir=str(work / "downloads"))
        split = {name: decode(builder, name) for name in ("train", "test")}
    for name, original in builder.original.items():
        same = np.array_equal(original.image, split[name].image)
        if not same or not np.array_equal(original.label, split[name].label):
            raise DataError(
                f"{cls.name}: the {name} rows that tfds wrote are not those of the archive"
            )
    names = tuple(builder.info.features["label"].names)
    return Made(split["train"], split["test"], names, sources, Path(builder.data_dir))


def _checked(cls: type[Ordered], archives: Sequence[Path]) -> tuple[type[Ordered], dict[str, str]]:
    """The builder that expects these archives, and their SHA-256; DataError on a wrong one."""
    known = {**checksums.get_all_url_infos(), **(cls.url_infos or {})}
    own, sources = {}, {}
    for file, path in zip(PUBLISHED[cls.name].files, archives, strict=True):
        url = urllib.parse.urljoin(PUBLISHED[cls.name].url, file)
        try:
            actual, expected = checksums.compute_url_info(path), known[url]
        except OSError as error:
            raise DataError(f"{path}: the file cannot be read ({error.strerror})") from None
        sources[path.name] = actual.checksum
        if actual == expected:
            continue
        if not issubclass(cls, Cifar10):
            raise DataError(
                f"{path}: must be the published {cls.name} file, {expected.size} bytes of SHA-256 "
                f"{expected.checksum} (got {actual.size} bytes of {actual.checksum})"
            )
        own[url] = actual  # the digests of its members decide
    if own:
        members = {"name": cls.name, "url_infos": own}
        cls = type(cls.__name__, (cls,), members, skip_registration=True)
    return cls, sources


def download(cls: type[Ordered], folder: Path, work: Path) -> list[Path]:
    """Fetch the archives that `cls` expects into `folder` -> their paths, checksums verified.

    Raises:
        DataError: the download fails.
    """
    name, published = cls.name, PUBLISHED[cls.name]
    urls = [urllib.parse.urljoin(published.url, file) for file in published.files]
    try:
        with _quiet(), _own_checksums():
            fetched = tfds.download.DownloadManager(
                download_dir=str(work), dataset_name=name, url_infos=cls.url_infos,
                force_checksums_validation=True,
            ).download(urls)  # fmt: skip
    except Exception as error:  # requests, urllib3 and tfds raise their own
        raise DataError(
            f"{name}: the download from {published.url} failed ({first_line(error)}); try again, "
            f"or get the files elsewhere and run `flaxcnn data prepare {name} --from DIR`"
        ) from None
    folder.mkdir(parents=True, exist_ok=True)
    for path, file in zip(fetched, published.files, strict=True):
        os.replace(path, folder / file)
    return [folder / file for file in published.files]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and nothing on stdout, which is for one JSON document."""
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()


@contextlib.contextmanager
def _own_checksums() -> Iterator[None]:
    """Keep `url_infos` of one builder from every later builder of the process.

    tfds copies them into the one memoised table of all known checksums and leaves them there.
    """
    table = checksums.get_all_url_infos()
    known = dict(table)
    try:
        yield
    finally:
        table.clear()
        table.update(known)
