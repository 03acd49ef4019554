"""Decoded data sets on disk: four .npy files and meta.json with their digests, made atomically.

All of it is hashed when a process first reads it: a flipped bit trains other weights.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import platformdirs

import flaxcnn
from flaxcnn.data.arrays import Dataset, Split, content_digest
from flaxcnn.errors import DAMAGED_ARRAY, DataError, WriteError, first_line
from flaxcnn.limits import is_full

FORMAT = 1
FILES = ("train_image.npy", "train_label.npy", "test_image.npy", "test_label.npy")
STALE = 24 * 3600  # seconds after which a folder under construction counts as abandoned


def root() -> Path:
    """FLAXCNN_DATA_DIR, or the user's cache folder."""
    if given := os.environ.get("FLAXCNN_DATA_DIR"):
        return Path(given).expanduser().absolute()
    return platformdirs.user_cache_path("flaxcnn") / "data"


def _broken(name: str, file: Path, reason: str) -> DataError:
    return DataError(
        f"{name}: the cached {file} is damaged ({reason}); "
        f"rebuild it with `flaxcnn data prepare {name}`"
    )


@contextlib.contextmanager
def construction(label: str) -> Iterator[Path]:
    """A new empty folder beside the final ones, removed afterwards.

    Raises:
        WriteError: the cache cannot be written (OSError inside the block included).
    """
    folder = root()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f".making-{label}-*"):  # left by a process that was killed
            if time.time() - old.stat().st_mtime > STALE:
                shutil.rmtree(old, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f".making-{label}-", dir=folder))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except Exception as error:
        if not isinstance(error, OSError) and not is_full(error):  # tfds raises its own
            raise
        cause = getattr(error, "strerror", None) or first_line(error)
        raise WriteError(
            f"the data cache {folder} cannot be written ({cause}); "
            "set FLAXCNN_DATA_DIR to a folder with free space"
        ) from error


def publish(made: Path, final: Path) -> None:
    """Rename the folder `made` to `final`, replacing an existing one.

    Readers see the old folder or the new one; of two writers the later wins.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    while True:
        try:
            made.rename(final)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        old = made.parent / f".old-{uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):  # another writer moved it first
            final.rename(old)
        shutil.rmtree(old, ignore_errors=True)


def sha256(file: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def store(data: Dataset, final: Path, work: Path, sources: Mapping[str, str],
          replace: bool) -> None:  # fmt: skip
    """Write `data` to `work` and rename that to `final`; `sources` maps archive -> SHA-256.

    Without `replace`, equal data that another process published meanwhile is kept.
    """
    made = work / "npy"
    made.mkdir()
    arrays = (data.train.image, data.train.label, data.test.image, data.test.label)
    described = {}
    for file, array in zip(FILES, arrays, strict=True):
        np.save(made / file, array, allow_pickle=False)
        described[file] = {"shape": list(array.shape), "dtype": array.dtype.str,
                           "sha256": sha256(made / file)}  # fmt: skip
    meta = {
        "format": FORMAT,
        "name": data.name,
        "digest": data.digest,
        "classes": list(data.classes),
        "test_origin": data.test_origin,
        **({"validation": data.validation} if data.validation else {}),
        **({"source": dict(data.source)} if data.source else {}),
        "arrays": described,
        "sources": dict(sources),
        "versions": {
            "flaxcnn": flaxcnn.__version__,
            "numpy": np.__version__,
            "tensorflow-datasets": version("tensorflow-datasets"),
        },
    }
    meta["sha256"] = _own_digest(meta)
    (made / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
    if not replace:
        with contextlib.suppress(DataError):
            other = read(final, data.name)
            if other is not None and other.digest == data.digest:
                return
    publish(made, final)


def _own_digest(meta: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of what meta.json says, but for this digest itself."""
    rest = {key: value for key, value in meta.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _meta(final: Path, name: str) -> dict[str, Any] | None:
    file = final / "meta.json"
    try:
        meta = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(name, file, str(error)) from None
    try:
        if meta["format"] != FORMAT or sorted(meta["arrays"]) != sorted(FILES):
            raise ValueError(f"format {meta['format']!r}; this version reads {FORMAT}")
        if meta.get("sha256", own := _own_digest(meta)) != own:  # older ones have none
            raise ValueError("it is not what was written")
        texts = [meta["digest"], *meta["classes"], *(a["sha256"] for a in meta["arrays"].values())]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("digests and classes must be text")
        if meta["test_origin"] not in ("archive", "held out"):
            raise ValueError(f"test_origin {meta['test_origin']!r}")
        if type(meta.setdefault("validation", 0)) is not int:
            raise ValueError(f"validation {meta['validation']!r}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _broken(name, file, str(error)) from None
    return meta


def read(final: Path, name: str) -> Dataset | None:
    """The data set with memory-mapped images, or None where nothing is prepared.

    Sizes, types, labels and every byte are checked, the last once for each process: half a second
    for the 184 MB of CIFAR-10.

    Raises:
        DataError: a file is missing, cut short or does not match meta.json.
    """
    meta = _meta(final, name)
    if meta is None:
        return None
    arrays = []
    for file in FILES:
        recorded = meta["arrays"][file]
        try:
            array = np.load(final / file, mmap_mode="r", allow_pickle=False)
        except DAMAGED_ARRAY as error:
            raise _broken(name, final / file, first_line(error)) from None
        if [list(array.shape), array.dtype.str] != [recorded.get("shape"), recorded.get("dtype")]:
            raise _broken(name, final / file, f"{array.dtype}{list(array.shape)}, not as recorded")
        arrays.append(array)
    try:
        train = Split(arrays[0], np.array(arrays[1]))
        test = Split(arrays[2], np.array(arrays[3]))
    except DataError as error:
        raise _broken(name, final, str(error)) from None
    for file, split in (("train_label.npy", train), ("test_label.npy", test)):
        if np.any((split.label < 0) | (split.label >= len(meta["classes"]))):
            raise _broken(name, final / file, "labels out of range")
    if _digest_now(train, test, meta["validation"], _versions(final)) != meta["digest"]:
        _check_files(final, name, meta)
        raise _broken(name, final / "meta.json", "its digest is not that of the rows")
    return Dataset(
        name, train, test, tuple(meta["classes"]), meta["digest"], meta["test_origin"],
        meta["validation"], meta.get("source", {}),
    )  # fmt: skip


_hashed: dict[tuple[Any, ...], str] = {}


def _digest_now(train: Split, test: Split, validation: int, versions: tuple[Any, ...]) -> str:
    """`content_digest`, of each version of the files once."""
    key = (validation, *versions)
    if key not in _hashed:
        _hashed[key] = content_digest(train, test, validation)
    return _hashed[key]


def _versions(final: Path) -> tuple[Any, ...]:
    """What is another value as soon as a file is written to, or another one takes its place."""
    found = [(final / file).stat() for file in FILES]
    return (str(final), *((s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in found))


def _check_files(final: Path, name: str, meta: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each file with its SHA-256.

    Raises:
        DataError: one differs from its recorded digest.
    """
    files = []
    for file in FILES:
        actual, recorded = sha256(final / file), meta["arrays"][file]["sha256"]
        if actual != recorded:
            reason = f"SHA-256 is {actual[:16]}..., recorded {recorded[:16]}..."
            raise _broken(name, final / file, reason)
        files.append({"file": file, "sha256": actual, "ok": True})
    return files


def check(final: Path, name: str) -> dict[str, Any] | None:
    """Hash everything again -> path, digest and files, or None where nothing is prepared.

    Raises:
        DataError: a file that differs from its recorded digest, by name.
    """
    meta, data = _meta(final, name), read(final, name)
    if meta is None or data is None:
        return None
    files = _check_files(final, name, meta)
    return {"name": name, "path": str(final), "digest": data.digest, "files": files,
            "sources": meta.get("sources", {}), "ok": True}  # fmt: skip
