"""Class folders of PNG and JPEG files. What cannot be read as it was meant is refused, by name."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from flaxcnn.data.arrays import Dataset, Split, dataset, first_line
from flaxcnn.errors import DataError

MAX_PIXELS = 64 * 2**20  # of one image, from its header: a few KB of PNG can unfold to gigabytes
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}  # PIL's mode -> the mode we decode to


def folder(path: Path) -> Dataset:
    """PATH/<class>/*.png, or PATH/train/<class>/*.png with PATH/test/<class>/*.png.

    Classes and files are taken in the order of their names; names that start with a dot are
    ignored. Black-and-white images become grey, palettes RGB; EXIF orientation is applied. Without
    test/, a fixed stratified fifth of the rows is held out for test.

    Raises:
        DataError: fewer than two classes, a class without images, classes that differ between train
            and test, anything but 8-bit grey or RGB images of one size, a file that is damaged,
            misnamed, larger than 64 megapixels or outside PATH.
    """
    root = path.expanduser()
    where = f"folder:{path}"
    if not root.is_dir():
        raise DataError(f"{where}: there is no such folder")
    root = root.resolve()
    classes, parts = _layout(where, root)
    found: list[Split | None] = [None, None]
    first: _Read | None = None
    for i, part in enumerate(parts):
        files = [(f, number) for number, name in enumerate(classes)
                 for f in _images(where, root, part / name)]  # fmt: skip
        image = np.empty((0, 0, 0, 0), np.uint8)
        for row, (file, _) in enumerate(files):
            read = _Read(file, read_image(where, root, file))
            if first is None:
                first = read
            if row == 0:
                image = np.empty((len(files), *first.pixels.shape), np.uint8)
            if read.pixels.shape != first.pixels.shape:
                raise DataError(_odd(where, root, first, read))
            image[row] = read.pixels
        found[i] = Split(image, np.array([number for _, number in files], np.int32))
    train, test = found
    assert train is not None
    return dataset(where, train, test, classes)


class _Read(NamedTuple):
    file: Path
    pixels: np.ndarray  # uint8 [H, W, C]


def _odd(where: str, root: Path, first: _Read, read: _Read) -> str:
    sizes = ["x".join(map(str, r.pixels.shape)) for r in (first, read)]
    return (
        f"{where}: {read.file.relative_to(root)} is {sizes[1]} (height x width x channels), but "
        f"{first.file.relative_to(root)} is {sizes[0]}; allowed is one size for all images"
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def _layout(where: str, root: Path) -> tuple[list[str], list[Path]]:
    """Class names and the folders that hold them: one, or train and test."""
    entries = _visible(root)
    names = [p.name for p in entries if p.is_dir()]
    if loose := [p.name for p in entries if p.is_file() and p.suffix.lower() in FORMATS]:
        raise DataError(f"{where}: {loose[0]} is in no class folder; allowed is CLASS/{loose[0]}")
    if "train" not in names:
        return _classes(where, root, root), [root]
    if other := sorted(set(names) - {"train", "test"}):
        raise DataError(
            f"{where}: got {other[0]}/ beside train/; allowed beside it is test/ "
            "(validation rows are held out of train)"
        )
    parts = [root / name for name in names[::-1]]  # train, then test where there is one
    classes = _classes(where, root, parts[0])
    for part in parts[1:]:
        if differ := sorted(set(classes) ^ set(_classes(where, root, part))):
            raise DataError(
                f"{where}: class {differ[0]!r} is in only one of train/ and test/; "
                "allowed are the same classes in both"
            )
    return classes, parts


def _classes(where: str, root: Path, part: Path) -> list[str]:
    names = [p.name for p in _visible(part) if p.is_dir()]
    if len(names) < 2:
        found = f"one class only, {names[0]!r}," if names else "no class folder"
        raise DataError(f"{where}: got {found} in {part}; allowed are two or more")
    if odd := [n for n in names if not n.isprintable()]:
        raise DataError(f"{where}: got class {odd[0]!r}; allowed are printable names")
    return names


def _images(where: str, root: Path, folder: Path) -> list[Path]:
    """Image files of one class, sorted by name."""
    files = _visible(folder)
    for file in files:
        if not file.resolve().is_relative_to(root):
            raise DataError(
                f"{where}: {file.relative_to(root)} is a link to a place outside; "
                "allowed are files inside the folder"
            )
        if not file.is_file() or file.suffix.lower() not in FORMATS:
            raise DataError(
                f"{where}: got {file.relative_to(root)}; allowed in a class folder are files named "
                f"{', '.join('*' + suffix for suffix in FORMATS)}"
            )
    if not files:
        raise DataError(f"{where}: class folder {folder.relative_to(root)} is empty")
    return files


def read_image(where: str, root: Path, file: Path) -> np.ndarray:
    """uint8 [H, W, C] of one file; C is 1 or 3."""
    name = file.relative_to(root)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                _check_header(where, name, image)
                image.load()
                upright = ImageOps.exif_transpose(image)
                pixels = np.asarray(upright.convert(MODES[image.mode]))
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(_too_large(where, name)) from None
    except Exception as error:  # damaged files raise anything: SyntaxError, struct.error, ...
        raise DataError(
            f"{where}: {name} cannot be read as PNG or JPEG ({first_line(error)})"
        ) from None
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _too_large(where: str, name: Path) -> str:
    return f"{where}: {name} has more than {MAX_PIXELS} pixels, the most that is allowed"


def _check_header(where: str, name: Path, image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(_too_large(where, name))
    if FORMATS[name.suffix.lower()] != image.format:
        raise DataError(f"{where}: {name} is a {image.format} file; allowed is its own extension")
    # PIL cuts 16-bit RGB down to 8 without a word; only the decoder's raw mode tells
    deep = any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if image.mode not in MODES or deep or "transparency" in image.info:
        kind = f"mode {image.mode}"
        kind += ", 16 bits" if deep else ", transparent" if "transparency" in image.info else ""
        raise DataError(
            f"{where}: {name} has {kind}; allowed are 8-bit grey, RGB or palette images without "
            "transparency: convert it"
        )


def read_for(path: Path, shape: tuple[int, ...], resize: bool) -> np.ndarray:
    """One PNG or JPEG file as a model wants it -> uint8 [H, W, C] of `shape`.

    Colour becomes grey (and grey colour) where the model's channels ask for it.

    Raises:
        DataError: no such file, not readable, or of another size without `resize`.
    """
    where = f"image {path}"
    if not path.is_file():
        raise DataError(f"{where}: there is no such file")
    if path.suffix.lower() not in FORMATS:
        names = ", ".join(f"*{suffix}" for suffix in FORMATS)
        raise DataError(f"{where}: got {path.suffix or 'no'} extension; allowed are {names}")
    pixels = read_image(where, path.parent, path)
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    height, width, channels = shape
    if (image.height, image.width) != (height, width):
        if not resize:
            raise DataError(
                f"{where}: is {image.height}x{image.width}; allowed is {height}x{width}, "
                "the model's size; --resize scales it"
            )
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    if channels not in (1, 3):
        raise DataError(f"{where}: the model takes {channels} channels; image files have 1 or 3")
    found = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return found[..., None] if channels == 1 else found
