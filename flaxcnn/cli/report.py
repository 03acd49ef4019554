"""`flaxcnn report`, and the page written after every training, study and search."""

from __future__ import annotations

import re
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flaxcnn.activity import doing
from flaxcnn.cli import options
from flaxcnn.cli.output import command, emit_json, note, say
from flaxcnn.errors import ConfigError
from flaxcnn.reports.tensorboard import convert, require

if TYPE_CHECKING:
    from flaxcnn.data.arrays import Dataset


@command
def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN|STUDY|SEARCH...",
            help="Run, study and search directories. Several are compared side by side.",
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Where to write (default: report.html in the directory, of several in this one).",
        ),
    ] = None,
    tensorboard: Annotated[
        bool,
        typer.Option(
            "--tensorboard", help="Also write event files to tensorboard/ in each directory."
        ),
    ] = False,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: options.Json = False,
) -> None:
    """Write tables and figures of one or several runs, studies or searches to one HTML file.

    \b
    Examples:
      flaxcnn report runs/digits/quickstart/20261120-101500-seed0 --open
      flaxcnn report runs/study-a --output study-a.html
      flaxcnn report runs/study-a --tensorboard
      flaxcnn report runs/mnist-ladder/model9/* runs/mnist-ladder/model10/* --output models.html
    """
    if output is not None and output.is_dir():
        raise ConfigError(f"--output: {output} is a folder; give a file, such as report.html")
    if tensorboard:
        require("--tensorboard")
    from flaxcnn.api.report import write

    target, made = write(paths, output)
    events = [convert(path) for path in paths] if tensorboard else []
    for text in made.warnings:
        note(text)
    text = made.text
    if (sys.stderr if as_json else sys.stdout).isatty():
        text = re.sub(r"\*\S+", "\x1b[31m\\g<0>\x1b[0m", text)  # mistakes in red
    say(f"{text}\n\nreport {target}", as_json)
    for folder in events:
        say(f"events {folder}", as_json)
    if open_it and not webbrowser.open(target.as_uri()):
        note(f"--open: no browser is available; open {target}")
    if as_json:
        emit_json({
            "report": str(target), "bytes": len(made.html.encode()),
            "pictures": list(made.svgs), "warnings": made.warnings,
            "tensorboard": [str(folder) for folder in events],
        })  # fmt: skip


def report_after(path: Path, dataset: Dataset | None = None) -> Path | None:
    """Write the page of a finished run, study or search; an error here is only a warning."""
    try:
        with doing("writing the report"):
            from flaxcnn.reports.report import write

            return write([path], dataset=dataset)[0]
    except Exception as error:
        note(f"no report was written ({type(error).__name__}: {error}); try again with "
             f"`flaxcnn report {path}`")  # fmt: skip
        return None
