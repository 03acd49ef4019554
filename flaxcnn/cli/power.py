"""`flaxcnn power`: how many seeds a study needs, before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flaxcnn.cli import options
from flaxcnn.cli.output import command, emit_json, hanging, say, table


@command
def power(
    difference: Annotated[
        float | None,
        typer.Option("--difference", help="To be found, as a share (0.003 is 0.3 points)."),
    ] = None,
    sd: Annotated[
        float | None, typer.Option("--sd", help="Standard deviation of the metric over seeds.")
    ] = None,
    pilot: Annotated[
        Path | None,
        typer.Option("--pilot", metavar="STUDY", help="Take the standard deviation from a study."),
    ] = None,
    metric: Annotated[
        str, typer.Option("--metric", help="Metric of the pilot, such as val_accuracy.")
    ] = "test_accuracy",
    correlation: Annotated[
        float | None,
        typer.Option(
            "--paired",
            metavar="CORRELATION",
            help="Plan a paired test; the correlation of both sides at the same seed.",
        ),
    ] = None,
    chance: Annotated[
        float, typer.Option("--power", help="Share of studies that shall find the difference.")
    ] = 0.8,
    alpha: Annotated[float, typer.Option("--alpha", help="Level of the two-sided test.")] = 0.05,
    comparisons: Annotated[
        int, typer.Option("--comparisons", help="Recipes to be compared with the first one.")
    ] = 1,
    as_json: options.Json = False,
) -> None:
    """Plan a study: how many seeds find a difference, and what fewer or more would find.

    \b
    Examples:
      flaxcnn power --sd 0.0045 --difference 0.003
      flaxcnn power --pilot runs/study-a --difference 0.003
      flaxcnn power --pilot runs/study-a --difference 0.003 --paired 0.5 --comparisons 3
    """
    from flaxcnn.studies.power import power

    plan = power(
        difference, sd, pilot=pilot, metric=metric, correlation=correlation, power=chance,
        alpha=alpha, comparisons=comparisons,
    )  # fmt: skip
    if as_json:
        emit_json(plan.to_dict())
        return
    for text in plan.sentences():
        say(hanging("", text))
    say("")
    table(plan.table().lines())
