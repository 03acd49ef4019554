"""The `flaxcnn` command. Nothing here, nor any --help, imports jax."""

from __future__ import annotations

import typer

import flaxcnn
from flaxcnn.cli import data, doctor, experiments, runs, train

app = typer.Typer(
    name="flaxcnn",
    help="Train CNN image classifiers in JAX and Flax, and know what the result is worth.",
    epilog="Start with `flaxcnn train`: it needs no data and takes seconds.",
    no_args_is_help=True,
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
app.command()(runs.evaluate)
app.command()(runs.predict)
app.add_typer(experiments.app, name="experiments")
app.add_typer(data.app, name="data")
app.command()(doctor.doctor)


def main() -> None:
    """Entry point of the console script."""
    app()
