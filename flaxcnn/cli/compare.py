"""`flaxcnn compare` and `flaxcnn reproduce`: what records say of each other."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import typer

from flaxcnn.cli.options import JSON, NO_CACHE
from flaxcnn.cli.output import command, emit_json, note, quiet, say, table


@command
def compare(
    paths: list[Path] = typer.Argument(..., help="Run and study directories.", metavar="A B..."),
    metric: str = typer.Option("test_accuracy", "--metric", help="Of a run; losses too."),
    paired: bool = typer.Option(False, "--paired", help="Equal seeds make pairs."),
    margin: float = typer.Option(
        None, "--margin", help="Largest difference of no interest; default: what the number of "
        "test rows cannot tell.",
    ),
    anyway: bool = typer.Option(
        False, "--anyway", help="Compare even different data, rows or protocols."
    ),
    alive: bool = typer.Option(False, "--alive", help="Leave out networks that are dead."),
    as_json: bool = JSON,
) -> None:  # fmt: skip
    """Say which recipe is better than the first one, and how sure that is.

    Runs that differ in their seed alone are one recipe; so is each setting of a study.

    \b
    Examples:
      flaxcnn compare runs/study-a runs/study-b
      flaxcnn compare runs/mnist-ladder/baseline/* runs/mnist-ladder/model10/*
      flaxcnn compare runs/grid --metric val_accuracy --paired
      flaxcnn compare runs/study-a runs/study-b --alive
    """
    from flaxcnn.studies import compare as comparisons

    sides, found, notes = comparisons.compare(
        paths, metric, paired=paired, margin=margin, anyway=anyway, alive=alive
    )
    for text in notes:
        note(text)
    _show(sides, found, metric, as_json)
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
                for c in found
            ],
        })  # fmt: skip


def _show(sides: list[Any], found: list[Any], metric: str, as_json: bool) -> None:
    """A table: the first side, and the others against it."""
    from flaxcnn.studies.stats import summarize

    lines = [["", "seeds", metric, "difference [95 %]", "p", "P(better) [95 %]", "verdict"]]
    for side, compared in zip(sides, [None, *found], strict=True):
        figures = summarize(list(side.values.values()))
        cells = [side.label, str(figures.n), f"{figures.mean:.4f} ± {figures.sd or 0:.4f}"]
        if compared is None:
            lines.append([*cells, "", "", "", "(the others are held against this)"])
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
    for compared in found:
        own = compared.verdict
        text = f"{compared.label} against {compared.against}: {own.verdict} ({own.reason})"
        if own.more_seeds is not None:
            text += f"; about {own.more_seeds} more seeds a side would settle it"
        elif own.verdict == "not shown" and own.seeds.reason:
            text += f"; {own.seeds.reason}"
        say(text, as_json)


@command
def reproduce(
    path: Path = typer.Argument(..., help="A run or study directory.", metavar="RUN|STUDY"),
    no_cache: bool = NO_CACHE,
    as_json: bool = JSON,
) -> None:
    """Do a run or a study again from its record, and say whether the bits are the same.

    \b
    Examples:
      flaxcnn reproduce runs/digits/quickstart/20261120-101500-seed0
    """
    from flaxcnn.backend import prepare
    from flaxcnn.studies.reproduce import reproduce as again

    quiet()
    prepare(cache=not no_cache)
    found = again(path, lambda ended, of: say(f"run {ended:>3}/{of} done again", as_json))
    if found.same:
        epochs = "every epoch and " if found.epochs else ""
        say(f"same bits: {found.runs} {'run' if found.runs == 1 else 'runs'}, {epochs}the final "
            "weights", as_json)  # fmt: skip
    for each in found.differ:
        where = "the final weights" if each["epoch"] is None else f"epoch {each['epoch']}"
        label = f" ({each['label']})" if each["label"] else ""
        say(f"seed {each['seed']}{label} differs from {where} on", as_json)
    for text in found.fields:
        say(f"environment: {text}", as_json)
    if as_json:
        emit_json({"same": found.same, **dataclasses.asdict(found)})
    if not found.same:
        raise typer.Exit(1)
