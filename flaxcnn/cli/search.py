"""`flaxcnn search`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from flaxcnn.cli.options import (
    ASSIGNMENTS,
    CONFIG_FILE,
    EXPERIMENT,
    FOLDS,
    GRID,
    HOW,
    JSON,
    MAX_MEMORY,
    MAX_PARAMS,
    NO_CACHE,
    NO_REFIT,
    PROTOCOL,
    PRUNER,
    REPEATS,
    SAMPLER,
    SPACE,
    TRIALS,
)
from flaxcnn.cli.output import command, emit_json, note, quiet, report, say, table
from flaxcnn.cli.report import report_after
from flaxcnn.cli.train import check_environment
from flaxcnn.errors import CheckpointError, ConfigError, DivergedError
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.records.folder import runs_folder, stamp
from flaxcnn.studies.candidates import AS_IT_IS, Wanted, of_catalog, of_grid
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
    from flaxcnn.studies.runs import Outcome
    from flaxcnn.studies.search import SearchResult
    from flaxcnn.studies.study import Tell


@command
def search(
    experiment: str = EXPERIMENT,
    grid: list[str] = GRID,
    folds: int = FOLDS,
    repeats: int = REPEATS,
    seeds: str = typer.Option("1", "--seeds", metavar="N|A,B,...", help="Trainings of each fold."),
    max_params: int = MAX_PARAMS,
    sampler: str = SAMPLER,
    trials: int = TRIALS,
    space: Path = SPACE,
    pruner: str = PRUNER,
    how: str = HOW,
    max_memory: str = MAX_MEMORY,
    no_refit: bool = NO_REFIT,
    assignments: list[str] = ASSIGNMENTS,
    config_file: Path = CONFIG_FILE,
    seed: int = typer.Option(None, "--seed", help="The first seed."),
    search_dir: Path = typer.Option(None, "--search-dir", help="Default runs/NAME/search-ID."),
    resume: bool = typer.Option(
        False, "--resume", help="Go on with an interrupted search, or join one with a sampler."
    ),
    protocol: str = PROTOCOL,
    no_cache: bool = NO_CACHE,
    as_json: bool = JSON,
) -> None:
    """Try recipes on folds of the training rows, rank them, and test the winner once.

    \b
    Examples:
      flaxcnn search --grid learning_rate=0.01,0.001 --grid batch_size=32,64
      flaxcnn search fashion-slim/grid --max-params 50000
      flaxcnn search fashion-budget/grid --folds 5 --search-dir runs/budget
      flaxcnn search mnist-archs/grid-kernel -s epochs=3
      flaxcnn search mnist-ladder/model10 --sampler tpe --trials 50 --space file.toml
    """
    found = catalog.find(experiment)
    check_environment()
    if protocol not in (None, "honest", "document"):
        raise ConfigError(f"--protocol: got {protocol!r}; allowed are honest, document")
    values, layer = parse_grid(grid), Layer(assignments, config_file, seed)
    sampling = _sampling(found, values, sampler, trials, space, pruner)
    wanted, incumbent = _wanted(found, {} if sampling else values, layer, sampling is not None)
    scoring = Scoring(
        folds, repeats, tuple(parse_seeds(seeds, wanted[0][1].seed)),
        (protocol or wanted[0][1].protocol) == "document", check_how(how),
        None if max_memory is None else parse_memory(max_memory),
    )  # fmt: skip
    todo = Todo(found, wanted, incumbent, scoring, max_params, not no_refit,
                _folder(found.name, search_dir, resume), resume, as_json)  # fmt: skip
    if sampling is not None:
        sampling.check(todo.wanted[0][1], scoring.how)
    _run(todo, sampling, not no_cache)


class Todo(NamedTuple):
    """What the options say."""

    experiment: catalog.Experiment
    wanted: Wanted
    incumbent: str | None
    scoring: Scoring
    max_params: int | None
    refit: bool
    folder: Path
    resume: bool
    as_json: bool

    def say_what(self, count: str, dataset: Dataset) -> None:
        """The first line."""
        one = self.scoring
        protocol = "document" if one.document else "honest"
        say(f"{self.experiment.name}: {count}, {one.folds} folds, {one.repeats} repeats on "
            f"{dataset.name}, {protocol} protocol", self.as_json)  # fmt: skip

    def tell(self) -> Tell:
        """What is said of each run."""
        from flaxcnn.studies.study import Tell

        def tell_run(outcome: Outcome, ended: int, planned: int) -> None:
            row, name = outcome.row, outcome.run.label
            if row["status"] == "diverged":
                note(f"{name} seed {row['seed']}: {row['reason']}")
                return
            say(f"run {ended:>3}/{planned}  {name}  seed {row['seed']}  "
                f"fold accuracy {row['test_accuracy']:.4f}", self.as_json)  # fmt: skip

        return Tell(note=note, run=tell_run)


def _run(todo: Todo, sampling: Sampling | None, cache: bool) -> None:
    """Load, search and tell."""
    from flaxcnn.data.datasets import load_for

    dataset = load_for(todo.wanted[0][1])  # before jax is imported: missing data is said at once
    from flaxcnn.backend import prepare
    from flaxcnn.studies import ranking

    quiet()
    prepare(cache)
    result = _try(todo, dataset) if sampling is None else _draw(todo, sampling, dataset)
    if result is None:
        say(f"search {todo.folder}\nother processes are still at work on it; the last one writes "
            "the table", todo.as_json)  # fmt: skip
        if todo.as_json:
            emit_json({"complete": False, "search_dir": str(todo.folder)})
        return
    say("", todo.as_json)
    table(ranking.lines(result.summary), todo.as_json)
    _conclude(result.summary, result.path, todo.as_json)


def _try(todo: Todo, dataset: Dataset) -> SearchResult:
    """Every candidate."""
    from flaxcnn.studies.candidates import contenders
    from flaxcnn.studies.search import search_candidates

    tried, dropped = contenders(todo.wanted, dataset, todo.max_params)
    for one in dropped:
        note(f"{one.label} is not tried: {one.reason}")
    for key, why in todo.experiment.inferred.items():
        if any(key in settings for settings, _ in todo.wanted):
            note(f"{key}: inferred, not the document's own: {why}")
    todo.say_what(f"{len(tried)} candidates", dataset)
    return search_candidates(
        tried, dropped, dataset, todo.scoring, incumbent=todo.incumbent,
        max_params=todo.max_params, refit=todo.refit,
        search_dir=todo.folder, resume=todo.resume, name=todo.experiment.name, tell=todo.tell(),
    )  # fmt: skip


def _draw(todo: Todo, sampling: Sampling, dataset: Dataset) -> SearchResult | None:
    """As many as are wanted; None where other processes are still at work."""
    from flaxcnn.studies.sampled import sampled_search

    todo.say_what(f"{sampling.trials} trials by {sampling.sampler}", dataset)
    return sampled_search(
        todo.wanted[0][1], sampling, todo.scoring, max_params=todo.max_params, refit=todo.refit,
        search_dir=todo.folder, resume=todo.resume, name=todo.experiment.name, dataset=dataset,
        tell=todo.tell(), say=lambda text: say(text, todo.as_json),
    )  # fmt: skip


def _sampling(
    found: catalog.Experiment, grid: Mapping[str, Sequence[Any]], sampler: str | None,
    trials: int | None, space: Path | None, pruner: str | None,
) -> Sampling | None:  # fmt: skip
    """What is drawn; None: all candidates are tried."""
    if sampler is None:
        others = {"--trials": trials, "--space": space, "--pruner": pruner}
        if given := [name for name, value in others.items() if value is not None]:
            raise ConfigError(f"{given[0]}: is for --sampler; allowed there are tpe, random")
        return None
    if found.candidates:
        raise ConfigError(
            f"--sampler: {found.name} is a grid, whose candidates are all tried; allowed is an "
            f"experiment of one recipe{f', such as {found.incumbent}' if found.incumbent else ''}"
        )
    if not grid and space is None:
        raise ConfigError("--sampler: draws from what? say --space FILE, or --grid KEY=A,B")
    chosen = {**(read_space(space) if space else {}), **parse_space(grid)}
    return Sampling(chosen, sampler, 50 if trials is None else trials, pruner or "median")  # type: ignore[arg-type]  # checked


def _conclude(summary: Mapping[str, Any], path: Path, as_json: bool) -> None:
    if refit := summary.get("refit"):
        say(f"\nwinner {summary['winner']}, trained on the whole training split: test accuracy "
            f"{refit['test_accuracy']:.4f}", as_json)  # fmt: skip
    failed = summary.get("refit_diverged")
    if summary["winner"] is None:
        failed = "every candidate has a run that diverged; lower learning_rate"
    elif failed:
        failed = f"the winner diverged on the whole training split: {failed}"
    page = report_after(path)
    say(f"search {path}\nreport {page or path / 'README.md'}", as_json)
    if as_json:
        emit_json({**summary, "search_dir": str(path)})
    if failed:
        report(failed, DivergedError.exit_code, as_json=False)
        raise typer.Exit(DivergedError.exit_code)


class Layer:
    """What is laid over every candidate."""

    def __init__(self, assignments: Sequence[str], file: Path | None, seed: int | None):
        self.assignments, self.file, self.seed = assignments, file, seed

    def over(self, experiment: catalog.Experiment) -> Config:
        """The recipe of an experiment with it."""
        config, _ = catalog.resolve(
            experiment, assignments=self.assignments, config_file=self.file, seed=self.seed
        )  # fmt: skip
        return config


def _wanted(
    found: catalog.Experiment, grid: Mapping[str, Sequence[Any]], layer: Layer, drawn: bool
) -> tuple[Wanted, str | None]:
    """Settings and recipe of every candidate, and the label of the incumbent.

    The recipe as it stands where the others are `drawn`.
    """
    if not found.candidates:
        if found.config is None:
            raise ConfigError(f"{found.name} cannot be searched: {found.refusal}")
        one = layer.over(found)
        if drawn:
            return [({}, one)], AS_IT_IS
        if not grid:
            raise ConfigError(
                f"--grid: {found.name} is one recipe; allowed is KEY=VALUE,VALUE, such as "
                "--grid learning_rate=0.1,0.01"
            )
        tried = of_grid(one, grid)
        if one not in [config for _, config in tried[1:]]:
            note("no combination of --grid is the recipe as it stands, which is tried beside them")
        return tried, AS_IT_IS
    return of_catalog(found, layer.over, grid, note)


def _folder(name: str, chosen: Path | None, resume: bool) -> Path:
    if chosen is not None:
        if resume and not (chosen.expanduser() / "plan.json").is_file():
            raise CheckpointError(f"--resume: {chosen} holds no search")
        return chosen
    if resume:
        raise ConfigError("--resume: which search? name it with --search-dir")
    return runs_folder() / name / f"search-{stamp()}"
