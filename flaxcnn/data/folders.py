"""Class folders of PNG and JPEG files; a file that cannot be read faithfully is an error."""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from flaxcnn.data.arrays import Dataset, Split, dataset
from flaxcnn.data.images import Images
from flaxcnn.data.resize import Draws, fit
from flaxcnn.errors import DataError, first_line, one_of
from flaxcnn.recipe.resize import Resize

MAX_PIXELS = 64 * 2**20  # of one image, by its header: a few KB of PNG can expand to gigabytes
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
ORIENTATION = 0x0112  # EXIF's tag; 1 is upright
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB"}  # PIL's mode -> the mode we decode to


@dataclass(frozen=True, eq=False)
class FolderImages(Images):
    """Image files of a class folder, decoded on demand."""

    where: str  # folder:PATH, for messages
    root: Path
    files: tuple[str, ...]  # relative to `root`; entry i of `index`
    resize: Resize | None = None

    def read_into(self, pixels: np.ndarray, rows: np.ndarray, draws: Draws | None = None) -> None:
        """Decode rows [n] to `pixels`, uint8 [n, H, W, C].

        Raises:
            DataError: a file is damaged, gone, or not like the first one.
        """
        with _no_bombs():
            for i, row in enumerate(rows):
                name = self.files[self.index[row]]
                image = _decode(self.where, self.root, name, self.resize, draws, row)
                if image.shape != self.size:
                    raise DataError(_odd(self.where, name, image.shape, self.files[0], self.size))
                pixels[i] = image

    def digest(self) -> str:
        """SHA-256 of names, bytes on disk and resizing of the files, in the order of rows."""
        lines = [repr(self.resize)]
        for entry in self.index:
            name = self.files[entry]
            lines.append(f"{name}\0{(self.root / name).stat().st_size}")
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def folder(path: Path, resize: Resize | None = None, most: int | None = None) -> Dataset:
    """PATH/<class>/*.png, or PATH/train/<class>/*.png with PATH/test/<class>/*.png.

    Classes and files are taken in the order of their names; names that start with a dot are
    ignored. Black-and-white images become grey, palettes RGB; EXIF orientation is applied. Without
    test/, a fixed stratified fifth of the rows is held out for test.

    Args:
        path: the folder.
        resize: brings images to one size; None: they must have one already.
        most: bytes of pixels to decode now; a larger set is decoded on demand. None: decode all.

    Raises:
        DataError: fewer than two classes, a class without images, classes that differ between train
            and test, anything but 8-bit grey or RGB images of one size, a file that is damaged,
            misnamed, larger than 64 megapixels or outside PATH. The pixels of files decoded on
            demand are checked when they are read.
    """
    root = path.expanduser()
    where = f"folder:{path}"
    if not root.is_dir():
        raise DataError(f"{where}: there is no such folder")
    root = root.resolve()
    classes, parts = _layout(where, root)
    splits: list[Split | None] = [None, None]
    listed = [[_images(where, root, part / name) for name in classes] for part in parts]
    first = read_image(where, root, str(listed[0][0][0].relative_to(root)), resize)
    size = (first.shape[0], first.shape[1], first.shape[2])
    count = sum(len(files) for part in listed for files in part)
    for i, part in enumerate(listed):
        names = tuple(str(file.relative_to(root)) for files in part for file in files)
        label = np.repeat(np.arange(len(classes), dtype=np.int32), [len(files) for files in part])
        image = FolderImages(np.arange(len(names)), size, where, root, names, resize)
        hold = most is None or count * first.nbytes <= most
        splits[i] = Split(image[:] if hold else image, label)
    train, test = splits
    assert train is not None
    return dataset(where, train, test, classes)


def _odd(where: str, name: str, shape: tuple[int, ...], first: str, size: tuple[int, ...]) -> str:
    sizes = ["x".join(map(str, each)) for each in (size, shape)]
    return (
        f"{where}: {name} is {sizes[1]} (height x width x channels), but {first} is {sizes[0]}; "
        "all images must have one size, or the recipe a resize"
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def _layout(where: str, root: Path) -> tuple[list[str], list[Path]]:
    """Class names and the folders that hold them: one, or train and test."""
    entries = _visible(root)
    names = [p.name for p in entries if p.is_dir()]
    if loose := [p.name for p in entries if p.is_file() and p.suffix.lower() in FORMATS]:
        raise DataError(f"{where}: {loose[0]} must be in a class folder, CLASS/{loose[0]}")
    if "train" not in names:
        return _classes(where, root, root), [root]
    if other := sorted(set(names) - {"train", "test"}):
        raise DataError(
            f"{where}: only test/ may stand beside train/ (got {other[0]}/); validation rows are "
            "held out of train"
        )
    parts = [root / name for name in names[::-1]]  # train, then test where there is one
    classes = _classes(where, root, parts[0])
    for part in parts[1:]:
        if differ := sorted(set(classes) ^ set(_classes(where, root, part))):
            raise DataError(
                f"{where}: train/ and test/ must have the same classes; {differ[0]!r} is in one of "
                "them only"
            )
    return classes, parts


def _classes(where: str, root: Path, part: Path) -> list[str]:
    names = [p.name for p in _visible(part) if p.is_dir()]
    if len(names) < 2:
        got = f"only {names[0]!r}" if names else "none"
        raise DataError(f"{where}: {part} must have two or more class folders (got {got})")
    if odd := [n for n in names if not n.isprintable()]:
        raise DataError(f"{where}: names of classes must be printable (got {odd[0]!r})")
    return names


def _images(where: str, root: Path, folder: Path) -> list[Path]:
    """Image files of one class, sorted by name."""
    files = _visible(folder)
    for file in files:
        if not file.resolve().is_relative_to(root):
            raise DataError(
                f"{where}: {file.relative_to(root)} is a link to a file outside the folder"
            )
        if not file.is_file() or file.suffix.lower() not in FORMATS:
            raise DataError(
                f"{where}: a class folder must hold only "
                f"{one_of('*' + suffix for suffix in FORMATS)} (got {file.relative_to(root)})"
            )
    if not files:
        raise DataError(f"{where}: class folder {folder.relative_to(root)} is empty")
    return files


def read_image(where: str, root: Path, name: str, resize: Resize | None = None) -> np.ndarray:
    """uint8 [H, W, C] of the file `name` in `root`, C 1 or 3; resized as for evaluation."""
    with _no_bombs():
        return _decode(where, root, name, resize, None, 0)


@contextlib.contextmanager
def _no_bombs() -> Iterator[None]:
    """Make Pillow's warning of too many pixels an error, once for many files, since it is slow."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _decode(
    where: str, root: Path, name: str, resize: Resize | None, draws: Draws | None, row: int
) -> np.ndarray:
    try:
        with Image.open(f"{root}/{name}", formats=("PNG", "JPEG")) as image:
            _check_header(where, name, image)
            image.load()
            upright: Image.Image = image
            # Each of the two would copy an image even where nothing changes
            if image.getexif().get(ORIENTATION, 1) != 1:
                upright = ImageOps.exif_transpose(image)
            if image.mode != MODES[image.mode]:
                upright = upright.convert(MODES[image.mode])
            if resize is not None:
                upright = fit(upright, resize, draws, row)
            pixels = np.asarray(upright)
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(_too_large(where, name)) from None
    except Exception as error:  # damaged files raise anything: SyntaxError, struct.error, ...
        raise DataError(
            f"{where}: {name} cannot be read as PNG or JPEG ({first_line(error)})"
        ) from None
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _too_large(where: str, name: str) -> str:
    return f"{where}: {name} has more than the limit of {MAX_PIXELS} pixels"


def _check_header(where: str, name: str, image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(_too_large(where, name))
    if FORMATS[os.path.splitext(name)[1].lower()] != image.format:
        raise DataError(f"{where}: {name} is a {image.format} file and needs its own extension")
    # PIL silently cuts 16-bit RGB down to 8 bits; only the decoder's raw mode shows it
    deep = any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if image.mode not in MODES or deep or "transparency" in image.info:
        kind = f"mode {image.mode}"
        kind += ", 16 bits" if deep else ", transparent" if "transparency" in image.info else ""
        raise DataError(
            f"{where}: {name} has {kind}; convert it to 8-bit grey, RGB or a palette, without "
            "transparency"
        )


def read_for(
    path: Path, shape: tuple[int, ...], resize: bool, by: Resize | None = None
) -> np.ndarray:
    """Read one PNG or JPEG file for a model -> uint8 [H, W, C] of `shape`.

    `by` is the resize of the recipe, applied as for evaluation. Colour becomes grey, and grey
    colour, to match the model's channels.

    Raises:
        DataError: no such file, not readable, or of another size without `resize`.
    """
    where = f"image {path}"
    if not path.is_file():
        raise DataError(f"{where}: there is no such file")
    if path.suffix.lower() not in FORMATS:
        names = one_of(f"*{suffix}" for suffix in FORMATS)
        raise DataError(f"{where}: the name must be {names} (got {path.suffix or 'no'} extension)")
    pixels = read_image(where, path.parent, path.name, by)
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    height, width, channels = shape
    if (image.height, image.width) != (height, width):
        if not resize:
            raise DataError(
                f"{where}: must be {height}x{width} (got {image.height}x{image.width}); --resize "
                "scales it"
            )
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    if channels not in (1, 3):
        raise DataError(
            f"{where}: image files have 1 or 3 channels, but the model takes {channels}"
        )
    pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels[..., None] if channels == 1 else pixels
