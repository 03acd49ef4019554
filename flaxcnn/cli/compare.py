"""`flaxcnn compare` and `flaxcnn reproduce`: records compared with each other, or run again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from flaxcnn.cli import options
from flaxcnn.cli.output import command, emit_json, note, quiet, say, table


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
    """
    from flaxcnn.studies import compare as comparisons

    sides, results, notes = comparisons.compare(
        paths, metric, paired=paired, margin=margin, anyway=anyway, alive=alive
    )
    for text in notes:
        note(text)
    _show(sides, results, metric, as_json)
    if as_json:
        emit_json({
            "metric": metric, "paired": paired, "alive": alive, "notes": notes,
            "sides": [
                {"label": s.label, "values": s.values, "diverged": sorted(s.failed),
                 "dead": sorted(s.dead)}
                for s in sides
            ],
            "comparisons": [
                {"label": c.label, "against": c.against, "p_corrected": c.p_corrected,
                 "superiority": dataclasses.asdict(c.superiority),
                 **dataclasses.asdict(c.verdict)}
                for c in results
            ],
        })  # fmt: skip


def _show(sides: list[Any], results: list[Any], metric: str, as_json: bool) -> None:
    """A table: the first side, and the others against it."""
    from flaxcnn.studies.stats import summarize

    lines = [["", "seeds", metric, "difference [95 %]", "p", "P(better) [95 %]", "verdict"]]
    for side, compared in zip(sides, [None, *results], strict=True):
        figures = summarize(list(side.values.values()))
        cells = [side.label, str(figures.n), f"{figures.mean:.4f} ± {figures.sd or 0:.4f}"]
        if compared is None:
            lines.append([*cells, "", "", "", "(the others are compared with this)"])
            continue
        own, chance = compared.verdict, compared.superiority
        test = own.comparison
        lines.append([
            *cells,
            f"{test.difference:+.4f}"
            + (f" [{test.interval[0]:+.4f}, {test.interval[1]:+.4f}]" if test.interval else ""),
            "-" if own.p_value is None else f"{own.p_value:.2g}",
            f"{chance.probability:.2f} [{chance.interval[0]:.2f}, {chance.interval[1]:.2f}]",
            own.verdict,
        ])  # fmt: skip
    table(lines, as_json)
    say("", as_json)
    for compared in results:
        own = compared.verdict
        text = f"{compared.label} against {compared.against}: {own.verdict} ({own.reason})"
        if own.more_seeds is not None:
            text += f"; about {own.more_seeds} more seeds a side would settle it"
        elif own.verdict == "not shown" and own.seeds.reason:
            text += f"; {own.seeds.reason}"
        say(text, as_json)


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
    from flaxcnn.backend import prepare
    from flaxcnn.studies.reproduce import reproduce as again

    quiet()
    prepare(cache=not no_cache)
    outcome = again(path, lambda ended, of: say(f"run {ended:>3}/{of} reproduced", as_json))
    if outcome.same:
        epochs = "every epoch and " if outcome.epochs else ""
        runs = "1 run" if outcome.runs == 1 else f"{outcome.runs} runs"
        say(f"same bits: {runs}, {epochs}the final weights", as_json)
    for each in outcome.differ:
        where = "the final weights" if each["epoch"] is None else f"epoch {each['epoch']}"
        label = f" ({each['label']})" if each["label"] else ""
        say(f"seed {each['seed']}{label} differs from {where} on", as_json)
    for text in outcome.fields:
        say(f"environment: {text}", as_json)
    if as_json:
        emit_json({"same": outcome.same, **dataclasses.asdict(outcome)})
    if not outcome.same:
        raise typer.Exit(1)
