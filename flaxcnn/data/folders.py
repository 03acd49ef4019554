"""Class folders of image files, and files listed in a table."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flaxcnn.data.arrays import Dataset, Split, dataset
from flaxcnn.data.decode import FORMATS, ONE_SIZE, Form, Size, decode, no_bombs
from flaxcnn.data.images import Images
from flaxcnn.data.resize import Draws
from flaxcnn.errors import DataError, near_miss, one_of

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
# What lies beside images and is none: passed over, with a word
JUNK_FOLDERS = ("__MACOSX",)
JUNK = (".txt", ".md", ".json", ".xml", ".csv", ".yaml", ".yml", ".html", ".db", ".ini", ".log")


class Labelled(NamedTuple):
    """Files of a split, relative to a folder, and the number of the class of each."""

    files: tuple[str, ...]
    label: np.ndarray  # int32 [N]


class Listing(NamedTuple):
    """Image files before any is opened."""

    where: str  # folder:PATH, for messages
    root: Path
    classes: Sequence[str]
    parts: dict[str, Labelled]  # by split, train first
    junk: tuple[str, ...] = ()  # what is passed over
    wrong: tuple[str, ...] = ()  # a sentence for each file that cannot be there


@dataclass(frozen=True, eq=False)
class FolderImages(Images):
    """Image files of a folder, decoded on demand."""

    where: str  # folder:PATH, for messages
    root: Path
    files: tuple[str, ...]  # relative to `root`; entry i of `index`
    form: Form = Form()  # noqa: RUF009

    def read_into(self, pixels: np.ndarray, rows: np.ndarray, draws: Draws | None = None) -> None:
        """Decode rows [n] to `pixels`, uint8 [n, H, W, C].

        Raises:
            DataError: a file is damaged, gone, or not like the first one.
        """
        with no_bombs():
            for i, row in enumerate(rows):
                name = self.files[self.index[row]]
                file = f"{self.root}/{name}"
                image = decode(self.where, name, file, self.form, self.size, draws, int(row))
                if image.shape != self.size:
                    raise DataError(_odd(self.where, name, image.shape, self.files[0], self.size))
                pixels[i] = image

    def digest(self) -> str:
        """SHA-256 of names, bytes on disk and resizing of the files, in the order of rows."""
        lines = [repr(self.form.resize)]
        for entry in self.index:
            name = self.files[entry]
            lines.append(f"{name}\0{(self.root / name).stat().st_size}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def folder(path: Path, form: Form = Form(), most: int | None = None) -> Dataset:  # noqa: B008
    """PATH/<class>/*.png, or PATH/train/<class>/*.png with validation/ and test/ beside train/.

    Classes and files are taken in the order of their names; names that start with a dot are
    ignored, and what is no image (notes.txt, Thumbs.db, __MACOSX/) is passed over with a word.
    Without test/, a fixed stratified fifth of the rows is held out for test.

    Args:
        path: the folder.
        form: size and channels that images are brought to; without a resize they must have one
            size already.
        most: bytes of pixels to decode now; a larger set is decoded on demand. None: decode all.

    Raises:
        DataError: fewer than two classes, a class without images, classes that differ between
            splits, images that cannot be brought to one form, a file that is damaged, misnamed,
            larger than 64 megapixels or outside PATH. The pixels of files decoded on demand are
            checked when they are read.
    """
    found = listing(path)
    if found.wrong:
        raise DataError(f"{found.where}: {found.wrong[0]}")
    if found.junk:
        _passed_over(found.where, found.junk)
    return labelled(found, form, most)


def listing(path: Path) -> Listing:
    """The files of a folder, as `folder` takes them.

    Raises:
        DataError: no such folder, or no classes in it.
    """
    root = path.expanduser()
    where = f"folder:{path}"
    if not root.is_dir():
        beside = [p.name for p in root.parent.glob("*/")] if root.parent.is_dir() else []
        raise DataError(f"{where}: there is no such folder{near_miss(root.name, beside)}")
    root = root.resolve()
    classes, parts = _layout(where, root)
    junk: list[str] = []
    wrong: list[str] = []
    found = {}
    for split, part in parts.items():
        listed = [_images(root, part / name, junk, wrong) for name in classes]
        label = np.repeat(np.arange(len(classes), dtype=np.int32), [len(files) for files in listed])
        names = tuple(str(file.relative_to(root)) for files in listed for file in files)
        found[split] = Labelled(names, label)
    return Listing(where, root, classes, found, tuple(junk), tuple(wrong))


def labelled(listed: Listing, form: Form, most: int | None) -> Dataset:
    """The data set of image files; `form` and `most` as in `folder`."""
    where, root, classes, parts, *_ = listed
    first = parts["train"].files[0]
    with no_bombs():
        pixels = decode(where, first, f"{root}/{first}", form)
    size: Size = (pixels.shape[0], pixels.shape[1], pixels.shape[2])
    hold = most is None or sum(len(p.files) for p in parts.values()) * pixels.nbytes <= most

    def split(*names: str) -> Split:
        own = [parts[name] for name in names if name in parts]
        files = tuple(file for part in own for file in part.files)
        image = FolderImages(np.arange(len(files)), size, where, root, files, form)
        return Split(image[:] if hold else image, np.concatenate([part.label for part in own]))

    test = split("test") if "test" in parts else None
    given = len(parts["validation"].files) if "validation" in parts else 0
    return dataset(where, split("train", "validation"), test, classes, given)


def image_files(path: Path) -> list[Path]:
    """The image files below a folder, by name; what is no image is passed over.

    Raises:
        DataError: there is none.
    """
    hidden = lambda file: any(  # noqa: E731
        part.startswith(".") or part in JUNK_FOLDERS for part in file.relative_to(path).parts
    )
    files = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in FORMATS and not hidden(p)]
    if not files:
        raise DataError(f"{path}: there is no image file in this folder")
    return files


@functools.cache  # once for each folder, however often it is read
def _passed_over(where: str, junk: tuple[str, ...]) -> None:
    more = f" and {len(junk) - 3} more" if len(junk) > 3 else ""
    log.warning("%s: passed over what is no image: %s%s", where, ", ".join(junk[:3]), more)


def _odd(where: str, name: str, shape: tuple[int, ...], first: str, size: tuple[int, ...]) -> str:
    sizes = ["x".join(map(str, each)) for each in (size, shape)]
    return (
        f"{where}: {name} is {sizes[1]} (height x width x channels), but {first} is {sizes[0]}; "
        f"{ONE_SIZE}"
    )


def _visible(folder: Path) -> list[Path]:
    every = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    return [p for p in every if p.name not in JUNK_FOLDERS]


def _layout(where: str, root: Path) -> tuple[list[str], dict[str, Path]]:
    """Class names, and the folder of each split that holds them."""
    entries = _visible(root)
    names = [p.name for p in entries if p.is_dir()]
    if loose := [p.name for p in entries if p.is_file() and p.suffix.lower() in FORMATS]:
        raise DataError(f"{where}: {loose[0]} must be in a class folder, CLASS/{loose[0]}")
    if "train" not in names:
        return _classes(where, root, root), {"train": root}
    if other := sorted(set(names) - {*SPLITS}):
        raise DataError(
            f"{where}: only validation/ and test/ may stand beside train/ (got {other[0]}/)"
        )
    parts = {name: root / name for name in SPLITS if name in names}
    classes = _classes(where, root, parts["train"])
    for name, part in parts.items():
        if differ := sorted(set(classes) ^ set(_classes(where, root, part))):
            raise DataError(
                f"{where}: train/ and {name}/ must have the same classes; {differ[0]!r} is in one "
                "of them only"
            )
    return classes, parts


def _classes(where: str, root: Path, part: Path) -> list[str]:
    names = [p.name for p in _visible(part) if p.is_dir()]
    if len(names) < 2:
        got = f"only {names[0]!r}" if names else "none"
        deeper = len(names) == 1 and [p.name for p in _visible(part / names[0]) if p.is_dir()]
        hint = f"; did you mean {f'{where}/{names[0]}'!r}?" if deeper and part == root else ""
        raise DataError(f"{where}: {part} must have two or more class folders (got {got}){hint}")
    if odd := [n for n in names if not n.isprintable()]:
        raise DataError(f"{where}: names of classes must be printable (got {odd[0]!r})")
    return names


def _images(root: Path, folder: Path, junk: list[str], wrong: list[str]) -> list[Path]:
    """Image files of one class, sorted by name; what is none is added to `junk` or `wrong`."""
    files = []
    for file in _visible(folder):
        name = file.relative_to(root)
        if file.suffix.lower() in JUNK and file.is_file():
            junk.append(str(name))
        elif not file.resolve().is_relative_to(root):
            wrong.append(f"{name} is a link to a file outside the folder")
        elif not file.is_file() or file.suffix.lower() not in FORMATS:
            kinds = one_of("*" + suffix for suffix in FORMATS)
            wrong.append(f"a class folder must hold only {kinds} (got {name})")
        else:
            files.append(file)
    if not files and not wrong:
        wrong.append(f"class folder {folder.relative_to(root)} is empty")
    return files
