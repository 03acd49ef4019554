"""`flaxcnn experiments`: what can be trained, and what each model is."""

from __future__ import annotations

import typer

from flaxcnn.cli.options import JSON
from flaxcnn.cli.output import command, emit_json, say
from flaxcnn.recipe import catalog
from flaxcnn.recipe.catalog import Experiment
from flaxcnn.recipe.config import KNOWN_DATA, Config
from flaxcnn.recipe.layers import totals

app = typer.Typer(
    help="List the experiments, or show one as a table of layers.", rich_markup_mode=None
)


@app.callback(invoke_without_command=True)
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_(as_json=False)


@app.command("list")
@command
def list_(as_json: bool = JSON) -> None:
    """List all experiments with data set, parameters and what their document reported.

    \b
    Examples:
      flaxcnn experiments list
      flaxcnn experiments list --json
    """
    found = [catalog.summary(e) for e in catalog.experiments().values()]
    if as_json:
        emit_json(found)
        return
    say(f"{'name':30} {'kind':8} {'data':14} {'parameters':>10}  {'reported':>8}  title")
    for entry in found:
        params = f"{entry['params']:,}" if entry["params"] else "-"
        reported = entry["reported"].get("test_accuracy")
        shown = f"{reported:.4f}" if reported is not None else "-"
        say(
            f"{entry['name']:30} {entry['kind']:8} {entry['dataset'] or '-':14} {params:>10}  "
            f"{shown:>8}  {entry['title']}"
        )


@app.command()
@command
def show(
    name: str = typer.Argument(help="A name from `flaxcnn experiments list`, or FILE.py:NAME."),
    as_json: bool = JSON,
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
        say(f"data {config.dataset}: shapes are known once it is read")
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
