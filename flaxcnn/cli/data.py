"""`flaxcnn data`: where the pixels are, and whether they are the right ones."""

from __future__ import annotations

from pathlib import Path

import typer

from flaxcnn.cli.options import JSON
from flaxcnn.cli.output import command, emit_json, say

app = typer.Typer(help="List, prepare and verify data sets.", rich_markup_mode=None)
NAME = typer.Argument(
    help="digits, mnist, fashion_mnist, cifar10, tfds:NAME, folder:PATH, npz:PATH."
)


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_(as_json=False)


@app.command("list")
@command
def list_(as_json: bool = JSON) -> None:
    """List the built-in data sets and whether they are prepared.

    \b
    Example:
      flaxcnn data list
    """
    from flaxcnn.data.datasets import listing

    found = listing()
    if as_json:
        emit_json(found)
        return
    say(f"{'name':14} {'image':>8} {'classes':>7} {'train':>7} {'test':>7}  prepared  from")
    for entry in found:
        shape = "x".join(map(str, entry["shape"]))
        ready = "yes" if entry["prepared"] else "no"
        say(
            f"{entry['name']:14} {shape:>8} {entry['classes']:>7} {entry['train']:>7} "
            f"{entry['test']:>7}  {ready:8}  {entry['source']}"
        )


@app.command()
@command
def prepare(
    name: str = NAME,
    archives: Path = typer.Option(
        None,
        "--from",
        help="Folder with the original archives; else FLAXCNN_ARCHIVES, else the net.",
    ),
    as_json: bool = JSON,
) -> None:
    """Check the archives and decode them once to arrays that later runs map into memory.

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
def verify(name: str = NAME, as_json: bool = JSON) -> None:
    """Hash the prepared arrays again and compare with what was recorded.

    \b
    Example:
      flaxcnn data verify mnist
    """
    from flaxcnn.data.datasets import verify as check

    report = check(name)
    if as_json:
        emit_json(report)
    else:
        say(f"{name}: sound, digest {report['digest']} ({report['path']})")


@app.command()
@command
def path(name: str = NAME, as_json: bool = JSON) -> None:
    """Print where the prepared form of a data set is, or will be.

    \b
    Example:
      flaxcnn data path mnist
    """
    from flaxcnn.data.datasets import cache_path

    found = str(cache_path(name))
    emit_json({"name": name, "path": found}) if as_json else say(found)
