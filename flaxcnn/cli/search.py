"""`flaxcnn search`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from flaxcnn.activity import doing
from flaxcnn.cli import options
from flaxcnn.cli.options import check_environment, plan_folder
from flaxcnn.cli.output import (
    command,
    emit_json,
    hanging,
    note,
    print_error,
    quiet,
    say,
    short,
    table,
)
from flaxcnn.cli.progress import Progress, progress
from flaxcnn.cli.report import report_after
from flaxcnn.errors import ConfigError, DivergedError, check_choice
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.records.format import UNCHANGED, count_text
from flaxcnn.studies.candidates import Proposals, of_catalog, of_grid
from flaxcnn.studies.plan import (
    Scoring,
    check_how,
    parse_grid,
    parse_memory,
    parse_seeds,
)
from flaxcnn.studies.samplers import Sampling
from flaxcnn.studies.space import parse_space, read_space

if TYPE_CHECKING:  # they import jax
    from flaxcnn.data.arrays import Dataset
    from flaxcnn.records.read import SearchRecord
    from flaxcnn.studies.events import Listener, Outcome


Seeds = Annotated[
    str,
    typer.Option(
        "--seeds", metavar="N|A,B,...", help="Train each fold with so many, or these, seeds."
    ),
]
FirstSeed = Annotated[int | None, typer.Option("--seed", help="First seed.")]
SearchDir = Annotated[
    Path | None, typer.Option("--search-dir", help="Directory (default runs/NAME/search-ID).")
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Resume an interrupted search, or join one with a sampler."),
]


@command
def search(
    experiment: options.Experiment = catalog.DEFAULT_EXPERIMENT,
    grid: options.Grid = None,
    folds: options.Folds = 5,
    repeats: options.Repeats = 1,
    seeds: Seeds = "1",
    max_params: options.MaxParams = None,
    sampler: options.Sampler = None,
    trials: options.Trials = None,
    space: options.Space = None,
    pruner: options.Pruner = None,
    how: options.How = "auto",
    max_memory: options.MaxMemory = None,
    no_refit: options.NoRefit = False,
    assignments: options.Assignments = None,
    config_file: options.ConfigFile = None,
    seed: FirstSeed = None,
    search_dir: SearchDir = None,
    resume: Resume = False,
    protocol: options.Protocol = None,
    no_cache: options.NoCache = False,
    as_json: options.Json = False,
) -> None:
    """Cross-validate recipes on folds of the training rows, and test the winner once.

    \b
    Examples:
      flaxcnn search --grid learning_rate=0.01,0.001 --grid batch_size=32,64
      flaxcnn search fashion-slim/grid --max-params 50000
      flaxcnn search fashion-budget/grid --folds 5 --search-dir runs/budget
      flaxcnn search mnist-archs/grid-kernel -s epochs=3
      flaxcnn search mnist-ladder/model10 --sampler tpe --trials 50 --space file.toml
    """
    recipe = catalog.find(experiment)
    check_environment()
    if protocol is not None:
        check_choice("--protocol", protocol, ("honest", "document"))
    values, layer = parse_grid(grid or ()), Layer(assignments or (), config_file, seed)
    sampling = _sampling(recipe, values, sampler, trials, space, pruner)
    candidates, incumbent = _candidates(recipe, {} if sampling else values, layer, bool(sampling))
    base = candidates[0][1]
    scoring = Scoring(
        folds,
        repeats,
        tuple(parse_seeds(seeds, base.seed)),
        (protocol or base.protocol) == "document",
        check_how(how),
        None if max_memory is None else parse_memory(max_memory),
    )
    folder = plan_folder("search", recipe.name, search_dir, resume)
    if sampling is not None:
        sampling.check(base, scoring.how)
    plan = Plan(recipe, candidates, incumbent, scoring, max_params, not no_refit, folder, resume,
                as_json)  # fmt: skip
    _run(plan, sampling, not no_cache)


class Plan(NamedTuple):
    """The search that the options ask for."""

    experiment: catalog.Experiment
    candidates: Proposals
    incumbent: str | None
    scoring: Scoring
    max_params: int | None
    refit: bool
    folder: Path
    resume: bool
    as_json: bool

    def announce(self, count: str, dataset: Dataset) -> None:
        """Print the first line."""
        scoring = self.scoring
        protocol = "document" if scoring.document else "honest"
        say(f"{self.experiment.name}: {count}, {count_text(scoring.folds, 'fold')}, "
            f"{count_text(scoring.repeats, 'repeat')} on "
            f"{dataset.name}, {protocol} protocol", self.as_json)  # fmt: skip

    def listener(self) -> Listener:
        """Prints a line per run and per trial."""
        from flaxcnn.records.views import fold_line
        from flaxcnn.studies.events import Listener

        def tell_run(outcome: Outcome, ended: int, planned: int) -> None:
            row, name = outcome.row, outcome.run.label
            if row["status"] == "diverged":
                note(f"{name} seed {row['seed']}: {row['reason']}")
                return
            say(fold_line(row, name, ended, planned), self.as_json)

        return Listener(note=note, run=tell_run, trial=lambda text: say(text, self.as_json))


def _run(plan: Plan, sampling: Sampling | None, cache: bool) -> None:
    """Load the data, search and report."""
    from flaxcnn.data.datasets import load_for

    quiet()
    with progress(plan.as_json) as bar:
        with doing(f"reading {plan.candidates[0][1].dataset}"):
            dataset = load_for(plan.candidates[0][1])  # before jax is imported
        with doing("starting JAX"):
            from flaxcnn.backend import prepare
            from flaxcnn.records.views import candidates_table

            prepare(cache)
        result = (
            _grid_search(plan, dataset, bar)
            if sampling is None
            else _sampled_search(plan, sampling, dataset, bar)
        )
        page = None if result is None else report_after(result.path)
    if result is None:
        say(f"search {plan.folder}\nother processes are still running trials; the last one writes "
            "the table", plan.as_json)  # fmt: skip
        if plan.as_json:
            emit_json({"complete": False, "search_dir": str(plan.folder)})
        return
    say("", plan.as_json)
    table(candidates_table(result.summary).lines(), plan.as_json, less=("seconds", "folds"))
    _conclude(result.summary, result.path, page, plan.as_json)


def _grid_search(plan: Plan, dataset: Dataset, bar: Progress) -> SearchRecord:
    """All candidates of a grid."""
    from flaxcnn.studies.candidates import Candidates
    from flaxcnn.studies.search import campaign_of, search_candidates

    candidates = Candidates.of(plan.candidates, dataset, plan.max_params, plan.incumbent)
    for each in candidates.dropped:
        note(f"skipping {each.label}: {each.reason}")
    for key, why in plan.experiment.inferred.items():
        if any(key in settings for settings, _ in plan.candidates):
            note(f"{key} is inferred, not stated by the document: {why}")
    plan.announce(count_text(len(candidates.tried), "candidate"), dataset)
    campaign = campaign_of(
        plan.scoring, dataset, plan.folder, name=plan.experiment.name, resume=plan.resume,
        listener=bar.listener(plan.listener()),
    )  # fmt: skip
    return search_candidates(candidates, plan.scoring, campaign, plan.refit)


def _sampled_search(
    plan: Plan, sampling: Sampling, dataset: Dataset, bar: Progress
) -> SearchRecord | None:
    """The sampled ones; None while other processes still run trials."""
    from flaxcnn.studies.sampled import sampled_search

    plan.announce(f"{count_text(sampling.trials, 'trial')} by {sampling.sampler}", dataset)
    return sampled_search(
        plan.candidates[0][1], sampling, plan.scoring, max_params=plan.max_params, refit=plan.refit,
        search_dir=plan.folder, resume=plan.resume, name=plan.experiment.name, dataset=dataset,
        tell=bar.trials(plan.listener(), sampling.trials),
    )  # fmt: skip


def _sampling(
    experiment: catalog.Experiment,
    grid: Mapping[str, Sequence[Any]],
    sampler: str | None,
    trials: int | None,
    space: Path | None,
    pruner: str | None,
) -> Sampling | None:
    """How candidates are sampled; None: all candidates of a grid are tried."""
    if sampler is None:
        others = {"--trials": trials, "--space": space, "--pruner": pruner}
        if given := [name for name, value in others.items() if value is not None]:
            raise ConfigError(f"{given[0]} needs --sampler tpe or --sampler random")
        return None
    if experiment.candidates:
        example = f", such as {experiment.incumbent}" if experiment.incumbent else ""
        raise ConfigError(
            f"--sampler: all candidates of the grid {experiment.name} are tried; sample around an "
            f"experiment with one recipe{example}"
        )
    if not grid and space is None:
        raise ConfigError("--sampler needs a search space: give --space FILE or --grid KEY=A,B")
    chosen = {**(read_space(space) if space else {}), **parse_space(grid)}
    return Sampling(chosen, sampler, 50 if trials is None else trials, pruner or "median")  # type: ignore[arg-type]  # checked


def _conclude(summary: Mapping[str, Any], path: Path, page: Path | None, as_json: bool) -> None:
    from flaxcnn.records.views import refit_note

    if "refit" in summary:
        say("\n" + hanging("", refit_note(summary)), as_json)
    failed = refit_note(summary) if "refit_diverged" in summary else ""
    if summary["winner"] is None:
        failed = "every candidate has a run that diverged; lower learning_rate"
    say(f"search {short(path)}\nreport {short(page or path / 'README.md')}", as_json)
    if as_json:
        emit_json({**summary, "search_dir": str(path)})
    if failed:
        print_error(failed, DivergedError.exit_code, as_json=False)
        raise typer.Exit(DivergedError.exit_code)


class Layer:
    """The settings that apply to every candidate."""

    def __init__(self, assignments: Sequence[str], file: Path | None, seed: int | None):
        self.assignments, self.file, self.seed = assignments, file, seed

    def over(self, experiment: catalog.Experiment) -> Config:
        """The recipe of an experiment with these settings."""
        config, _ = catalog.resolve(
            experiment, assignments=self.assignments, config_file=self.file, seed=self.seed
        )  # fmt: skip
        return config


def _candidates(
    experiment: catalog.Experiment, grid: Mapping[str, Sequence[Any]], layer: Layer, sampled: bool
) -> tuple[Proposals, str | None]:
    """Settings and recipe of every candidate, and the label of the incumbent.

    The recipe unchanged where the others are `sampled`.
    """
    if experiment.candidates:
        return of_catalog(experiment, layer.over, grid, note)
    if experiment.config is None:
        raise ConfigError(f"{experiment.name} cannot be searched: {experiment.refusal}")
    config = layer.over(experiment)
    if sampled:
        return [({}, config)], UNCHANGED
    if not grid:
        raise ConfigError(
            f"{experiment.name} has one recipe; give values to try, such as "
            "--grid learning_rate=0.1,0.01"
        )
    tried = of_grid(config, grid)
    if config not in [other for _, other in tried[1:]]:
        note("no combination of --grid is the recipe unchanged, which is tried too")
    return tried, UNCHANGED
