"""`flaxcnn compare` and `flaxcnn reproduce`: records compared with each other, or run again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flaxcnn.activity import doing
from flaxcnn.cli import options
from flaxcnn.cli.output import command, emit_json, note, quiet, say, table
from flaxcnn.cli.progress import progress
from flaxcnn.errors import check_choice
from flaxcnn.records.files import check_suffix, write_atomic

if TYPE_CHECKING:
    from flaxcnn.studies.comparison import Comparison

KINDS = {".txt": "text", ".md": "markdown", ".tex": "latex", ".csv": "csv", ".json": "json"}


@command
def compare(
    paths: Annotated[
        list[Path], typer.Argument(help="Run and study directories.", metavar="A B...")
    ],
    metric: Annotated[
        str, typer.Option("--metric", help="Metric of the runs, such as val_accuracy or test_loss.")
    ] = "test_accuracy",
    paired: Annotated[bool, typer.Option("--paired", help="Compare seed by seed.")] = False,
    margin: Annotated[
        float | None,
        typer.Option(
            "--margin",
            help="Largest negligible difference (default: the resolution of the test set).",
        ),
    ] = None,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Compare although data, rows or protocols differ."),
    ] = False,
    alive: Annotated[
        bool, typer.Option("--alive", help="Leave out dead networks (all ReLUs of a layer at 0).")
    ] = False,
    kind: Annotated[
        str | None,
        typer.Option("--format", help="text, markdown, latex (booktabs) or csv, for a paper."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="FILE", help="Write it: .txt, .md, .tex, .csv or .json."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Test which recipes differ from the first one by more than chance.

    Runs that differ only in their seed are one recipe, and so is each setting of a study.

    \b
    Examples:
      flaxcnn compare runs/study-a runs/study-b
      flaxcnn compare runs/mnist-ladder/baseline/* runs/mnist-ladder/model10/*
      flaxcnn compare runs/grid --metric val_accuracy --paired
      flaxcnn compare runs/study-a runs/study-b --alive
      flaxcnn compare runs/study-a runs/study-b --format latex
      flaxcnn compare runs/study-a runs/study-b --output differences.csv
    """
    kind = _kind(kind, output)
    from flaxcnn.studies.compare import compare

    found = compare(*paths, metric=metric, paired=paired, margin=margin, anyway=anyway, alive=alive)
    for text in found.notes:
        note(text)
    _show(found, kind, output, as_json)


def _show(found: Comparison, kind: str, output: Path | None, as_json: bool) -> None:
    """Print it, or write the file."""
    if output is not None:
        text = json.dumps(found.to_dict(), indent=1) + "\n" if kind == "json" else found.text(kind)
        write_atomic(output.expanduser(), text.encode())
        say(f"{output}", as_json)
    elif kind != "text" and not as_json:
        say(found.text(kind).rstrip("\n"))
    else:
        table(found.table().lines(), as_json, less=("P(better) [95 %]",))
        say("\n" + "\n".join(found.sentences()), as_json)
    if as_json:
        emit_json(found.to_dict())


def _kind(chosen: str | None, output: Path | None) -> str:
    """The kind of text, by --format or by the name of the file, which must not disagree.

    Raises:
        ConfigError: an unknown kind, or a file of another one.
    """
    if chosen is not None:
        check_choice("--format", chosen, (*KINDS.values(),))
    if output is None:
        return chosen or "text"
    known = [suffix for suffix, kind in KINDS.items() if chosen in (None, kind)]
    check_suffix("--output", output, *known)
    return KINDS[output.suffix.lower()]


@command
def reproduce(
    path: Annotated[Path, typer.Argument(help="Run or study directory.", metavar="RUN|STUDY")],
    no_cache: options.NoCache = False,
    as_json: options.Json = False,
) -> None:
    """Train a run or a study again from its record, and compare the bits.

    \b
    Examples:
      flaxcnn reproduce runs/digits/quickstart/20261120-101500-seed0
    """
    quiet()
    with progress(as_json) as bar:
        with doing("starting JAX"):
            from flaxcnn.backend import prepare
            from flaxcnn.studies.reproduce import reproduce as again

            prepare(cache=not no_cache)

        def tell(ended: int, of: int) -> None:
            if not bar.total:
                bar.plan(of, "run")
            bar.at(ended)
            say(f"run {ended:>3}/{of} reproduced", as_json)

        outcome = again(path, tell)
    if outcome.same:
        epochs = "every epoch and " if outcome.epochs else ""
        runs = "1 run" if outcome.runs == 1 else f"{outcome.runs} runs"
        say(f"same bits: {runs}, {epochs}the final weights", as_json)
    for each in outcome.differ:
        where = "the final weights" if each["epoch"] is None else f"epoch {each['epoch']}"
        label = f" ({each['label']})" if each["label"] else ""
        say(f"seed {each['seed']}{label} differs from {where} on", as_json)
    for text in outcome.code:
        say(f"code: {text}", as_json)
    for text in outcome.fields:
        say(f"environment: {text}", as_json)
    if as_json:
        emit_json({"same": outcome.same, **dataclasses.asdict(outcome)})
    if not outcome.same:
        raise typer.Exit(1)
