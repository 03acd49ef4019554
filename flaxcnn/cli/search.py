"""`flaxcnn search`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from flaxcnn.cli.options import ASSIGNMENTS, CONFIG_FILE, EXPERIMENT, JSON, NO_CACHE, PROTOCOL
from flaxcnn.cli.output import command, emit_json, note, quiet, report, say, table
from flaxcnn.cli.report import report_after
from flaxcnn.cli.train import check_environment
from flaxcnn.engine.folder import runs_folder, stamp
from flaxcnn.errors import CheckpointError, ConfigError, DivergedError
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.studies.plan import (
    check_how,
    label,
    parse_grid,
    parse_memory,
    parse_seeds,
    settings_of,
    with_setting,
)

Wanted = list[tuple[Mapping[str, Any], Config]]


@command
def search(
    experiment: str = EXPERIMENT,
    grid: list[str] = typer.Option(
        [], "--grid", metavar="KEY=A,B", help="Values of a setting; all combinations are tried."
    ),
    folds: int = typer.Option(5, "--folds", help="Parts of the training rows, each scored once."),
    repeats: int = typer.Option(1, "--repeats", help="How often rows are dealt into folds anew."),
    seeds: str = typer.Option("1", "--seeds", metavar="N|A,B,...", help="Trainings of each fold."),
    max_params: int = typer.Option(
        None, "--max-params", help="Leave out candidates with more parameters."
    ),
    how: str = typer.Option("auto", "--how", help="auto, vmap (side by side) or map (in turn)."),
    max_memory: str = typer.Option(
        None, "--max-memory", metavar="SIZE", help="For the arrays of runs, such as 2G."
    ),
    no_refit: bool = typer.Option(
        False, "--no-refit", help="Choose only: do not train and test the winner."
    ),
    assignments: list[str] = ASSIGNMENTS,
    config_file: Path = CONFIG_FILE,
    seed: int = typer.Option(None, "--seed", help="The first seed."),
    search_dir: Path = typer.Option(None, "--search-dir", help="Default runs/NAME/search-ID."),
    resume: bool = typer.Option(False, "--resume", help="Go on with an interrupted search."),
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
    """
    found = catalog.find(experiment)
    check_environment()
    way = check_how(how)
    if protocol not in (None, "honest", "document"):
        raise ConfigError(f"--protocol: got {protocol!r}; allowed are honest, document")
    layer = Layer(assignments, config_file, seed)
    wanted, incumbent = _wanted(found, parse_grid(grid), layer)
    chosen = parse_seeds(seeds, wanted[0][1].seed)
    memory = None if max_memory is None else parse_memory(max_memory)
    folder = _folder(found.name, search_dir, resume)
    from flaxcnn.data.datasets import load_for

    dataset = load_for(wanted[0][1])
    from flaxcnn.backend import prepare
    from flaxcnn.studies import ranking
    from flaxcnn.studies.runs import Outcome
    from flaxcnn.studies.search import contenders
    from flaxcnn.studies.search import search as run
    from flaxcnn.studies.study import Tell

    quiet()
    prepare(not no_cache)
    tried, dropped = contenders(wanted, dataset, max_params)
    for one in dropped:
        note(f"{one.label} is not tried: {one.reason}")

    def tell_run(outcome: Outcome, ended: int, planned: int) -> None:
        row, name = outcome.row, outcome.run.label
        if row["status"] == "diverged":
            note(f"{name} seed {row['seed']}: {row['reason']}")
            return
        say(f"run {ended:>3}/{planned}  {name}  seed {row['seed']}  "
            f"fold accuracy {row['test_accuracy']:.4f}", as_json)  # fmt: skip

    for key, why in found.inferred.items():
        if any(key in settings for settings, _ in wanted):
            note(f"{key}: inferred, not the document's own: {why}")
    say(f"{found.name}: {len(tried)} candidates, {folds} folds, {repeats} repeats on "
        f"{dataset.name}, {protocol or 'honest'} protocol", as_json)  # fmt: skip
    result = run(
        tried, dropped, dataset, folds=folds, repeats=repeats, seeds=chosen,
        incumbent=incumbent, how=way, max_memory=memory, refit=not no_refit, search_dir=folder,
        document=protocol == "document",
        resume=resume, name=found.name, tell=Tell(note=note, run=tell_run),
    )  # fmt: skip
    say("", as_json)
    table(ranking.lines(result.summary), as_json)
    _conclude(result.summary, result.path, as_json)


def _conclude(summary: Mapping[str, Any], path: Path, as_json: bool) -> None:
    if refit := summary.get("refit"):
        say(f"\nwinner {summary['winner']}, trained on the whole training split: test accuracy "
            f"{refit['test_accuracy']:.4f}", as_json)  # fmt: skip
    page = report_after(path)
    say(f"search {path}\nreport {page or path / 'README.md'}", as_json)
    if as_json:
        emit_json({**summary, "search_dir": str(path)})
    if summary["winner"] is None:
        text = "every candidate has a run that diverged; lower learning_rate"
        report(text, DivergedError.exit_code, as_json=False)
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
    found: catalog.Experiment, grid: Mapping[str, Sequence[Any]], layer: Layer
) -> tuple[Wanted, str | None]:
    """Settings and recipe of every candidate, and the label of the incumbent."""
    wanted: Wanted = []
    points: list[tuple[Mapping[str, Any], Config | None]]
    if found.candidates:
        points = [(point.settings, point.config) for point in found.candidates if point.config]
        for point in found.candidates:
            if point.config is None:
                note(f"{label(point.settings)} cannot be built: {point.reason}")
    else:
        points = [({}, found.config)]
    for settings, config in points:
        if config is None:
            raise ConfigError(f"{found.name} cannot be searched: {found.refusal}")
        one = layer.over(replace(found, config=config))
        for extra in settings_of(grid):
            wanted.append(({**settings, **extra}, with_setting(one, extra)))
    if not found.candidates and not grid:
        raise ConfigError(
            f"--grid: {found.name} is one recipe; allowed is KEY=VALUE,VALUE, such as "
            "--grid learning_rate=0.1,0.01"
        )
    if not found.candidates:  # the recipe as it stands, which the others must beat
        wanted.insert(0, ({}, layer.over(found)))
        return wanted, "as it is"
    if not found.incumbent:
        return wanted, None
    hand_made = layer.over(catalog.find(found.incumbent))
    twin = next((settings for settings, config in wanted if config == hand_made), None)
    if twin is None:
        twin = {"incumbent": found.incumbent}
        wanted.insert(0, (twin, hand_made))
    return wanted, label(twin)


def _folder(name: str, chosen: Path | None, resume: bool) -> Path:
    if chosen is not None:
        if resume and not (chosen.expanduser() / "plan.json").is_file():
            raise CheckpointError(f"--resume: {chosen} holds no search")
        return chosen
    if resume:
        raise ConfigError("--resume: which search? name it with --search-dir")
    return runs_folder() / name / f"search-{stamp()}"
