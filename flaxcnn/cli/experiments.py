"""`flaxcnn experiments`: the catalog listed, shown, run and tabulated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flaxcnn.activity import doing
from flaxcnn.cli import options
from flaxcnn.cli.output import command, emit_json, note, quiet, say
from flaxcnn.cli.output import table as lines_of
from flaxcnn.cli.progress import progress
from flaxcnn.errors import ConfigError, check_choice
from flaxcnn.recipe import catalog
from flaxcnn.recipe.catalog import Experiment
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.recipe.layers import totals
from flaxcnn.records.folder import runs_folder

if TYPE_CHECKING:  # it imports jax
    from flaxcnn.results.queue import Ended
    from flaxcnn.results.rows import Results

ResultsFolder = Annotated[
    Path | None,
    typer.Option("--results", help="Folder of recorded results (default runs/results)."),
]

app = typer.Typer(
    help="List the experiments, show one, run many, or tabulate their results.",
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
@command
def list_(
    zoo: Annotated[
        bool, typer.Option("--zoo", help="List networks of papers instead, with a plain recipe.")
    ] = False,
    best: Annotated[
        bool, typer.Option("--best", help="List champions instead, the best of each size.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """List all experiments with data set, parameters and what their document reported.

    \b
    Examples:
      flaxcnn experiments list
      flaxcnn experiments list --zoo
      flaxcnn experiments list --best
      flaxcnn experiments list --json
    """
    if zoo and best:
        raise ConfigError("experiments list: --zoo and --best are two lists; give one of them")
    listed = catalog.zoo() if zoo else catalog.champions() if best else catalog.experiments()
    entries = [catalog.summary(e) for e in listed.values()]
    if as_json:
        emit_json(entries)
        return
    cells = [["name", "kind", "data", "parameters", "reported", "title"]]
    wide = [f"{'name':30} {'kind':8} {'data':15} {'parameters':>10}  {'reported':>8}  title"]
    for entry in entries:
        params = f"{entry['params']:,}" if entry["params"] else "-"
        reported = entry["reported"].get("test_accuracy")
        shown = f"{reported:.4f}" if reported is not None else "-"
        data = entry["dataset"] or "-"
        cells.append([entry["name"], entry["kind"], data, params, shown, entry["title"]])
        wide.append(
            f"{entry['name']:30} {entry['kind']:8} {data:15} {params:>10}  "
            f"{shown:>8}  {entry['title']}"
        )
    lines_of(cells, wide=wide, less=("kind", "reported"))


@app.command()
@command
def show(
    name: options.Experiment,
    as_json: options.Json = False,
) -> None:
    """Show one experiment: its layers, counts, recipe and what its document reported.

    \b
    Examples:
      flaxcnn experiments show mnist-ladder/model10
      flaxcnn experiments show my_models.py:small
    """
    experiment = catalog.find(name)
    if as_json:
        emit_json({**catalog.summary(experiment), **_details(experiment)})
        return
    say(f"{experiment.name}: {experiment.title}")
    if experiment.document:
        say(f"document {experiment.document}")
    if experiment.config:
        _show_model(experiment.config)
    if experiment.candidates:
        _show_candidates(experiment)
    for key, value in experiment.reported.items():
        say(f"reported {key}: {value}")
    for key, why in experiment.inferred.items():
        say(f"inferred {key}: {why}")
    for text in (experiment.notes, experiment.refusal):
        if text:
            say(text)


@app.command()
@command
def run(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="Experiments, or whole documents such as mnist-ladder, or best.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Run all documented experiments.")
    ] = False,
    no_grids: Annotated[bool, typer.Option("--no-grids", help="Skip grid searches.")] = False,
    protocol: Annotated[
        str, typer.Option("--protocol", help="honest, document or both.")
    ] = "honest",
    seeds: Annotated[
        str,
        typer.Option("--seeds", metavar="N|A,B,...", help="Number of seeds, or a list of them."),
    ] = "1",
    hours: Annotated[
        float | None, typer.Option("--hours", help="Stop after so many hours.")
    ] = None,
    results: ResultsFolder = None,
    no_cache: options.NoCache = False,
    as_json: options.Json = False,
) -> None:
    """Train and search experiments, cheapest first, and record a row of each.

    Recorded experiments are skipped, and interrupted ones resume from their checkpoints.

    \b
    Examples:
      flaxcnn experiments run digits/quickstart --seeds 2
      flaxcnn experiments run mnist-ladder --protocol both --seeds 8 --hours 2
      flaxcnn experiments run --all --protocol document --results results
    """
    from flaxcnn.results.rows import Results
    from flaxcnn.results.tasks import PROTOCOLS, Pace, chosen, tasks
    from flaxcnn.studies.plan import parse_seeds

    check_choice("--protocol", protocol, PROTOCOLS)
    if hours is not None and not hours > 0:
        raise ConfigError(f"--hours must be above 0 (got {hours:g})")
    experiments = [e for e in chosen(names or [], everything) if not (no_grids and e.candidates)]
    numbers = parse_seeds(seeds, 0)
    folder = Results(results or runs_folder() / "results")
    folder.open()
    todo, done = tasks(experiments, PROTOCOLS[protocol], numbers, folder)
    say(f"{len(todo)} to do, {done} done before (rows in {folder.path}); "
        f"{Pace.of(folder.rows()).text(todo)}", as_json)  # fmt: skip
    if not todo:
        ended = None
    else:
        quiet()
        with progress(as_json) as bar:
            with doing("starting JAX"):
                from flaxcnn.backend import prepare
                from flaxcnn.results.queue import run_queue

                prepare(not no_cache)
            bar.plan(len(todo), "task")

            def tell(text: str) -> None:
                bar.at(bar.done + 1)
                say(text, as_json)

            ended = run_queue(todo, folder, hours=hours, say=tell, note=note)
    _conclude(ended, folder.path, as_json)


@app.command()
@command
def table(
    results: ResultsFolder = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Where to write (default RESULTS.md in the folder of results).",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write RESULTS.md: the figures of each document beside the recorded ones, with verdicts.

    \b
    Examples:
      flaxcnn experiments table
      flaxcnn experiments table --results results --output RESULTS.md
    """
    from flaxcnn.records.files import check_suffix, write_atomic
    from flaxcnn.results.table import page, verdicts

    folder = _of_rows(results)
    if output is not None and output.is_dir():
        raise ConfigError(f"--output: {output} is a folder; give a file, such as RESULTS.md")
    if output is not None:
        check_suffix("--output", output, ".md")
    target = (output or folder.path / "RESULTS.md").expanduser().absolute()
    write_atomic(target, page(folder).encode())
    say(f"table {target}", as_json)
    if as_json:
        emit_json({"table": str(target), "verdicts": verdicts(folder)})


@app.command()
@command
def gallery(
    results: ResultsFolder = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="FOLDER",
            help="Where to write (default gallery/ in the folder of results).",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write one HTML page per document: curves, predictions, confusion matrices, comparisons.

    \b
    Examples:
      flaxcnn experiments gallery
      flaxcnn experiments gallery --results results --output docs/gallery
    """
    from flaxcnn.results.gallery import write

    folder = _of_rows(results)
    if output is not None and output.is_file():
        raise ConfigError(f"--output: {output} is a file; give a folder")
    pages, warnings = write(folder, (output or folder.path / "gallery").expanduser().absolute())
    for text in warnings:
        note(text)
    for path in pages:
        say(f"page {path}", as_json)
    if as_json:
        emit_json({"pages": [str(path) for path in pages], "warnings": warnings})


def _of_rows(path: Path | None) -> Results:
    """The folder of results; ConfigError where it does not exist."""
    from flaxcnn.results.rows import Results

    folder = Results(path or runs_folder() / "results")
    if not folder.path.exists():
        raise ConfigError(
            f"--results: there is no folder {folder.path}; `flaxcnn experiments run` creates it"
        )
    folder.check()
    return folder


def _conclude(ended: Ended | None, results: Path, as_json: bool) -> None:
    """Report what was done, what is left and how long it takes, and what failed."""
    from flaxcnn.results.rows import Results
    from flaxcnn.results.tasks import Pace

    left, failed = (ended.left, ended.failed) if ended else ([], [])
    pace = Pace.of(Results(results).rows())
    if left:
        say(f"time is up; {len(left)} left, {pace.text(left)}: {left[0].label}"
            + (" and others" if len(left) > 1 else ""), as_json)  # fmt: skip
    say(f"results {results}", as_json)
    if as_json:
        emit_json({
            "results": str(results),
            "rows": [[row["experiment"], row["protocol"], row["seed"], row["fingerprint"]]
                     for row in (ended.rows if ended else [])],
            "searches": ended.searches if ended else [],
            "left": [{"task": t.label, "seconds": pace.seconds(t)} for t in left],
            "failed": [{"task": t.label, "reason": str(e)} for t, e in failed],
        })  # fmt: skip
    if failed:
        raise typer.Exit(failed[0][1].exit_code)


def _details(experiment: Experiment) -> dict[str, object]:
    config = experiment.config
    if config is None or config.dataset not in KNOWN_DATA:
        return {"layers": None, "config": config.to_dict() if config else None}
    rows = config.table(*KNOWN_DATA[config.dataset])
    return {
        "layers": [
            {"name": r.name, "output": list(r.output), "params": r.params,
             "trainable": r.trainable, "macs": r.macs}
            for r in rows
        ],
        "totals": totals(rows),
        "config": config.to_dict(),
        "documented": dict(experiment.documented),
        "notes": experiment.notes,
    }  # fmt: skip


def _show_model(config: Config) -> None:
    if config.dataset not in KNOWN_DATA:
        say(f"data {config.dataset}: shapes are known only after it is read")
        return
    facts = KNOWN_DATA[config.dataset]
    rows = config.table(*facts)
    say(f"input {'x'.join(map(str, facts.shape))} ({config.dataset})\n")
    say(f"{'layer':28} {'output shape':>16} {'parameters':>12} {'multiply-adds':>14}")
    for row in rows:
        say(f"{row.name:28} {row.output!s:>16} {row.params:>12,} {row.macs:>14,}")
    sums = totals(rows)
    say(f"\ntotal parameters      {sums['params']:,} ({_size(sums['bytes'])})")
    say(f"trainable             {sums['trainable_params']:,}")
    say(f"non-trainable         {sums['non_trainable_params']:,}")
    say(f"multiply-adds, image  {sums['macs']:,}")
    say(
        f"\n{type(config.optimizer).__name__}, learning rate {config.learning_rate:g}, "
        f"batch {config.batch_size}, {config.epochs} epochs\n"
    )


def _size(count: int) -> str:
    return f"{count / 1024:.2f} KB" if count < 1024**2 else f"{count / 1024**2:.2f} MB"


def _show_candidates(experiment: Experiment) -> None:
    say(f"{len(experiment.candidates)} candidates")
    for candidate in experiment.candidates:
        settings = ", ".join(f"{k}={v}" for k, v in candidate.settings.items())
        if candidate.config is None:
            say(f"  {settings}: {candidate.reason}")
        else:
            facts = KNOWN_DATA[candidate.config.dataset]
            say(f"  {settings}: {totals(candidate.config.table(*facts))['params']:,} parameters")
