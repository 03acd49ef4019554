"""Experiments by name or by file, and the Config that one resolves to."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from flaxcnn.errors import ConfigError, near_miss
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.recipe.layers import Dense, Shape, totals
from flaxcnn.recipe.references import load_file
from flaxcnn.recipe.settings import (
    Source,
    from_assignments,
    from_environment,
    from_file,
    layered,
)
from flaxcnn.recipe.splits import Archive

DEFAULT_EXPERIMENT = "digits/quickstart"
# Document order, the order in which experiments are listed.
MODULES = (
    "digits",
    "fashion_slim",
    "cifar_tuning",
    "mnist_ladder",
    "mnist_archs",
    "fashion_budget",
)
OF_PAPERS = ("zoo", "cifar_speed")  # on which no document reports


@dataclass(frozen=True)
class Candidate:
    """One point of a grid: its settings and, where it can be built, its recipe."""

    settings: Mapping[str, Any]
    config: Config | None
    reason: str = ""  # why it cannot be built


@dataclass(frozen=True)
class Experiment:
    """A recipe by name, with what its document reports.

    `config` is the honest recipe; `documented` holds the settings in which the document's own
    protocol differed (often validation on the test split) and is applied by protocol=document.
    """

    name: str
    title: str
    document: str  # file and lines, or "" for flaxcnn's own
    kind: Literal["model", "grid", "mention"] = "model"
    config: Config | None = None
    documented: Mapping[str, Any] = field(default_factory=dict)
    reported: Mapping[str, Any] = field(default_factory=dict)
    # Its table of classes: split -> precision, recall, F1 -> one value per class
    per_class: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    inferred: Mapping[str, str] = field(default_factory=dict)  # setting -> why this value
    notes: str = ""
    refusal: str = ""  # why `train` cannot run it
    candidates: tuple[Candidate, ...] = ()  # of a grid
    incumbent: str = ""  # the hand-made model that the candidates of a grid must beat
    dataset: str = ""  # where neither the recipe nor a candidate names it
    budget: int | None = None  # of a champion: most parameters, moving statistics included
    aim: float | None = None  # of a champion: the test accuracy that it is meant for


def experiments_folder() -> Path:
    """`experiments/` inside the installed package (wheel) or beside it (checkout)."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "experiments"
    return inside if inside.is_dir() else package.parent / "experiments"


def load_module(path: Path) -> ModuleType:
    """Run a recipe file as a module of its own.

    Raises:
        ConfigError: it raises when it is run.
    """
    return load_file(path, f"flaxcnn_experiments_{path.stem}")


@functools.cache
def experiments() -> dict[str, Experiment]:
    """Name -> experiment, all that ship with the package, in document order."""
    folder = experiments_folder()
    listed = [e for name in MODULES for e in load_module(folder / f"{name}.py").EXPERIMENTS]
    return {experiment.name: experiment for experiment in listed}


@functools.cache
def zoo() -> dict[str, Experiment]:
    """Name -> network of a paper, with a plain recipe or that of the paper."""
    return _of_modules(*OF_PAPERS)


@functools.cache
def champions() -> dict[str, Experiment]:
    """Name -> the best network we know of a size, from the smallest of each data set."""
    return _of_modules("best")


def _of_modules(*names: str) -> dict[str, Experiment]:
    folder = experiments_folder()
    listed = [e for name in names for e in load_module(folder / f"{name}.py").EXPERIMENTS]
    return {experiment.name: experiment for experiment in listed}


def find(name: str) -> Experiment:
    """The experiment called `name`, or `path/to/file.py:name` from a file of the user's.

    Where the file has a single recipe, `path/to/file.py` is enough.

    >>> find("digits/quickstart").config.batch_size
    32

    Raises:
        ConfigError: no such experiment or file; the near miss is named.
    """
    file, colon, attribute = name.rpartition(":")
    if colon and file.endswith(".py"):
        return _from_file(Path(file).expanduser(), attribute)
    if name.endswith(".py"):
        return _from_file(Path(name).expanduser(), "")
    group = name.partition("/")[0].replace("-", "_")
    known = experiments()
    if group in (*OF_PAPERS, "best"):
        known = champions() if group == "best" else zoo()
    if name not in known:
        every = known | champions()
        same_tail = [repr(n) for n in every if n.partition("/")[2] == name]
        hint = f"; did you mean {' or '.join(same_tail)}?" if same_tail else near_miss(name, known)
        if "=" in name:
            hint = f"; a setting is given as -s {name}"
        raise ConfigError(f"unknown experiment {name!r}, see `flaxcnn experiments list`{hint}")
    return known[name]


def _from_file(path: Path, attribute: str) -> Experiment:
    if not path.is_file():
        raise ConfigError(f"experiment: there is no file {path}")
    values = {k: v for k, v in vars(load_module(path.resolve())).items() if not k.startswith("_")}
    listed = {e.name: e for e in values.get("EXPERIMENTS", ()) if isinstance(e, Experiment)}
    named = {k: v for k, v in values.items() if isinstance(v, Experiment | Config)} | listed
    if not attribute and len(named) == 1:
        (attribute,) = named
    if not attribute and named:
        each = ", ".join(f"{path}:{name}" for name in named)
        raise ConfigError(f"experiment: {path} has several recipes; name one: {each}")
    if attribute not in named:
        raise ConfigError(
            f"experiment: {path} has no recipe {attribute!r}; it has {', '.join(named) or 'none'}"
            f"{near_miss(attribute, named)}"
        )
    value = named[attribute]
    if isinstance(value, Config):
        return Experiment(f"{path.stem}/{attribute}", attribute, "", config=value)
    return value


def resolve(
    experiment: Experiment,
    *,
    assignments: Sequence[str] = (),
    config_file: Path | None = None,
    protocol: str | None = None,
    seed: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> tuple[Config, dict[str, str]]:
    """The Config to run and where each value came from.

    >>> config, origins = resolve(find("digits/quickstart"), assignments=["epochs=3"], environ={})
    >>> config.epochs, origins["epochs"], origins["seed"]
    (3, 'command line', 'experiment')

    Precedence: defaults < experiment < --config file < FLAXCNN_* < -s and flags. The protocol is
    settled first, since it decides which of the experiment's own settings are the base.

    Raises:
        ConfigError: the experiment has no recipe to train, or a setting is wrong.
    """
    if experiment.config is None:
        raise ConfigError(f"{experiment.name} cannot be trained: {experiment.refusal}")
    flags = {"protocol": protocol, "seed": seed}
    sources = [
        Source(f"file {config_file}", from_file(config_file) if config_file else {}),
        Source("environment", from_environment(environ)),
        Source("command line", from_assignments(assignments)),
        Source("command line", {k: v for k, v in flags.items() if v is not None}),
    ]
    chosen = next((s.settings["protocol"] for s in reversed(sources) if "protocol" in s.settings),
                  experiment.config.protocol)  # fmt: skip
    if chosen == "document" and experiment.config.protocol != "document":
        if not experiment.documented:
            raise ConfigError(
                f"protocol=document: {experiment.name} has no document to follow; use honest"
            )
        sources.insert(0, Source("document", {"protocol": "document", **experiment.documented}))
    config, origins = layered(experiment.config, sources)
    if origins["validation"] != "experiment" and not isinstance(config.split, Archive):
        raise ConfigError(
            f"validation has no effect: the split of {experiment.name} has its own validation "
            "rows; set split.validation, or split=archive"
        )
    return config, origins


def _facts(config: Config) -> tuple[Shape, int] | None:
    """Shape and number of classes, as far as they are known before the data is there."""
    last = config.layers[-1] if config.layers else None
    if config.resize and isinstance(last, Dense):
        return (config.resize.height, config.resize.width, 3), last.units
    return KNOWN_DATA.get(config.dataset)


def summary(experiment: Experiment) -> dict[str, Any]:
    """One entry of `experiments list --json`."""
    config = experiment.config
    counts: dict[str, int] = {}
    if config is not None and (facts := _facts(config)):
        counts = totals(config.table(*facts))
    # A grid has the data of its candidates.
    recipes = [c for c in (config, *(point.config for point in experiment.candidates)) if c]
    return {
        "name": experiment.name,
        "kind": experiment.kind,
        "dataset": recipes[0].dataset if recipes else experiment.dataset or None,
        "params": counts.get("params"),
        "trainable_params": counts.get("trainable_params"),
        "macs": counts.get("macs"),
        "document": experiment.document or None,
        "title": experiment.title,
        "epochs": config.epochs if config else None,
        "batch_size": config.batch_size if config else None,
        "reported": dict(experiment.reported),
        "inferred": dict(experiment.inferred),
        "refusal": experiment.refusal or None,
        **({"budget": experiment.budget, "aim": experiment.aim} if experiment.budget else {}),
        "candidates": [
            {
                "settings": dict(c.settings),
                "params": totals(c.config.table(*KNOWN_DATA[c.config.dataset]))["params"]
                if c.config
                else None,
                **({"reason": c.reason} if c.reason else {}),
            }
            for c in experiment.candidates
        ],
    }  # fmt: skip
