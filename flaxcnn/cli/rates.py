"""`flaxcnn lr-range`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flaxcnn.activity import doing
from flaxcnn.cli import options
from flaxcnn.cli.output import command, emit_json, quiet, say, table
from flaxcnn.cli.progress import progress
from flaxcnn.recipe import catalog
from flaxcnn.records.files import check_suffix
from flaxcnn.records.format import count_text


@command
def lr_range(
    experiment: options.Experiment = catalog.DEFAULT_EXPERIMENT,
    assignments: options.Assignments = None,
    config_file: options.ConfigFile = None,
    low: Annotated[float, typer.Option("--low", help="Learning rate of the first update.")] = 1e-6,
    high: Annotated[float, typer.Option("--high", help="Learning rate of the last update.")] = 10.0,
    steps: Annotated[int, typer.Option("--steps", help="Number of updates.")] = 200,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Draw the losses: .png, .svg or .pdf."),
    ] = None,
    no_cache: options.NoCache = False,
    as_json: options.Json = False,
) -> None:
    """Find a learning rate to begin with: a few updates, each at a larger rate.

    \b
    Examples:
      flaxcnn lr-range
      flaxcnn lr-range mnist-ladder/model10 -s optimizer=sgd --low 0.001 --output rates.png
    """
    from flaxcnn.reports.rates import draw

    config, _ = catalog.resolve(
        catalog.find(experiment), assignments=assignments or [], config_file=config_file
    )
    if output is not None:
        check_suffix("--output", output, ".png", ".svg", ".pdf")
    from flaxcnn.data.datasets import load_for

    quiet()
    with progress(as_json, lines=False):
        with doing(f"reading {config.dataset}"):
            dataset = load_for(config)
        with doing("starting JAX"):
            from flaxcnn.backend import prepare
            from flaxcnn.engine.range_test import range_test

            prepare(cache=not no_cache)
        with doing(f"training {count_text(steps, 'update')}"):
            found = range_test(config, dataset, low, high, steps)
    if output is not None:
        draw(found, output)
    if as_json:
        emit_json(found.to_dict())
        return
    table(found.table())
    say("\n" + found.sentence)
    if output is not None:
        say(f"picture {output}")
