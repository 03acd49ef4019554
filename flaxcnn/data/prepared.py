"""Data sets prepared by tfds: find one, and decode its ArrayRecords without TensorFlow.

Imports tfds, which takes a second, so import this module only where it is needed.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from flaxcnn.data import cache
from flaxcnn.data.arrays import Split, check_labels
from flaxcnn.data.images import Images
from flaxcnn.data.resize import Draws, fit
from flaxcnn.errors import DAMAGED_ARRAY, DataError, first_line, one_of
from flaxcnn.recipe.resize import Resize

NAME = re.compile(r"\w+([/:][\w.+-]+){0,2}")
BATCH = 1000  # records read at once
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
VERSION = re.compile(r"\d+\.\d+\.\d+")


class Decoded(NamedTuple):
    """A prepared data set in memory."""

    train: Split
    test: Split | None
    classes: tuple[str, ...]


def find(name: str, resize: Resize | None = None) -> Any:
    """The builder of `name`, such as mnist, mnist:3.0.1 or set/config:1.0.0, from its files only.

    With `resize` its images may differ in size. Looks in TFDS_DATA_DIR (or ~/tensorflow_datasets),
    then in the cache's own tfds folder; without a version, the highest. No code of the data set is
    imported.

    Raises:
        DataError: not there, another file format than ArrayRecord, or not images of one shape with
            class labels.
    """
    if not NAME.fullmatch(name):
        raise DataError(f"tfds:{name}: write it as NAME, NAME:VERSION or NAME/CONFIG:VERSION")
    own = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    folders = [own, cache.root() / "tfds"]
    for folder in folders:
        if chosen := _choose(name, folder):
            try:
                builder = tfds.builder_from_directory(chosen)
            except Exception as error:  # damaged JSON, protobuf and paths each raise their own
                raise DataError(
                    f"{chosen}: the metadata is damaged ({first_line(error)})"
                ) from None
            _check(name, builder, resize)
            return builder
    raise DataError(
        f"tfds:{name} is not prepared in {' or '.join(map(str, folders))}; prepare it with "
        f"tfds, as `tfds.builder({name!r}, file_format='array_record').download_and_prepare()`, "
        "or set TFDS_DATA_DIR"
    )


def _choose(name: str, folder: Path) -> Path | None:
    """FOLDER/NAME[/CONFIG]/VERSION that fits `name`, or None; DataError if two configs fit."""
    first, *rest = re.split("[/:]", name)
    root = folder / first
    prepared = [
        file.parent.relative_to(root).parts
        for pattern in ("*/features.json", "*/*/features.json")
        for file in root.glob(pattern)
    ]
    fitting = [p for p in prepared if set(rest) <= set(p) and VERSION.fullmatch(p[-1])]
    if not fitting:
        return None
    if len(configs := sorted({parts[:-1] for parts in fitting})) > 1:
        listed = ", ".join("/".join(config) or "(none)" for config in configs)
        raise DataError(f"tfds:{name} needs a config; {root} has {listed}")
    newest = max(fitting, key=lambda parts: [int(number) for number in parts[-1].split(".")])
    return root.joinpath(*newest)


def _check(name: str, builder: Any, resize: Resize | None) -> None:
    info = builder.info
    stored = getattr(info.file_format, "value", info.file_format)
    if stored != "array_record":
        raise DataError(
            f"tfds:{name}: the file format must be array_record (got {stored}), the only one that "
            "can be read without TensorFlow; prepare it again with file_format='array_record'"
        )
    keys = info.supervised_keys or ()
    features = [info.features[k] for k in keys if isinstance(k, str) and k in info.features]
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    if len(features) != 2 or not all(map(isinstance, features, kinds)):
        raise DataError(f"tfds:{name}: supervised_keys must be an image and a class (got {keys})")
    image = features[0]
    unsized = resize is None and None in image.shape
    if unsized or image.shape[2] not in MODES or image.np_dtype != np.uint8:
        raise DataError(
            f"tfds:{name}: images must be uint8 with {one_of(map(str, MODES))} channels, of one "
            "size or with a resize in the recipe (got "
            f"{np.dtype(image.np_dtype)}{list(image.shape)})"
        )
    if "train" not in info.splits:
        raise DataError(f"tfds:{name}: there must be a split train (got {', '.join(info.splits)})")


def key(builder: Any) -> str:
    """Folder name for the decoded rows: the builder's full name and a digest of its metadata."""
    folder = Path(builder.data_dir)
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        if file.suffix == ".json":
            digest.update(file.read_bytes())
    name = re.sub(r"[^\w.-]", "-", builder.info.full_name)
    return f"{name}-{digest.hexdigest()[:12]}"


def shape_of(builder: Any, resize: Resize | None) -> tuple[int, int, int]:
    """(H, W, C) of its images once they are resized."""
    height, width, channels = builder.info.features[builder.info.supervised_keys[0]].shape
    return (resize.height, resize.width, channels) if resize else (height, width, channels)


def decoded_bytes(builder: Any, resize: Resize | None) -> int:
    """Bytes of all pixels of train and test."""
    rows = sum(builder.info.splits[split].num_examples for split in _splits(builder))
    return int(rows * np.prod(shape_of(builder, resize)))


def _splits(builder: Any) -> list[str]:
    return ["train", *(["test"] if "test" in builder.info.splits else [])]


def decode_all(name: str, builder: Any) -> Decoded:
    """Decode train and, where there is one, test; other splits are not read.

    Raises:
        DataError: a record cannot be decoded, or labels with gaps.
    """
    return _whole(name, builder, [decode(builder, split) for split in _splits(builder)])


def undecoded(name: str, builder: Any, resize: Resize | None) -> Decoded:
    """As `decode_all`, with images decoded on demand; labels are read once and cached.

    Raises:
        DataError: a record cannot be read, or labels with gaps.
    """
    splits = []
    for split in _splits(builder):
        label = _labels(builder, split)
        image = RecordImages(
            np.arange(len(label)), shape_of(builder, resize), str(builder.data_dir), split,
            builder.info.supervised_keys[0], key(builder), resize,
        )  # fmt: skip
        splits.append(Split(image, label))
    return _whole(name, builder, splits)


def _whole(name: str, builder: Any, splits: list[Split]) -> Decoded:
    train, test = splits[0], splits[1] if len(splits) > 1 else None
    feature = builder.info.features[builder.info.supervised_keys[1]]
    count = check_labels(f"tfds:{name}", train.label, None if test is None else test.label)
    if count != feature.num_classes:
        raise DataError(
            f"tfds:{name}: train must have rows of all {feature.num_classes} classes (got {count})"
        )
    return Decoded(train, test, tuple(feature.names))


def decode(builder: Any, split: str) -> Split:
    """All rows of a split, in the order of its records.

    Raises:
        DataError: a record is damaged or has another shape than the builder says.
    """
    image_key, label_key = builder.info.supervised_keys
    shape = builder.info.features[image_key].shape
    try:
        source = _source(str(builder.data_dir), split, image_key)
        image = np.empty((len(source), *shape), np.uint8)
        label = np.empty(len(source), np.int32)
        for i, row in enumerate(_records(source)):
            image[i] = _pixels(row[image_key], shape)
            label[i] = row[label_key]
    except Exception as error:  # array_record, protobuf and PIL each raise their own
        raise _unreadable(builder.data_dir, split, error) from None
    return Split(image, label)


def _unreadable(folder: Any, split: str, error: Exception) -> DataError:
    return DataError(
        f"{folder}: the {split} records cannot be read ({first_line(error)}); prepare them again"
    )


def _source(folder: str, split: str, image_key: str) -> Any:
    """The records of a split."""
    # tfds's own decoding takes twice as long and warns that OpenCV is missing
    decoders = {image_key: tfds.decode.SkipDecoding()}
    return tfds.builder_from_directory(folder).as_data_source(split, decoders=decoders)


_opened = functools.lru_cache(maxsize=8)(_source)  # a worker opens a split once


def _labels(builder: Any, split: str) -> np.ndarray:
    """Labels [N] int32 of a split, cached, since reading them means reading every record."""
    file = cache.root() / "labels" / f"{key(builder)}-{split}.npy"
    count = builder.info.splits[split].num_examples
    try:
        kept = np.load(file, allow_pickle=False)
        if kept.dtype == np.int32 and kept.shape == (count,):
            return kept
    except DAMAGED_ARRAY:
        pass  # missing or damaged: read again
    image_key, label_key = builder.info.supervised_keys
    try:
        source = _source(str(builder.data_dir), split, image_key)
        label = np.fromiter((row[label_key] for row in _records(source)), np.int32, len(source))
    except Exception as error:
        raise _unreadable(builder.data_dir, split, error) from None
    with cache.construction("labels") as work:
        np.save(work / file.name, label, allow_pickle=False)
        file.parent.mkdir(exist_ok=True)
        (work / file.name).rename(file)
    return label


@dataclass(frozen=True, eq=False)
class RecordImages(Images):
    """Images of a split that tfds prepared, decoded on demand from its ArrayRecords."""

    folder: str
    split: str
    image_key: str
    source_key: str  # of the metadata
    resize: Resize | None = None

    def read_into(self, pixels: np.ndarray, rows: np.ndarray, draws: Draws | None = None) -> None:
        """Decode rows [n] to `pixels`, uint8 [n, H, W, C].

        Raises:
            DataError: a record is damaged or has another shape than the builder says.
        """
        try:
            source = _opened(self.folder, self.split, self.image_key)
            records = source.__getitems__([int(self.index[row]) for row in rows])
            for i, (row, record) in enumerate(zip(rows, records, strict=True)):
                data = record[self.image_key]
                if self.resize is None:
                    pixels[i] = _pixels(data, self.size)
                else:
                    pixels[i] = _resized(data, self.size, self.resize, draws, int(row))
        except Exception as error:  # array_record, protobuf and PIL each raise their own
            raise _unreadable(self.folder, self.split, error) from None

    def digest(self) -> str:
        """SHA-256 of the metadata's key, the chosen rows and the resize."""
        hashed = hashlib.sha256(f"{self.source_key}\0{self.split}\0{self.resize}".encode())
        hashed.update(np.ascontiguousarray(self.index, "<i8").data)
        return hashed.hexdigest()


def _records(source: Any) -> Iterator[dict[str, Any]]:
    for start in range(0, len(source), BATCH):
        yield from source.__getitems__(list(range(start, min(start + BATCH, len(source)))))


def _pixels(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as opened:
        if (opened.height, opened.width) != shape[:2] or opened.mode != MODES[shape[2]]:
            raise ValueError(f"an image of {opened.height}x{opened.width}, {opened.mode}")
        return np.asarray(opened).reshape(shape)


def _resized(
    data: bytes, shape: tuple[int, int, int], resize: Resize, draws: Draws | None, row: int
) -> np.ndarray:
    mode = MODES[shape[2]]
    with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as opened:
        # CMYK or transparency would give other pixels than the builder's own decoding
        if opened.mode not in (mode, "L", "RGB"):
            raise ValueError(f"an image of mode {opened.mode}")
        image = opened if opened.mode == mode else opened.convert(mode)  # which copies
        return np.asarray(fit(image, resize, draws, row)).reshape(shape)
