"""`flaxcnn figures`: pictures of runs and studies for a paper."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from flaxcnn.activity import doing
from flaxcnn.cli import options
from flaxcnn.cli.output import command, emit_json, note, say, short
from flaxcnn.errors import ConfigError, WriteError, check_choice

FORMATS = ("pdf", "svg", "png")
FONTS = ("sans", "serif")
INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}  # TeX's points
NARROWEST, WIDEST = 1.5, 20.0


@command
def figures(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="STUDY|RUN...", help="Directories; several are compared."),
    ],
    kind: Annotated[str, typer.Option("--format", help="pdf, svg or png (300 dpi).")] = "pdf",
    width: Annotated[
        str, typer.Option("--width", help="Of a column: 3.25in, 8.5cm, 85mm or 241pt.")
    ] = "3.25in",
    font: Annotated[str, typer.Option("--font", help="sans, or serif to go with Times.")] = "sans",
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FOLDER", help="Where to write (default figures/)."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Draw figures for a paper: curves, seeds, differences, parameters, confusion.

    Text stays text in PDF and SVG. The colour-blind can tell the colours apart, and lines differ in
    their dashes too.

    \b
    Examples:
      flaxcnn figures runs/study-a
      flaxcnn figures runs/study-a runs/study-b --width 6.5in --font serif
      flaxcnn figures runs/study-a --format png --output paper/figures
    """
    check_choice("--format", kind, FORMATS)
    check_choice("--font", font, FONTS)
    inches = _inches(width)
    folder = (output or Path("figures")).expanduser()
    if folder.suffix and not folder.is_dir():
        raise ConfigError(
            f"--output takes a folder, since there are several figures (got {str(folder)!r})"
        )
    with doing("drawing"):
        from flaxcnn.api.report import compared
        from flaxcnn.records.read import read_runs
        from flaxcnn.reports.paper import figures as draw
        from flaxcnn.reports.print_style import write_picture
        from flaxcnn.reports.sides import sides_of

        records = [read_runs(path, "figures") for path in paths]
        sides = [side for side in sides_of(records) if side.rows]
        found = compared(paths) if len(sides) > 1 else None
        made = draw(sides, found if isinstance(found, dict) else None, inches, font)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"--output {folder}: {error.strerror}") from error
        files = [folder / f"{name}.{kind}" for name in made]
        for path, figure in zip(files, made.values(), strict=True):
            write_picture(path, figure, font)
    if isinstance(found, str):
        note(f"no figure of differences: {found}")
    for path in files:
        say(str(short(path)), as_json)
    if as_json:
        emit_json({"figures": [str(path) for path in files], "width": inches, "font": font})


def _inches(text: str) -> float:
    """A width with its unit, in inches.

    Raises:
        ConfigError: no number, another unit, or no width of a page.
    """
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)", text.strip().lower())
    if not match or match[2] not in INCHES:
        raise ConfigError(f"--width takes a number with {', '.join(INCHES)} (got {text!r})")
    inches = float(match[1]) * INCHES[match[2]]
    if not NARROWEST <= inches <= WIDEST:
        raise ConfigError(
            f"--width must be from {NARROWEST:g} to {WIDEST:g} inches (got {text!r}, {inches:.2f})"
        )
    return inches
