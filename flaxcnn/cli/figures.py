"""`flaxcnn figures`: pictures of runs and studies for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flaxcnn.cli import options
from flaxcnn.cli.output import command, emit_json, note, say, short


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
    from flaxcnn.api.figures import draw

    drawn = draw(paths, kind, width, font, output or Path("figures"), "--{}")
    if drawn.missing:
        note(f"no figure of differences: {drawn.missing}")
    for path in drawn.files:
        say(str(short(path)), as_json)
    if as_json:
        names = [str(path) for path in drawn.files]
        emit_json({"figures": names, "width": drawn.inches, "font": font})
