"""`flaxcnn bench --to-accuracy`: whole runs, timed as the speed records are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flaxcnn.activity import doing
from flaxcnn.cli.output import emit_json, note, quiet, say
from flaxcnn.cli.progress import progress
from flaxcnn.errors import ConfigError
from flaxcnn.recipe.config import Config
from flaxcnn.records.files import plain, write_atomic

if TYPE_CHECKING:
    from flaxcnn.speedrun import Run

RUNS = 5
ToAccuracy = Annotated[
    float | None,
    typer.Option(
        "--to-accuracy",
        metavar="0.94",
        help="Time whole runs, and hold their mean test accuracy against this.",
    ),
]
Runs = Annotated[
    int | None, typer.Option("--runs", help=f"With --to-accuracy: how many (default {RUNS}).")
]


def check(target: float | None, runs: int | None, others: Mapping[str, Any]) -> None:
    """Refuse what makes no sense together.

    Args:
        target: --to-accuracy.
        runs: --runs.
        others: options that do not apply to whole runs, and what they have if they were given.

    Raises:
        ConfigError: naming the option.
    """
    if target is None:
        if runs is not None:
            raise ConfigError(f"--runs={runs} needs --to-accuracy")
        return
    if not 0 < target < 1:
        raise ConfigError(
            f"--to-accuracy must be a share between 0 and 1, such as 0.94 (got {target:g})"
        )
    if runs is not None and runs < 1:
        raise ConfigError(f"--runs must be at least 1 (got {runs})")
    for option, given in others.items():
        if given:
            hint = "; use -s precision=bfloat16" if option == "--dtype" else ""
            raise ConfigError(
                f"{option} does not apply to --to-accuracy, which times whole runs{hint}"
            )


def run(
    target: float, runs: int | None, configs: Mapping[str, Config], output: Path | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Race each recipe; the document is printed and written as each ends.

    Raises:
        ConfigError: a recipe that needs the host between its epochs.
        DataError: its data is not there.
    """
    from flaxcnn.data.datasets import load_for, require_resident
    from flaxcnn.speedrun import race, whole_recipe

    recipes = {name: whole_recipe(config) for name, config in configs.items()}
    data = {name: load_for(config) for name, config in recipes.items()}
    for name, config in recipes.items():
        config.check_on(data[name].shape, data[name].num_classes)
        require_resident(config, data[name], "bench")
    with doing("starting JAX"):
        from flaxcnn.backend import prepare
        from flaxcnn.records.environment import environment

        prepare(cache=False)
    quiet()
    document: dict[str, Any] = {"races": [], "environment": environment()}
    if document["environment"]["backend"] == "cpu" and any(
        config.precision == "bfloat16" for config in recipes.values()
    ):
        note("bfloat16: a CPU emulates it in float32 and gains nothing from it")
    with progress(as_json, lines=False):
        for name, config in recipes.items():
            say(f"{name}: {config.epochs} epochs, {config.precision}", as_json)
            found = race(
                name, config, data[name], target, runs or RUNS,
                lambda each: say(_run_line(each), as_json),
            )  # fmt: skip
            document["races"].append(plain(found))
            for line in _lines(found):
                say(line, as_json)
            if output:
                text = json.dumps(document, indent=1, allow_nan=False) + "\n"
                write_atomic(output, text.encode())
    if as_json:
        emit_json(document)


def _run_line(run: Run) -> str:
    return f"seed {run.seed:>3}  {run.seconds:>10,.2f} s  test accuracy {run.accuracy:.4f}"


def _lines(found: Mapping[str, Any]) -> list[str]:
    seconds, accuracy = found["seconds"], found["accuracy"]
    spread = "" if accuracy["sd"] is None else f", sd {accuracy['sd']:.4f}"
    p = "" if found["p"] is None else f", p = {found['p']:.2g}"
    verb = "reached" if found["reached"] else "not reached"
    return [
        f"time     {seconds['min']:,.2f} s at least, median {seconds['median']:,.2f}, mean "
        f"{seconds['mean']:,.2f} (n = {accuracy['n']}); compiling {found['compile_seconds']:.1f} s",
        f"accuracy {accuracy['mean']:.4f} (n = {accuracy['n']}{spread})",
        f"bar      {found['target']:g} {verb} by the mean{p}",
        f"training {found['training_flops'] / 1e15:.4g} Pflop a run",
    ]
