"""The `flaxcnn` command. Nothing here, nor any --help, imports jax."""

from __future__ import annotations

import os
import sys
import threading
import time

import typer

import flaxcnn
from flaxcnn.cli import (
    bench,
    check,
    compare,
    data,
    doctor,
    experiments,
    figures,
    index,
    power,
    processes,
    rates,
    report,
    runs,
    search,
    study,
    train,
)
from flaxcnn.cli.options import settings_by_group
from flaxcnn.cli.output import leaves_at_once, print_error
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


app.command(
    epilog=settings_by_group(), short_help="Train a model, keep its best epoch, test it once."
)(train.train)
app.command(short_help="Train in several processes on this machine.")(processes.launch)
app.command(short_help="Train with many seeds: how sure is the result?")(study.study)
app.command(short_help="Find the best settings on folds of the training rows.")(search.search)
app.command(short_help="Find a learning rate to begin with.")(rates.lr_range)
app.command(short_help="Test which recipes differ by more than chance.")(compare.compare)
app.command(short_help="Plan a study: how many seeds find a difference?")(power.power)
app.command(short_help="Train a record again, and compare the bits.")(compare.reproduce)
app.command(short_help="Write a page of runs, studies or searches.")(report.report)
app.command(short_help="Draw figures of runs and studies for a paper.")(figures.figures)
app.command(short_help="Evaluate the kept weights of a run.")(runs.evaluate)
app.command(short_help="Classify images with a run.")(runs.predict)
app.command(short_help="Write a trained network as ONNX, StableHLO, safetensors.")(runs.export)
app.add_typer(
    experiments.app, name="experiments", short_help="List, show, run and tabulate experiments."
)
app.add_typer(data.app, name="data")
app.add_typer(index.app, name="runs", short_help="List, show and delete runs, studies, searches.")
app.command(short_help="Measure images per second.")(bench.bench)
app.command(short_help="Try out on a recipe what is promised of every one.")(check.check)
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
    if arguments is None and not leaves_at_once():  # one of several waits for the others
        _end_for_certain(code if isinstance(code, int) else 0)
    sys.exit(code)


END_SECONDS = 5.0  # that threads of libraries may take to end after the last line


def _end_for_certain(code: int) -> None:
    """End the process soon, though a thread waits: for a disk that is gone, Orbax's do for long."""

    def end() -> None:
        time.sleep(END_SECONDS)
        os._exit(code)

    threading.Thread(target=end, daemon=True).start()
