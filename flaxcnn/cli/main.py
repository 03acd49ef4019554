"""The `flaxcnn` command. Nothing here, nor any --help, imports jax."""

from __future__ import annotations

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
    rates,
    report,
    runs,
    search,
    study,
    train,
)
from flaxcnn.cli.options import settings_by_group
from flaxcnn.cli.output import print_error
from flaxcnn.errors import ConfigError

app = typer.Typer(
    name="flaxcnn",
    help="Train CNN image classifiers with JAX and Flax, and measure how sure the result is.",
    epilog="Start with `flaxcnn train`: it downloads nothing and takes seconds.",
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


app.command(epilog=settings_by_group())(train.train)
app.command()(processes.launch)
app.command()(study.study)
app.command()(search.search)
app.command()(rates.lr_range)
app.command()(compare.compare)
app.command()(compare.reproduce)
app.command()(report.report)
app.command()(runs.evaluate)
app.command()(runs.predict)
app.command()(runs.export)
app.add_typer(experiments.app, name="experiments")
app.add_typer(data.app, name="data")
app.command()(bench.bench)
app.command()(doctor.doctor)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script; `arguments` are those of the process if not given."""
    words = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        code = app(words, prog_name="flaxcnn", standalone_mode=False)
    except Exception as error:
        # A usage error; the class is click's or typer's own, depending on the version
        if not hasattr(error, "format_message"):
            raise
        print_error(error.format_message(), ConfigError.exit_code, "--json" in words)
        code = ConfigError.exit_code
    sys.exit(code)
