"""`flaxcnn report`, and the page that ends every training and study."""

from __future__ import annotations

import re
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flaxcnn.cli.options import JSON
from flaxcnn.cli.output import command, emit_json, note, say
from flaxcnn.errors import ConfigError
from flaxcnn.report.tensorboard import convert, require

if TYPE_CHECKING:
    from flaxcnn.data.arrays import Dataset


@command
def report(
    paths: list[Path] = typer.Argument(
        ..., metavar="RUN|STUDY|SEARCH...",
        help="Run, study and search directories; several are put side by side.",
    ),
    output: Path = typer.Option(
        None, "--output", metavar="FILE",
        help="The page; default report.html in the folder, or here where there are several.",
    ),
    tensorboard: bool = typer.Option(
        False, "--tensorboard", help="Write event files too, to tensorboard/ in each folder."
    ),
    open_it: bool = typer.Option(False, "--open", help="Show it in the browser."),
    as_json: bool = JSON,
) -> None:  # fmt: skip
    """Write tables and pictures of a run or a study, or of several, as one HTML file.

    \b
    Examples:
      flaxcnn report runs/digits/quickstart/20261120-101500-seed0 --open
      flaxcnn report runs/study-a --output study-a.html
      flaxcnn report runs/study-a --tensorboard
      flaxcnn report runs/mnist-ladder/model9/* runs/mnist-ladder/model10/* --output models.html
    """
    if output is not None and output.is_dir():
        raise ConfigError(f"--output: {output} is a folder; allowed is a file, such as report.html")
    if tensorboard:
        require("--tensorboard")
    from flaxcnn.report.report import write

    target, made = write(paths, output)
    events = [convert(path) for path in paths] if tensorboard else []
    for text in made.warnings:
        note(text)
    text = made.text
    if (sys.stderr if as_json else sys.stdout).isatty():
        text = re.sub(r"\*\S+", "\x1b[31m\\g<0>\x1b[0m", text)  # an error, red besides its sign
    say(f"{text}\n\nreport {target}", as_json)
    for folder in events:
        say(f"events {folder}", as_json)
    if open_it and not webbrowser.open(target.as_uri()):
        note(f"--open: no browser was found; open {target}")
    if as_json:
        emit_json({
            "report": str(target), "bytes": len(made.html.encode()),
            "pictures": list(made.svgs), "warnings": made.warnings,
            "tensorboard": [str(folder) for folder in events],
        })  # fmt: skip


def report_after(path: Path, dataset: Dataset | None = None) -> Path | None:
    """The page of what has just ended well. Whatever goes wrong here, that stays as it is."""
    try:
        from flaxcnn.report.report import write

        return write([path], dataset=dataset)[0]
    except Exception as error:
        note(f"no report was written ({type(error).__name__}: {error}); `flaxcnn report {path}` "
             "tries again")  # fmt: skip
        return None
