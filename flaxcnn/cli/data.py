"""`flaxcnn data`: data sets listed, prepared, verified and looked through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flaxcnn.cli import options
from flaxcnn.cli.output import command, emit_json, say, table
from flaxcnn.records.format import count_text

if TYPE_CHECKING:
    from flaxcnn.data.check import Findings
    from flaxcnn.recipe.config import Config
    from flaxcnn.reports.label_errors import LabelErrors

SHOWN = 5  # of many things of a kind
app = typer.Typer(help="List, prepare, verify and check data sets.", rich_markup_mode=None)
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
    cells = [["name", "image", "classes", "train", "test", "prepared", "from"]]
    wide = [f"{'name':14} {'image':>8} {'classes':>7} {'train':>7} {'test':>7}  prepared  from"]
    for entry in rows:
        shape = "x".join(map(str, entry["shape"]))
        ready = "yes" if entry["prepared"] else "no"
        numbers = [str(entry[key]) for key in ("classes", "train", "test")]
        cells.append([entry["name"], shape, *numbers, ready, entry["source"]])
        wide.append(
            f"{entry['name']:14} {shape:>8} {entry['classes']:>7} {entry['train']:>7} "
            f"{entry['test']:>7}  {ready:8}  {entry['source']}"
        )
    table(cells, wide=wide, less=("from",))


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


@app.command()
@command
def check(
    name: Name,
    study: Annotated[
        Path | None,
        typer.Option(
            "--study",
            metavar="STUDY|RUN",
            help="Also list likely label errors among the rows that its runs were tested on.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Also write a page, FILE.html."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Look at every image: classes, sizes, bad files, imbalance, duplicates, likely label errors.

    \b
    Examples:
      flaxcnn data check folder:pets --output check.html
      flaxcnn data check mnist --json
      flaxcnn data check digits --study runs/folds --output check.html
    """
    from dataclasses import asdict

    from flaxcnn.activity import doing
    from flaxcnn.data.check import check as look
    from flaxcnn.records.files import check_suffix, write_atomic

    if output is not None:
        check_suffix("--output", output, ".html", ".htm")
    with doing(f"looking at every image of {name}"):
        found = look(name)
    errors = None if study is None else _label_errors(name, study)
    if output is not None:
        from flaxcnn.reports.check import check_page

        write_atomic(output.expanduser().absolute(), check_page(found, errors).html.encode())
    if as_json:
        told = {**asdict(found), "imbalanced": found.imbalanced, "ok": not found.wrong}
        if errors is not None:
            told["label_errors"] = errors.to_dict(found.classes)
        emit_json(told)
        return
    for line in (*_lines(found), *(_error_lines(found, errors) if errors else ())):
        say(line)
    if output is not None:
        say(f"page {output}")


def _label_errors(name: str, path: Path) -> LabelErrors:
    """The likely label errors by the runs of a study, or by a run."""
    from flaxcnn.records.read import read_runs
    from flaxcnn.reports.label_errors import find_label_errors

    return find_label_errors(name, read_runs(path, "--study"))


@app.command()
@command
def show(
    name: Name,
    assignments: options.Assignments = None,
    rows: Annotated[int, typer.Option("--rows", min=1, max=50, help="Training images.")] = 6,
    epochs: Annotated[int, typer.Option("--epochs", min=1, max=30, help="Variants of each.")] = 7,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="PNG, SVG or PDF file (default NAME-augment.png)."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Draw training images beside what `-s augment=...` makes of them in the first epochs.

    \b
    Examples:
      flaxcnn data show digits -s 'augment=["flip","cutout"]'
      flaxcnn data show cifar10 -s 'augment=["randaugment","mixup"]' --output sheet.svg
    """
    from flaxcnn.augment.sheet import sheet
    from flaxcnn.backend import prepare as set_up
    from flaxcnn.data.datasets import load_for
    from flaxcnn.errors import WriteError, check_choice
    from flaxcnn.reports.images import variants

    file = output or Path(f"{name.rpartition(':')[2].rpartition('/')[2]}-augment.png")
    check_choice("--output", file.suffix.lower(), (".png", ".svg", ".pdf"))
    config = _recipe(name, assignments)
    dataset = load_for(config)
    set_up()
    made = sheet(config, dataset, rows, epochs)
    picture = variants(made.stored, made.image, made.label, made.target, dataset.classes)
    try:
        picture.figure.savefig(file, dpi=200)
    except OSError as error:
        raise WriteError(f"cannot write {file} ({error.strerror})") from None
    told = {"file": str(file), "rows": made.row.tolist(), "epochs": epochs}
    emit_json(told) if as_json else say(
        f"{file}: {len(made.row)} images, {epochs} variants of each"
    )


def _recipe(name: str, assignments: list[str] | None) -> Config:
    """A recipe on a data set, for its augmentation: its network plays no part."""
    from flaxcnn.recipe.config import Config
    from flaxcnn.recipe.data import KNOWN_DATA
    from flaxcnn.recipe.layers import Dense, Flatten
    from flaxcnn.recipe.settings import Source, from_assignments, layered

    classes = KNOWN_DATA[name].classes if name in KNOWN_DATA else 2
    base = Config(name, (Flatten(), Dense(classes)))
    return layered(base, [Source("command line", from_assignments(assignments or ()))])[0]


def _lines(found: Findings) -> Iterator[str]:
    """What was found, as text."""
    splits = list(found.rows)
    total = {split: sum(rows) for split, rows in found.rows.items()}
    yield f"{found.name}: {sum(total.values()):,} images of {len(found.classes)} classes"
    yield f"{'class':20} " + " ".join(f"{split:>10}" for split in splits)
    for number, name in enumerate(found.classes):
        yield f"{name[:20]:20} " + " ".join(f"{found.rows[s][number]:>10,}" for s in splits)
    yield f"{'all':20} " + " ".join(f"{total[split]:>10,}" for split in splits)
    for what, counts in (("height x width", found.sizes), ("channels", found.kinds)):
        shown = ", ".join(f"{key} ({count:,})" for key, count in list(counts.items())[:SHOWN])
        yield f"{what}: {shown}{_more(len(counts))}"
    if found.imbalanced:
        yield "classes are imbalanced: see class_weight and sampling in `flaxcnn train --help`"
    for what, texts in (("passed over", found.passed_over), ("cannot be used", found.wrong)):
        if texts:
            yield f"{what}: {len(texts):,}"
            yield from (f"  {text}" for text in texts)
    for what, groups in (("exact duplicates", found.exact), ("near duplicates", found.near)):
        several = sum(len(group["splits"]) > 1 for group in groups)
        torn = sum(len(group["classes"]) > 1 for group in groups)
        yield (
            f"{what}: {count_text(len(groups), 'group')}"
            + (f", {several:,} across splits, {torn:,} with different classes" if groups else "")
        )
        for group in groups[:SHOWN]:
            marks = ["across splits"] if len(group["splits"]) > 1 else []
            if len(group["classes"]) > 1:
                marks.append(f"classes {', '.join(group['classes'])}")
            shown = " = ".join(group["images"][:SHOWN]) + _more(len(group["images"]))
            yield f"  {shown}{' (' + '; '.join(marks) + ')' if marks else ''}"
        if len(groups) > SHOWN:
            yield f"  and {len(groups) - SHOWN:,} more; --json lists all"
    yield from found.notes


def _error_lines(found: Findings, errors: LabelErrors) -> Iterator[str]:
    """Likely label errors, as text."""
    yield f"likely label errors: {len(errors.suspects):,} of {errors.rows:,} rows"
    for one, name in list(zip(errors.suspects, errors.names, strict=True))[:SHOWN]:
        given, likely = found.classes[one.given], found.classes[one.likely]
        yield f"  {name}: labelled {given}, likely {likely} ({100 * one.probability:.0f} %)"
    if len(errors.suspects) > SHOWN:
        yield f"  and {len(errors.suspects) - SHOWN:,} more; --json lists all"


def _more(count: int) -> str:
    return f" and {count - SHOWN:,} more" if count > SHOWN else ""
