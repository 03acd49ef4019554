"""`flaxcnn study`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import typer

from flaxcnn.cli.options import (
    ASSIGNMENTS,
    CONFIG_FILE,
    EXPERIMENT,
    GRID,
    HOW,
    JSON,
    MAX_MEMORY,
    NO_CACHE,
    PROTOCOL,
)
from flaxcnn.cli.output import command, emit_json, note, quiet, report, say, table
from flaxcnn.cli.report import report_after
from flaxcnn.cli.train import check_environment
from flaxcnn.errors import CheckpointError, ConfigError, DivergedError
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.records.folder import runs_folder, stamp
from flaxcnn.studies.plan import check_how, parse_grid, parse_memory, parse_seeds, plan_runs


@command
def study(
    experiment: str = EXPERIMENT,
    seeds: str = typer.Option(..., "--seeds", metavar="N|A,B,...", help="How many, or which."),
    grid: list[str] = GRID,
    vary: str = typer.Option(
        "", "--vary", metavar="SOURCES",
        help="Let the seed drive one source at a time: init,order,augment,dropout,all.",
    ),
    how: str = HOW,
    max_memory: str = MAX_MEMORY,
    assignments: list[str] = ASSIGNMENTS,
    config_file: Path = CONFIG_FILE,
    seed: int = typer.Option(None, "--seed", help="The first seed, and what is fixed has it."),
    study_dir: Path = typer.Option(None, "--study-dir", help="Default runs/NAME/study-ID."),
    resume: bool = typer.Option(False, "--resume", help="Go on with an interrupted study."),
    protocol: str = PROTOCOL,
    no_cache: bool = NO_CACHE,
    as_json: bool = JSON,
) -> None:  # fmt: skip
    """Train a model with many seeds, and say how sure the result is.

    \b
    Examples:
      flaxcnn study --seeds 20
      flaxcnn study mnist-ladder/model10 --seeds 8
      flaxcnn study --seeds 16 --grid learning_rate=0.01,0.001 --grid optimizer=sgd,adam
      flaxcnn study --seeds 16 --vary init,order,dropout,all
      flaxcnn study mnist-ladder/model10 --seeds 8 -s determinism=exact --study-dir runs/eight
    """
    found = catalog.find(experiment)
    check_environment()
    config, _ = catalog.resolve(
        found, assignments=assignments, config_file=config_file, protocol=protocol, seed=seed
    )
    check_how(how)
    plan = Wanted(
        parse_seeds(seeds, config.seed), parse_grid(grid),
        [word.strip() for word in vary.split(",") if word.strip()], how,
        None if max_memory is None else parse_memory(max_memory),
    )  # fmt: skip
    # A wrong plan is said before anything is loaded.
    plan_runs(config, plan.seeds, plan.grid, plan.vary)
    folder = _folder(found.name, study_dir, resume)
    _run(found.name, config, plan, folder, resume, not no_cache, as_json)


class Wanted(NamedTuple):
    """What the options say of the plan."""

    seeds: list[int]
    grid: dict[str, list[Any]]
    vary: list[str]
    how: Any
    max_memory: int | None


def _folder(name: str, chosen: Path | None, resume: bool) -> Path:
    if chosen is not None:
        if resume and not (chosen.expanduser() / "plan.json").is_file():
            raise CheckpointError(f"--resume: {chosen} holds no study")
        return chosen
    if resume:
        raise ConfigError("--resume: which study? name it with --study-dir")
    return runs_folder() / name / f"study-{stamp()}"


def _run(
    name: str, config: Config, plan: Wanted, folder: Path, resume: bool, cache: bool, as_json: bool
) -> None:
    """Load, train and tell."""
    from flaxcnn.data.datasets import load_for

    dataset = load_for(config)  # before jax is imported: missing data is said at once
    from flaxcnn.backend import prepare
    from flaxcnn.engine.resident import ResidentJob
    from flaxcnn.studies import page
    from flaxcnn.studies.groups import Group
    from flaxcnn.studies.runs import Outcome
    from flaxcnn.studies.study import Tell, study

    quiet()
    prepare(cache)

    def tell_group(group: Group, jobs: list[ResidentJob], width: int) -> None:
        side = "one at a time" if width == 1 else f"{width} side by side"
        shards = jobs[0].plan.sharding.devices
        where = f"its batches over {shards} devices" if shards > 1 else (
            f"{side} on each of {len(jobs)} devices")  # fmt: skip
        labels = dict.fromkeys(run.label or "as it is" for run in group.runs)
        shown = "; ".join(list(labels)[:4]) + ("; ..." if len(labels) > 4 else "")
        count = f"{len(group.runs)} {'run' if len(group.runs) == 1 else 'runs'}"
        say(f"program of {count} ({shown}): {where}", as_json)

    def tell_run(outcome: Outcome, ended: int, planned: int) -> None:
        row, label = outcome.row, outcome.run.label
        if row["status"] == "diverged":
            note(f"seed {row['seed']} {label}: {row['reason']}")
            return
        say(f"run {ended:>3}/{planned}  seed {row['seed']:<4} {label + '  ' if label else ''}"
            f"test {row['test_accuracy']:.4f}  validation {row['val_accuracy']:.4f}  "
            f"epoch {row['kept_epoch']} of {row['epochs_run']}"
            + ("  dead" if row["dead_layers"] else ""), as_json)  # fmt: skip

    settings = f"grid {', '.join(plan.grid)}, " if plan.grid else ""
    say(f"{name}: {settings}{len(plan.seeds)} seeds on {config.dataset}, "
        f"{config.protocol} protocol, determinism {config.determinism}", as_json)  # fmt: skip
    result = study(
        config, plan.seeds, grid=plan.grid, vary=plan.vary, how=plan.how, study_dir=folder,
        max_memory=plan.max_memory, resume=resume, name=name, dataset=dataset,
        tell=Tell(note, tell_group, tell_run),
    )  # fmt: skip
    say("", as_json)
    table(page.lines(result.summary), as_json)
    for found in result.summary["variance"]:
        say(f"variance {found['setting']}".rstrip() + "\n", as_json)
        table(page.variance_lines(found), as_json)
    page_ = report_after(result.path)
    say(f"study  {result.path}\nreport {page_ or result.path / 'README.md'}", as_json)
    if as_json:
        emit_json({**result.summary, "study_dir": str(result.path)})
    if not result.summary["complete"]:
        report("every run diverged; lower learning_rate", DivergedError.exit_code, as_json=False)
        raise typer.Exit(DivergedError.exit_code)
