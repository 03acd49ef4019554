"""Options that several commands have, and what they share when they read them."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from flaxcnn.cli.output import note
from flaxcnn.errors import CheckpointError, ConfigError, near_miss
from flaxcnn.recipe.config import GROUPS, Config
from flaxcnn.recipe.fields import settings
from flaxcnn.records.folder import new_plan

# FLAXCNN_* in the environment that are not settings
VARIABLES = (
    "ARCHIVES", "DATA_DIR", "CACHE_DIR", "RUNS_DIR", "START_SECONDS", "DEBUG", "GPU_GRAPHS",
    "ACCELERATORS", "LAUNCHER", "READ_SECONDS", "FAULT",
)  # fmt: skip

Experiment = Annotated[
    str, typer.Argument(help="A name from `flaxcnn experiments list`, or FILE.py:NAME.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "-s", "--set", metavar="KEY=VALUE", help="Change a setting; KEY may be dotted. Repeatable."
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="Read settings from a TOML or JSON file.")
]
Protocol = Annotated[
    str | None,
    typer.Option("--protocol", help="honest (default), or document: evaluate as the document did."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout.")]
NoCache = Annotated[
    bool, typer.Option("--no-cache", help="Neither use nor keep cached compiled programs.")
]

# -- of many runs
Grid = Annotated[
    list[str] | None,
    typer.Option(
        "--grid", metavar="KEY=A,B", help="Try these values of a setting. Repeat for a full grid."
    ),
]
How = Annotated[
    str,
    typer.Option("--how", help="Run side by side (vmap), one after another (map), or auto."),
]
MaxMemory = Annotated[
    str | None,
    typer.Option("--max-memory", metavar="SIZE", help="Memory for runs side by side, such as 2G."),
]

# -- of searches
Folds = Annotated[int, typer.Option("--folds", help="Number of folds of the training rows.")]
Repeats = Annotated[
    int, typer.Option("--repeats", help="Repeat the cross-validation with other folds.")
]
MaxParams = Annotated[
    int | None, typer.Option("--max-params", help="Skip candidates with more parameters.")
]
Sampler = Annotated[
    str | None, typer.Option("--sampler", help="Sample candidates with Optuna: tpe or random.")
]
Trials = Annotated[
    int | None, typer.Option("--trials", help="Number of sampled candidates (default 50).")
]
Space = Annotated[
    Path | None,
    typer.Option("--space", metavar="FILE", help="TOML file with ranges or choices to sample."),
]
Pruner = Annotated[
    str | None,
    typer.Option(
        "--pruner", help="Stop unpromising trials early: median (default), hyperband or none."
    ),
]
NoRefit = Annotated[
    bool, typer.Option("--no-refit", help="Do not train and test the winner on all training rows.")
]

# -- of training, on several devices and processes
ResumeIfAny = Annotated[
    bool, typer.Option("--resume-if-any", help="Resume if the run has started, else start it.")
]
CheckpointDir = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-dir",
        metavar="PATH|URL",
        help="Save checkpoints here, also gs://... (default RUN/checkpoints).",
    ),
]
Parallel = Annotated[
    str | None,
    typer.Option("--parallel", help="How devices share a batch: auto, jit, pmap or shard_map."),
]
Grace = Annotated[
    float | None,
    typer.Option(
        "--grace",
        metavar="SECONDS",
        help="Have all saved so soon after a signal (default 30, as Slurm and Kubernetes wait).",
    ),
]
Distributed = Annotated[
    bool,
    typer.Option("--distributed", help="Join the cluster that JAX detects: TPU, GKE, Slurm, MPI."),
]
Coordinator = Annotated[
    str | None,
    typer.Option(
        "--coordinator", metavar="HOST:PORT", help="Address of process 0, without a cluster."
    ),
]
Processes = Annotated[int | None, typer.Option("--processes", help="Number of processes.")]
Process = Annotated[int | None, typer.Option("--process", help="Number of this process, from 0.")]


def settings_by_group() -> str:
    """The names of all settings, for the end of a --help."""
    paragraphs = ["\b\nSettings for -s and --config, with values from --print-config:"]
    for group in GROUPS:
        names = f"{group.__name__.lower()}: {', '.join(name for name, _ in settings(group))}"
        paragraphs.append(textwrap.fill(names, 76, initial_indent="  ", subsequent_indent="    "))
    return "\n".join(paragraphs)


def check_environment() -> None:
    """Warn of FLAXCNN_* variables that are no setting."""
    known = {*VARIABLES, *(name.upper() for name, _ in settings(Config))}
    for name in os.environ:
        word = name.removeprefix("FLAXCNN_")
        if word != name and word.partition("__")[0] not in known:
            note(f"ignoring unknown environment variable {name}{near_miss(word, known)}")


def plan_folder(kind: str, name: str, chosen: Path | None, resume: bool) -> Path:
    """The directory of a study or a search (`kind`) of the experiment `name`.

    Raises:
        CheckpointError: there is none to resume in the `chosen` one.
        ConfigError: to resume, without a `chosen` one.
    """
    if chosen is None:
        if resume:
            raise ConfigError(f"--resume needs the {kind} to resume: give --{kind}-dir")
        return new_plan(kind, name)
    if resume and not (chosen.expanduser() / "plan.json").is_file():
        raise CheckpointError(f"--resume: there is no {kind} in {chosen}")
    return chosen
