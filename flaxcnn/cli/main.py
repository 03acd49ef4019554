"""The `flaxcnn` command. Nothing here, nor any --help, imports jax."""

from __future__ import annotations

import os
import sys

import typer

import flaxcnn
from flaxcnn.cli import (
    bench,
    compare,
    data,
    doctor,
    experiments,
    processes,
    runs,
    search,
    study,
    train,
)
from flaxcnn.cli import report as reports
from flaxcnn.cli.output import report
from flaxcnn.errors import ConfigError

app = typer.Typer(
    name="flaxcnn",
    help="Train CNN image classifiers in JAX and Flax, and know what the result is worth.",
    epilog="Start with `flaxcnn train`: it needs no data and takes seconds.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"flaxcnn {flaxcnn.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    pass


app.command()(train.train)
app.command()(processes.launch)
app.command()(study.study)
app.command()(search.search)
app.command()(compare.compare)
app.command()(compare.reproduce)
app.command()(reports.report)
app.command()(runs.evaluate)
app.command()(runs.predict)
app.add_typer(experiments.app, name="experiments")
app.add_typer(data.app, name="data")
app.command()(bench.bench)
app.command()(doctor.doctor)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script; `arguments` are those of the process if not given."""
    # A program from the compilation cache makes XLA log two errors that are none: it takes tuning
    # hints for features of the processor (jax issue 38445). Read when jaxlib is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if os.environ.get("FLAXCNN_DEBUG") else "3")
    words = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = app(words, prog_name="flaxcnn", standalone_mode=False)
    except Exception as error:
        # What typer says of a wrong command line; the class is click's or its own, by version
        if not hasattr(error, "format_message"):
            raise
        report(error.format_message(), ConfigError.exit_code, "--json" in words)
        code = ConfigError.exit_code
    sys.exit(code)
