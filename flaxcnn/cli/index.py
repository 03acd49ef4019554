"""`flaxcnn runs`: what is under the folder of runs; one of them in short; away with others."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from flaxcnn.cli import options
from flaxcnn.cli.output import command, emit_json, note, say, short, table
from flaxcnn.errors import CheckpointError, ConfigError, check_choice
from flaxcnn.records import index
from flaxcnn.records.format import count_text, interval_text
from flaxcnn.records.intervals import clipped

app = typer.Typer(help="List, show and delete runs, studies and searches.", rich_markup_mode=None)
KINDS = ("run", "study", "search")

Folder = Annotated[
    Path | None, typer.Argument(help="Folder to look under (default runs/, FLAXCNN_RUNS_DIR).")
]
Kind = Annotated[str | None, typer.Option("--kind", help="Only run, study or search.")]
Status = Annotated[
    str | None, typer.Option("--status", help="Only complete, running, interrupted, diverged, ...")
]
Match = Annotated[
    str, typer.Option("--match", metavar="TEXT", help="Only with this text in name or folder.")
]
Sort = Annotated[
    str, typer.Option("--sort", help=f"By {', '.join(index.KEYS)}: newest or largest first.")
]


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        listed()


@app.command(name="list", short_help="List everything under a folder, the newest first.")
@command
def listed(
    folder: Folder = None,
    kind: Kind = None,
    status: Status = None,
    match: Match = "",
    sort: Sort = "when",
    as_json: options.Json = False,
) -> None:
    """List every run, study and search under a folder, finished or not, the newest first.

    The little bars are the validation accuracy by epoch of a run, the test accuracy by seed of a
    study, and the scores of a search.

    \b
    Examples:
      flaxcnn runs
      flaxcnn runs list runs/mnist-ladder --sort accuracy
      flaxcnn runs list --kind study --status interrupted --json
    """
    if kind is not None:
        check_choice("--kind", kind, KINDS)
    check_choice("--sort", sort, index.KEYS)
    found = index.runs(folder).where(kind, status, match).by(sort)
    if as_json:
        emit_json([_plain(each) for each in found])
        return
    if not found:
        say(f"no run, study or search under {short(found.folder)}")
        return
    table(found.table().lines(), less=("size", "runs", "kind", "validation"))
    total = index.size_text(sum(each.bytes for each in found))
    say(f"\n{count_text(len(found), 'record')}, {total}; as a page: flaxcnn report "
        f"{short(found.folder)}")  # fmt: skip


@app.command()
@command
def show(
    path: Annotated[Path, typer.Argument(metavar="RUN|STUDY|SEARCH", help="Its directory.")],
    as_json: options.Json = False,
) -> None:
    """Show one run, study or search in short, also an unfinished one.

    \b
    Examples:
      flaxcnn runs show runs/study-a
    """
    found = _entry(path)
    if as_json:
        emit_json(_plain(found))
        return
    say(f"{found.kind} of {found.name}: {found.status}")
    accuracy = None if found.accuracy is None else f"{found.accuracy:.4f}"
    lines = [
        (
            "test accuracy",
            accuracy and f"{accuracy} {interval_text(clipped(found.spread))}".rstrip(),
        ),
        ("validation", None if found.validation is None else f"{found.validation:.4f}"),
        ("", index.spark(found.curve, 40) if found.curve else None),
        ("data", found.data),
        ("parameters", None if found.parameters is None else f"{found.parameters:,}"),
        ("runs", f"{found.runs:,}" if found.kind != "run" else None),
        ("epochs", None if found.epochs is None else f"{found.epochs:,}"),
        ("training", None if found.seconds is None else f"{found.seconds:,.1f} s"),
        ("changed", found.time),
        ("size", index.size_text(found.bytes)),
        ("note", found.note or None),
    ]
    for name, text in lines:
        if text is not None:
            say(f"  {name:14} {text}")


@app.command()
@command
def rm(
    paths: Annotated[
        list[Path], typer.Argument(metavar="RUN|STUDY|SEARCH...", help="Their directories.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: options.Json = False,
) -> None:
    """Delete runs, studies and searches for good, checkpoints included.

    What is in use, or holds something else, is refused before anything is deleted.

    \b
    Examples:
      flaxcnn runs rm runs/digits/quickstart/20261120-101500-seed0
      flaxcnn runs rm runs/trial-* --yes
    """
    found = [_entry(path) for path in paths]
    for each in found:
        index.check_unused(each.path)
    what = f"{count_text(len(found), 'record')}, {index.size_text(sum(e.bytes for e in found))}"
    if not yes:
        for each in found:
            say(f"{each.kind:6} {short(each.path)}  {index.size_text(each.bytes)}", as_json)
        if not sys.stdin.isatty():
            raise ConfigError("runs rm deletes for good: add --yes where nobody can be asked")
        if not typer.confirm(f"Delete {what} for good?", err=as_json):
            note("nothing was deleted")
            raise typer.Exit(1)
    for each in found:
        index.remove(each.path)
    say(f"deleted {what}", as_json)
    if as_json:
        emit_json({"deleted": [str(each.path) for each in found]})


def _entry(path: Path) -> index.Entry:
    path = path.expanduser().absolute()
    kind = index.kind_by_proof(path)
    if kind is None:
        raise CheckpointError(
            f"{path}: holds no run, study or search; `flaxcnn runs list` shows where they are"
        )
    return index.entry(path, kind)


def _plain(found: index.Entry) -> dict[str, Any]:
    row = index.Runs(found.path, [found]).to_dict()
    return json.loads(json.dumps({key: values[0] for key, values in row.items()}))
