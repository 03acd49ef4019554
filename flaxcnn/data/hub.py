"""Data sets of Hugging Face's library `datasets`: of its hub, its cache, or a folder.

Imports `datasets`, the extra `flaxcnn[hub]`, only where one is asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flaxcnn.data.archives import reachable
from flaxcnn.data.arrays import Dataset, Split, check_labels, dataset
from flaxcnn.data.decode import ONE_SIZE, Form, Size, decode, no_bombs
from flaxcnn.data.images import Images
from flaxcnn.data.resize import Draws
from flaxcnn.errors import DataError, first_line, near_miss, one_of

OPTIONS = ("config", "revision", "image", "label", "train", "validation", "test")
# What a split is called, in the order of preference
SPLITS = {
    "train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",),
}  # fmt: skip
LABELS = ("label", "labels", "class", "target")  # of a column that is no ClassLabel
HUB = "https://huggingface.co"


@dataclass(frozen=True, eq=False)
class Found:
    """A data set whose splits and columns are known."""

    where: str  # hf:NAME
    splits: Mapping[str, Any]  # train, and maybe validation and test: tables of the library
    image: str  # column
    label: str
    source: Mapping[str, str]  # version of the library, revision, fingerprints

    @property
    def key(self) -> str:
        """Folder name for the decoded rows."""
        chosen = repr((sorted(self.source.items()), self.image, self.label, list(self.splits)))
        return f"hf-{hashlib.sha256(chosen.encode()).hexdigest()[:24]}"


def find(name: str) -> Found:
    """The data set called `name`: NAME, ORG/NAME or a path, and after commas what is chosen of it.

    A path begins with /, ./, ../ or ~ and is what `save_to_disk` wrote, or a folder that
    `load_dataset` reads: of images, Parquet or Arrow files. Options are `config=`, `revision=`,
    the columns `image=` and `label=`, and the splits `train=`, `validation=` and `test=`, `none`
    for none: `food101,test=validation`, `cifar100,label=fine_label`.

    Raises:
        DataError: the library is missing, or the data set, or it is none for a classifier.
    """
    where = f"hf:{name}"
    place, *rest = name.split(",")
    options = dict(_option(where, text) for text in rest)
    tables = _tables(where, place, options)
    splits = _splits(where, tables, options)
    image, label = _columns(where, splits["train"], options)
    for split, table in splits.items():
        missing = [column for column in (image, label) if column not in table.column_names]
        if missing:
            raise DataError(f"{where}: split {split} has no column {missing[0]!r}")
    import datasets

    source = {"library": f"datasets {datasets.__version__}"}
    if "revision" in options:
        source["revision"] = options["revision"]
    if not _local(place) and (files := splits["train"].cache_files):
        source["cached as"] = Path(files[0]["filename"]).parent.name  # the hub's commit
    if (version := splits["train"].info.version) is not None:
        source["version"] = str(version)
    source |= {f"{split} fingerprint": table._fingerprint for split, table in splits.items()}
    return Found(where, splits, image, label, source)


def undecoded(found: Found, form: Form) -> Dataset:
    """The data set with images decoded on demand.

    Raises:
        DataError: a label is missing, or classes without training rows.
    """
    from datasets import ClassLabel, concatenate_datasets

    where, names = found.where, None
    if isinstance(feature := found.splits["train"].features[found.label], ClassLabel):
        names = list(feature.names)
    numbers, classes = _numbers(found, names)
    own = {
        split: table.select_columns([found.image]).cast_column(found.image, _bytes())
        for split, table in found.splits.items()
    }
    first = _decode(where, "train row 0", own["train"][0][found.image], form)
    size: Size = (first.shape[0], first.shape[1], first.shape[2])
    given = len(numbers.get("validation", ()))

    def split(*parts: str) -> Split:
        there = [part for part in parts if part in own]
        table = own[there[0]] if len(there) == 1 else concatenate_datasets([own[p] for p in there])
        label = np.concatenate([numbers[part] for part in there])
        image = HubImages(
            np.arange(len(label)), size, where, parts[0], table, found.image, form,
            "\0".join(own[part]._fingerprint for part in there),
        )  # fmt: skip
        return Split(image, label)

    test = split("test") if "test" in own else None
    train = split("train", "validation")
    return dataset(where, train, test, classes, given, found.source)


def decoded(data: Dataset) -> Dataset:
    """The same data set with its images in memory."""
    train, test = (Split(split.image[:], split.label) for split in (data.train, data.test))
    held = dataset(data.name, train, test, data.classes, data.validation, data.source)
    return dataclasses.replace(held, test_origin=data.test_origin)


@dataclass(frozen=True, eq=False)
class HubImages(Images):
    """Images of a table, decoded on demand."""

    where: str
    split: str
    table: Any  # of the library: one column, of encoded files
    column: str
    form: Form
    fingerprint: str

    def read_into(self, pixels: np.ndarray, rows: np.ndarray, draws: Draws | None = None) -> None:
        """Decode rows [n] to `pixels`, uint8 [n, H, W, C].

        Raises:
            DataError: an image is missing, damaged or not like the first one.
        """
        numbers = [int(self.index[row]) for row in rows]
        files = self.table[numbers][self.column]
        with no_bombs():
            for i, (row, number, file) in enumerate(zip(rows, numbers, files, strict=True)):
                name = f"{self.split} row {number}"
                image = _decode(self.where, name, file, self.form, self.size, draws, int(row))
                if image.shape != self.size:
                    got, want = ("x".join(map(str, each)) for each in (image.shape, self.size))
                    raise DataError(
                        f"{self.where}: {name} is {got} (height x width x channels), but the first "
                        f"is {want}; {ONE_SIZE}"
                    )
                pixels[i] = image

    def digest(self) -> str:
        """SHA-256 of the library's fingerprints, the chosen rows and the resize."""
        text = f"{self.fingerprint}\0{self.column}\0{self.form.resize}"
        hashed = hashlib.sha256(text.encode())
        hashed.update(np.ascontiguousarray(self.index, "<i8").data)
        return hashed.hexdigest()


def _decode(
    where: str, name: str, file: Any, form: Form, like: Size | None = None,
    draws: Draws | None = None, row: int = 0,
) -> np.ndarray:  # fmt: skip
    """Decode a cell of an image column: the bytes of a file, or the path of one."""
    data, path = (file or {}).get("bytes"), (file or {}).get("path")
    if data is None:
        if path is None or not Path(path).is_file():
            raise DataError(f"{where}: {name} has no image{f' ({path})' if path else ''}")
        data = Path(path).read_bytes()
    with no_bombs():
        return decode(where, name, io.BytesIO(data), form, like, draws, row)


def _bytes() -> Any:
    from datasets import Image

    return Image(decode=False)


# -- finding it ----------------------------------------------------------------------------------


def _option(where: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if key not in OPTIONS or not equals or not value:
        raise DataError(
            f"{where}: after a comma must come one of {', '.join(f'{key}=' for key in OPTIONS)} "
            f"(got {text!r}){near_miss(key, OPTIONS)}"
        )
    return key, value


def _local(place: str) -> bool:
    return place.startswith(("/", "./", "../", "~"))


def _tables(where: str, place: str, options: Mapping[str, str]) -> Mapping[str, Any]:
    """The splits of a data set by name."""
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{where} needs Hugging Face's datasets: pip install 'flaxcnn[hub]'"
        ) from None
    local = _local(place)
    folder = Path(place).expanduser()
    if local and not folder.is_dir():
        raise DataError(f"{where}: there is no folder {folder}")
    saved = local and any((folder / f).is_file() for f in ("dataset_dict.json", "state.json"))
    if saved and (odd := {"config", "revision"} & {*options}):
        raise DataError(f"{where}: what save_to_disk wrote has no {min(odd)}")
    try:
        with _quiet(datasets, local):
            if saved:
                found = datasets.load_from_disk(str(folder))
            else:
                name = str(folder.resolve()) if local else place
                found = datasets.load_dataset(
                    name, options.get("config"), revision=options.get("revision")
                )
    except Exception as error:  # each kind of file and of failure raises its own
        away = (
            ""
            if local or not isinstance(error, ConnectionError)
            else ("; go online once, or give a folder that save_to_disk wrote, hf:/PATH")
        )
        raise DataError(f"{where}: cannot be loaded ({first_line(error)}){away}") from None
    return found if isinstance(found, Mapping) else {"train": found}


@contextlib.contextmanager
def _quiet(datasets: Any, local: bool) -> Iterator[None]:
    """No bars for local files, and no minute of retries where the hub cannot be reached."""
    import huggingface_hub

    holders: tuple[Any, Any] = (datasets.config, huggingface_hub.constants)
    before = [holder.HF_HUB_OFFLINE for holder in holders]
    bars = datasets.utils.logging.is_progress_bar_enabled()
    offline = local or any(before) or not reachable(HUB)
    try:
        for holder in holders:
            holder.HF_HUB_OFFLINE = offline
        if local:
            datasets.disable_progress_bars()
        yield
    finally:
        for holder, value in zip(holders, before, strict=True):
            holder.HF_HUB_OFFLINE = value
        if bars:
            datasets.enable_progress_bars()


def _splits(where: str, tables: Mapping[str, Any], options: Mapping[str, str]) -> dict[str, Any]:
    """The tables that train, validate and test."""
    chosen = {}
    for split, names in SPLITS.items():
        asked = options.get(split)
        if asked == "none" and split != "train":
            continue
        if asked is not None and asked not in tables:
            raise DataError(
                f"{where}: there is no split {asked!r}, only {one_of(tables)}"
                f"{near_miss(asked, tables)}"
            )
        taken = {*options.values()}
        name = asked or next((n for n in names if n in tables and n not in taken), None)
        if name is not None:
            chosen[split] = tables[name]
    if "train" not in chosen:
        raise DataError(
            f"{where}: there is no split train, only {one_of(tables)}; choose with {where},train="
        )
    return chosen


def _columns(where: str, table: Any, options: Mapping[str, str]) -> tuple[str, str]:
    """The columns of images and of labels, by their type."""
    from datasets import ClassLabel, Image, Value

    features = table.features
    kinds = {"image": Image, "label": (ClassLabel, Value)}
    found = {}
    for role, kind in kinds.items():
        asked = options.get(role)
        if asked is not None and not isinstance(features.get(asked), kind):
            raise DataError(
                f"{where}: there is no column {asked!r} of {role}s, only {one_of(features)}"
            )
        wanted = Image if role == "image" else ClassLabel
        fitting = [asked] if asked else [n for n, f in features.items() if isinstance(f, wanted)]
        if role == "label" and not fitting:
            fitting = [n for n in LABELS if isinstance(features.get(n), Value)][:1]
        if len(fitting) != 1:
            names = one_of(fitting) if fitting else f"none among {', '.join(features)}"
            raise DataError(
                f"{where}: there must be one column of {role}s (got {names}); choose with "
                f"{where},{role}=NAME"
            )
        found[role] = fitting[0]
    return found["image"], found["label"]


def _numbers(found: Found, names: list[str] | None) -> tuple[dict[str, np.ndarray], list[str]]:
    """Class numbers [N] int32 of each split, and the names of the classes."""
    where, labels = found.where, {}
    for split, table in found.splits.items():
        values = np.asarray(table.with_format(None)[found.label][:], dtype=object)
        absent = [row for row, v in enumerate(values) if v is None or (names and v == -1)]
        if absent:
            raise DataError(
                f"{where}: {split} row {absent[0]} has no label; leave the split out or take "
                f"another, as {where},{split}=none"
            )
        labels[split] = values.astype(np.int64) if names else values
    if names is None:
        if not all(isinstance(v, str | int) for v in labels["train"].tolist()):
            raise DataError(f"{where}: labels must be integers, text or classes")
        present = sorted(set(labels["train"].tolist()), key=lambda v: (isinstance(v, str), v))
        number = {value: i for i, value in enumerate(present)}
        for split, values in labels.items():
            if unseen := [v for v in values.tolist() if v not in number]:
                raise DataError(f"{where}: no train row has label {unseen[0]!r} of {split}")
            labels[split] = np.array([number[v] for v in values.tolist()])
        names = [str(value) for value in present]
    count = check_labels(where, labels["train"], labels.get("test"), labels.get("validation"))
    if count != len(names):
        raise DataError(f"{where}: train must have rows of all {len(names)} classes (got {count})")
    return {split: values.astype(np.int32) for split, values in labels.items()}, names
