"""`flaxcnn study`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from flaxcnn.activity import doing
from flaxcnn.cli import options
from flaxcnn.cli.options import check_environment, plan_folder
from flaxcnn.cli.output import command, emit_json, note, print_error, quiet, say, short, table
from flaxcnn.cli.progress import Progress, progress
from flaxcnn.cli.report import report_after
from flaxcnn.errors import DivergedError
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.records.format import count_text
from flaxcnn.studies.plan import check_how, parse_grid, parse_memory, parse_seeds, plan_runs

if TYPE_CHECKING:
    from flaxcnn.records.read import StudyRecord

Seeds = Annotated[
    str,
    typer.Option("--seeds", metavar="N|A,B,...", help="Number of seeds, or a list of them."),
]
Vary = Annotated[
    str,
    typer.Option(
        "--vary",
        metavar="SOURCES",
        help="Vary one source of randomness at a time: init,order,augment,dropout,all.",
    ),
]
FirstSeed = Annotated[
    int | None,
    typer.Option("--seed", help="First seed; sources that are held fixed use it."),
]
StudyDir = Annotated[
    Path | None, typer.Option("--study-dir", help="Directory (default runs/NAME/study-ID).")
]
Resume = Annotated[bool, typer.Option("--resume", help="Resume an interrupted study.")]

Predictions = Annotated[
    bool,
    typer.Option("--predictions", help="Keep each run's logits of the test rows, for data check."),
]


@command
def study(
    experiment: options.Experiment = catalog.DEFAULT_EXPERIMENT,
    *,
    seeds: Seeds,
    grid: options.Grid = None,
    vary: Vary = "",
    how: options.How = "auto",
    max_memory: options.MaxMemory = None,
    grace: options.Grace = None,
    assignments: options.Assignments = None,
    config_file: options.ConfigFile = None,
    seed: FirstSeed = None,
    study_dir: StudyDir = None,
    resume: Resume = False,
    protocol: options.Protocol = None,
    no_cache: options.NoCache = False,
    predictions: Predictions = False,
    as_json: options.Json = False,
) -> None:
    """Train a model with many seeds, and report how sure the result is.

    \b
    Examples:
      flaxcnn study --seeds 20
      flaxcnn study mnist-ladder/model10 --seeds 8
      flaxcnn study --seeds 16 --grid learning_rate=0.01,0.001 --grid optimizer=sgd,adam
      flaxcnn study --seeds 16 --vary init,order,dropout,all
      flaxcnn study mnist-ladder/model10 --seeds 8 -s determinism=exact --study-dir runs/eight
    """
    recipe = catalog.find(experiment)
    check_environment()
    config, _ = catalog.resolve(
        recipe,
        assignments=[*(assignments or ()), *([] if grace is None else [f"grace={grace}"])],
        config_file=config_file,
        protocol=protocol,
        seed=seed,
    )
    plan = Plan(
        parse_seeds(seeds, config.seed),
        parse_grid(grid or ()),
        [word.strip() for word in vary.split(",") if word.strip()],
        check_how(how),
        None if max_memory is None else parse_memory(max_memory),
        plan_folder("study", recipe.name, study_dir, resume),
        resume,
        predictions,
    )
    # Report a wrong plan before anything is loaded.
    plan_runs(config, plan.seeds, plan.grid, plan.vary)
    _run(recipe.name, config, plan, not no_cache, as_json)


class Plan(NamedTuple):
    """The runs that the options ask for."""

    seeds: list[int]
    grid: dict[str, list[Any]]
    vary: list[str]
    how: Any
    max_memory: int | None
    folder: Path
    resume: bool
    predictions: bool

    def ended(self) -> int:
        """Runs that an earlier start has trained."""
        rows = self.folder.expanduser() / "runs.jsonl"
        return rows.read_bytes().count(b"\n") if self.resume and rows.is_file() else 0


def _run(name: str, config: Config, plan: Plan, cache: bool, as_json: bool) -> None:
    """Load the data, train and report."""
    quiet()
    with progress(as_json) as bar:
        result = _train(name, config, plan, cache, bar, as_json)
        page = report_after(result.path)
    _conclude(result, page, as_json)


def _train(
    name: str, config: Config, plan: Plan, cache: bool, bar: Progress, as_json: bool
) -> StudyRecord:
    """Train all runs, with a line for each."""
    from flaxcnn.data.datasets import load_for

    with doing(f"reading {config.dataset}"):  # before jax, so that missing data fails at once
        dataset = load_for(config)
    with doing("starting JAX"):
        from flaxcnn.backend import prepare
        from flaxcnn.engine.resident import ResidentJob
        from flaxcnn.records.views import run_line
        from flaxcnn.studies.events import Listener, Outcome
        from flaxcnn.studies.groups import Group
        from flaxcnn.studies.study import study

        prepare(cache)

    def tell_group(group: Group, jobs: list[ResidentJob], width: int) -> None:
        side = "one at a time" if width == 1 else f"{width} side by side"
        shards = jobs[0].plan.sharding.devices
        where = f"its batches over {shards} devices" if shards > 1 else (
            f"{side} on each of {len(jobs)} devices")  # fmt: skip
        labels = dict.fromkeys(run.name for run in group.runs)
        shown = "; ".join(list(labels)[:4]) + ("; ..." if len(labels) > 4 else "")
        say(f"program of {count_text(len(group.runs), 'run')} ({shown}): {where}", as_json)

    def tell_run(outcome: Outcome, ended: int, planned: int) -> None:
        row, label = outcome.row, outcome.run.label
        if row["status"] == "diverged":
            note(f"seed {row['seed']} {label}: {row['reason']}")
            return
        say(run_line(row, label, ended, planned), as_json)

    settings = f"grid {', '.join(plan.grid)}, " if plan.grid else ""
    say(f"{name}: {settings}{count_text(len(plan.seeds), 'seed')} on {config.dataset}, "
        f"{config.protocol} protocol, determinism {config.determinism}", as_json)  # fmt: skip
    bar.plan(len(plan_runs(config, plan.seeds, plan.grid, plan.vary)), "run", plan.ended())
    listener = bar.listener(Listener(note=note, group=tell_group, run=tell_run))
    return study(
        config, plan.seeds, grid=plan.grid, vary=plan.vary, how=plan.how, study_dir=plan.folder,
        max_memory=plan.max_memory, resume=plan.resume, name=name, dataset=dataset, tell=listener,
        predictions=plan.predictions,
    )  # fmt: skip


def _conclude(result: StudyRecord, page: Path | None, as_json: bool) -> None:
    from flaxcnn.records.views import seeds_table, variance_table

    say("", as_json)
    less = ("lowest", "highest", "parameters")
    table(seeds_table(result.summary, result.rows).lines(), as_json, less=less)
    for variance in result.summary["variance"]:
        say(f"variance {variance['setting']}".rstrip() + "\n", as_json)
        table(variance_table(variance).lines(), as_json)
    say(f"study  {short(result.path)}\nreport {short(page or result.path / 'README.md')}", as_json)
    if as_json:
        emit_json({**result.summary, "study_dir": str(result.path)})
    if not result.summary["complete"]:
        print_error("every run diverged; lower learning_rate", DivergedError.exit_code, False)
        raise typer.Exit(DivergedError.exit_code)
