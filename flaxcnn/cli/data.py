"""`flaxcnn data`: data sets listed, prepared and verified."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flaxcnn.cli import options
from flaxcnn.cli.output import command, emit_json, say

app = typer.Typer(help="List, prepare and verify data sets.", rich_markup_mode=None)
Name = Annotated[
    str,
    typer.Argument(
        help="digits, mnist, fashion_mnist, cifar10, folder:PATH, csv:PATH, npz:PATH, tfds:NAME "
        "or hf:NAME."
    ),
]


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
@command
def list_(as_json: options.Json = False) -> None:
    """List the built-in data sets and whether they are prepared.

    \b
    Example:
      flaxcnn data list
    """
    from flaxcnn.data.datasets import listing

    rows = listing()
    if as_json:
        emit_json(rows)
        return
    say(f"{'name':14} {'image':>8} {'classes':>7} {'train':>7} {'test':>7}  prepared  from")
    for entry in rows:
        shape = "x".join(map(str, entry["shape"]))
        ready = "yes" if entry["prepared"] else "no"
        say(
            f"{entry['name']:14} {shape:>8} {entry['classes']:>7} {entry['train']:>7} "
            f"{entry['test']:>7}  {ready:8}  {entry['source']}"
        )


@app.command()
@command
def prepare(
    name: Name,
    archives: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Folder with the original archives (default FLAXCNN_ARCHIVES, else download).",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check the archives of a data set and decode them to arrays, which later runs memory-map.

    \b
    Examples:
      flaxcnn data prepare mnist
      flaxcnn data prepare cifar10 --from ~/archives
    """
    from flaxcnn.data.datasets import prepare as make

    path = make(name, archives)
    emit_json({"name": name, "path": str(path)}) if as_json else say(f"{name} is ready in {path}")


@app.command()
@command
def verify(name: Name, as_json: options.Json = False) -> None:
    """Hash the prepared arrays and compare with the recorded digests.

    \b
    Example:
      flaxcnn data verify mnist
    """
    from flaxcnn.data.datasets import verify as check

    report = check(name)
    if as_json:
        emit_json(report)
    else:
        say(f"{name}: intact, digest {report['digest']} ({report['path']})")


@app.command()
@command
def path(name: Name, as_json: options.Json = False) -> None:
    """Print the path of a prepared data set, whether it exists or not.

    \b
    Example:
      flaxcnn data path mnist
    """
    from flaxcnn.data.datasets import cache_path

    target = str(cache_path(name))
    emit_json({"name": name, "path": target}) if as_json else say(target)
