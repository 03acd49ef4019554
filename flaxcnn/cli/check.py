"""`flaxcnn check`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer

from flaxcnn.activity import doing
from flaxcnn.cli import options
from flaxcnn.cli.output import command, emit_json, hanging, quiet, say
from flaxcnn.cli.progress import progress
from flaxcnn.recipe import catalog
from flaxcnn.signals import GRACE_SECONDS

if TYPE_CHECKING:
    from flaxcnn.checks.checks import Finding


@command
def check(
    experiment: options.Experiment = catalog.DEFAULT_EXPERIMENT,
    assignments: options.Assignments = None,
    config_file: options.ConfigFile = None,
    grace: Annotated[
        float,
        typer.Option("--grace", help="Seconds between a signal to stop and the end."),
    ] = GRACE_SECONDS,
    no_cache: options.NoCache = False,
    as_json: options.Json = False,
) -> None:
    """Check that a recipe keeps what is promised. Exits with 1 if anything fails.

    Trains it on a few rows of its data, on this machine and the disk of the runs: the same bits
    twice, killed and resumed, alone as in a study, on one device and on two, with a padded batch,
    from a damaged checkpoint; and measures how long a checkpoint takes.

    \b
    Examples:
      flaxcnn check
      flaxcnn check my_models.py:small -s dataset=folder:~/flowers
      flaxcnn check mnist-ladder/model10 -s determinism=exact --grace 10
    """
    config, _ = catalog.resolve(
        catalog.find(experiment), assignments=assignments or [], config_file=config_file
    )
    quiet()
    with progress(as_json, lines=False):
        with doing("starting JAX"):
            from flaxcnn.api import check as api
            from flaxcnn.backend import prepare

            prepare(cache=not no_cache)

        def show(finding: Finding) -> None:
            start = f"{finding.verdict:8} {finding.name:20} {finding.seconds:5.1f} s  "
            say(hanging(start, finding.detail), as_json)

        with doing("training on a few rows"):
            found = api.check(config, grace=grace, on_check=show)
    failed = ", ".join(found.failed)
    sentence = f"not kept: {failed}" if failed else "all that was checked is kept"
    if as_json:
        rows = [dataclasses.asdict(each) for each in found.findings]
        emit_json({"checks": rows, "ok": found.ok, "conclusion": sentence})
    else:
        say(f"\n{sentence}")
    if not found.ok:
        raise typer.Exit(1)
