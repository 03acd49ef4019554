"""`flaxcnn.figures`: pictures of runs and studies for a paper."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from flaxcnn.activity import doing
from flaxcnn.api.report import compared
from flaxcnn.errors import ConfigError, WriteError, check_choice
from flaxcnn.records.read import Record, read_runs
from flaxcnn.reports import paper
from flaxcnn.reports.print_style import write_picture
from flaxcnn.reports.sides import sides_of

log = logging.getLogger(__name__)

Format = Literal["pdf", "svg", "png"]
Font = Literal["sans", "serif"]
INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}  # TeX's points
NARROWEST, WIDEST = 1.5, 20.0


def figures(
    *runs: Path | str | Record, format: Format = "pdf", width: str | float = "3.25in",
    font: Font = "sans", output: Path | str = "figures",
) -> list[Path]:  # fmt: skip
    """Draw figures for a paper: curves, seeds, differences, parameters, confusion.

    >>> from flaxcnn import study
    >>> two = study(seeds=2, epochs=1, study_dir="runs/two", verbose=False)
    >>> [file.name for file in figures(two, format="svg", output="paper")]
    ['accuracy.svg', 'loss.svg', 'seeds.svg']

    Args:
        runs: directories, or what `flaxcnn.train` and `study` returned. Several are compared with
            the first.
        format: "pdf", "svg" or "png" (300 dpi).
        width: of a column: inches, or "3.25in", "8.5cm", "85mm", "241pt".
        font: "sans", or "serif" to go with Times.
        output: the folder to write to.

    Returns:
        The files. Where several recipes cannot be compared, the figure of differences is missing,
        and why is logged.

    Raises:
        CheckpointError: a folder holds nothing finished, or a search.
        ConfigError: no folder, or a format, font, width or output that is none.
        WriteError: the files cannot be written.
    """
    if not runs:
        raise ConfigError("figures: got nothing to draw; name runs or studies")
    paths = [run.path if isinstance(run, Record) else Path(run) for run in runs]
    text = width if isinstance(width, str) else f"{width:g}in"
    drawn = draw(paths, format, text, font, Path(output), "{}")
    if drawn.missing:
        log.warning("no figure of differences: %s", drawn.missing)
    return drawn.files


@dataclass(frozen=True)
class Drawn:
    """Files that were written."""

    files: list[Path]
    inches: float
    missing: str  # why there is no figure of differences


def draw(
    paths: Sequence[Path], kind: str, width: str, font: str, output: Path, named: str
) -> Drawn:
    """The same of directories; errors name an argument as `named` says, such as "--{}"."""
    check_choice(named.format("format"), kind, get_args(Format))
    check_choice(named.format("font"), font, get_args(Font))
    inches = _inches(width, named.format("width"))
    folder = output.expanduser()
    if folder.suffix and not folder.is_dir():
        raise ConfigError(
            f"{named.format('output')} takes a folder, since there are several figures "
            f"(got {str(folder)!r})"
        )
    with doing("drawing"):
        records = [read_runs(path, "figures") for path in paths]
        sides = [side for side in sides_of(records) if side.rows]
        found = compared(paths) if len(sides) > 1 else None
        made = paper.figures(sides, found if isinstance(found, dict) else None, inches, font)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"{named.format('output')} {folder}: {error.strerror}") from error
        files = [folder / f"{name}.{kind}" for name in made]
        for path, figure in zip(files, made.values(), strict=True):
            write_picture(path, figure, font)
    return Drawn(files, inches, found if isinstance(found, str) else "")


def _inches(text: str, name: str) -> float:
    """A width with its unit, in inches.

    Raises:
        ConfigError: no number, another unit, or no width of a page.
    """
    match = re.fullmatch(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)", text.strip().lower())
    if not match or match[2] not in INCHES:
        raise ConfigError(f"{name} takes a number with {', '.join(INCHES)} (got {text!r})")
    inches = float(match[1]) * INCHES[match[2]]
    if not NARROWEST <= inches <= WIDEST:
        raise ConfigError(
            f"{name} must be from {NARROWEST:g} to {WIDEST:g} inches (got {text!r}, {inches:.2f})"
        )
    return inches
