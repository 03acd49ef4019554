"""Image files decoded to pixels of one form; what cannot be read faithfully is an error."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from flaxcnn.data.resize import Draws, fit
from flaxcnn.errors import DataError, first_line, one_of
from flaxcnn.limits import open_regular
from flaxcnn.recipe.data import FILES, Channels
from flaxcnn.recipe.resize import Resize

MAX_PIXELS = 64 * 2**20  # of one image, by its header: a few KB of PNG can expand to gigabytes
FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF",
}  # fmt: skip
READ = tuple(dict.fromkeys(FORMATS.values()))
ONE_SIZE = (
    "all images must have one size; -s resize.height=64 -s resize.width=64 brings them to one"
)
ORIENTATION = 0x0112  # EXIF's tag; 1 is upright
# PIL's mode -> the mode that an image is decoded to
MODES = {"1": "L", "L": "L", "LA": "L", "P": "RGB", "PA": "RGB", "RGB": "RGB", "RGBA": "RGB"}
COUNT = {"L": 1, "RGB": 3}
Size = tuple[int, int, int]  # (H, W, C)


class Form(NamedTuple):
    """What images of many forms are brought to.

    With `channels="auto"` grey images become colour where the first image is; a colour image among
    grey ones is an error.
    """

    resize: Resize | None = None
    channels: Channels = "auto"


def decode(
    where: str, name: str, file: str | Path | IO[bytes], form: Form = Form(),  # noqa: B008
    like: Size | None = None, draws: Draws | None = None, row: int = 0,
) -> np.ndarray:  # fmt: skip
    """Decode one image -> uint8 [H, W, C], C 1 or 3.

    EXIF orientation is applied, transparency laid on white, black-and-white becomes grey, a palette
    RGB; of an animation, the first frame is taken.

    Args:
        where: what it is part of, for messages.
        name: of the image, for messages.
        file: a path, whose extension must be that of its format, or an open file.
        form: as which it is wanted.
        like: (H, W, C) of the first image.
        draws: of random crops; None: as for evaluation.
        row: its number, for these draws.

    Raises:
        DataError: it is damaged, misnamed, of another mode than those or larger than 64 megapixels.
    """
    try:
        with _opened(file) as opened, Image.open(opened, formats=READ) as image:
            _check_header(where, name, image, not isinstance(file, str | Path))
            image.load()
            mode = _mode(where, name, image, form, like)
            upright: Image.Image = image
            # Each of these would copy an image even where nothing changes
            if image.mode.endswith("A") or "transparency" in image.info:
                upright = _on_white(image)
            if image.getexif().get(ORIENTATION, 1) != 1:
                upright = ImageOps.exif_transpose(upright)
            if upright.mode != mode:
                upright = upright.convert(mode)
            if form.resize is not None:
                upright = fit(upright, form.resize, draws, row)
            pixels = np.asarray(upright)
    except DataError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(_too_large(where, name)) from None
    except Exception as error:  # damaged files raise anything: SyntaxError, struct.error, ...
        why = f"is damaged or cut short ({first_line(error)})"
        if isinstance(error, UnidentifiedImageError):  # says <_io.BufferedReader name=3>
            why = f"cannot be read as {one_of(READ)} (it begins as no such file does)"
        many = f"; `flaxcnn data check {where}` lists all such" if where.startswith(FILES) else ""
        raise DataError(f"{where}: {name} {why}{many}") from None
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _opened(file: str | Path | IO[bytes]) -> contextlib.AbstractContextManager[IO[bytes]]:
    return open_regular(file) if isinstance(file, str | Path) else contextlib.nullcontext(file)


@contextlib.contextmanager
def no_bombs() -> Iterator[None]:
    """Make Pillow's warning of too many pixels an error, once for many files, since it is slow."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _mode(where: str, name: str, image: Image.Image, form: Form, like: Size | None) -> str:
    """L or RGB, as which an image is wanted."""
    if form.channels != "auto":
        return {"rgb": "RGB", "grey": "L"}[form.channels]
    own = MODES[image.mode]
    if like is None or like[2] == COUNT[own]:
        return own
    if like[2] == COUNT["L"]:
        raise DataError(
            f"{where}: {name} is a colour image, but the first one is grey; bring all to one with "
            "-s channels=rgb or -s channels=grey"
        )
    return "RGB"


def _on_white(image: Image.Image) -> Image.Image:
    clear = image.convert("RGBA")
    white = Image.new("RGBA", clear.size, "white")
    white.alpha_composite(clear)
    white.info = image.info  # EXIF orientation is read from there
    return white


def _too_large(where: str, name: str) -> str:
    return f"{where}: {name} has more than the limit of {MAX_PIXELS} pixels"


def _check_header(where: str, name: str, image: Image.Image, unnamed: bool) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise DataError(_too_large(where, name))
    if not unnamed and FORMATS[os.path.splitext(name)[1].lower()] != image.format:
        raise DataError(f"{where}: {name} is a {image.format} file and needs its own extension")
    # PIL silently cuts 16-bit RGB down to 8 bits; only the decoder's raw mode shows it
    deep = image.format == "PNG" and any(
        "16" in str(tile[3]) for tile in getattr(image, "tile", ())
    )
    if image.mode not in MODES or deep:
        kind = f"mode {image.mode}{', 16 bits' if deep else ''}"
        raise DataError(f"{where}: {name} has {kind}; convert it to 8-bit grey or RGB")


def read_for(
    path: Path, shape: tuple[int, ...], resize: bool, by: Resize | None = None
) -> np.ndarray:
    """Read one image file for a model -> uint8 [H, W, C] of `shape`.

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
    height, width, channels = shape
    if channels not in (1, 3):
        raise DataError(
            f"{where}: image files have 1 or 3 channels, but the model takes {channels}"
        )
    # Before they are resized, as in training
    form = Form(by, "grey" if channels == 1 else "rgb")
    with no_bombs():
        pixels = decode("image", str(path), path, form)
    if pixels.shape[:2] != (height, width):
        if not resize:
            raise DataError(
                f"{where}: must be {height}x{width} (got {pixels.shape[0]}x{pixels.shape[1]}); "
                "--resize scales it"
            )
        image = Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        pixels = np.asarray(image).reshape(shape)
    return pixels
