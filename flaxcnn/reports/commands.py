"""The exact commands that repeat a recorded run, study or search, checked before shown."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from flaxcnn.errors import ConfigError
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.records.format import value_text


def shell_path(path: Path) -> str:
    """A path as a word of a command: relative if it is below the current folder."""
    with contextlib.suppress(ValueError, OSError):
        path = path.relative_to(Path.cwd())
    return shlex.quote(str(path))


def line(*words: str) -> str:
    """A flaxcnn command, quoted for a shell."""
    return shlex.join(["flaxcnn", *words])


def recipe_words(name: str, recipe: Config, file: Path) -> list[str] | None:
    """EXPERIMENT and options that resolve to exactly the recipe; None if none do.

    A recipe of the catalog is given by what differs from it, another one by `file`, its
    config.json, over the default experiment.
    """
    if name in catalog.experiments():
        words = [name]
        if recipe.protocol == "document":
            words += ["--protocol", "document"]
        try:
            base, _ = catalog.resolve(catalog.find(name), protocol=recipe.protocol, environ={})
            changed = _changes(base.to_dict(), recipe.to_dict())
            resolved, _ = catalog.resolve(
                catalog.find(name), protocol=recipe.protocol, assignments=changed, environ={}
            )
        except ConfigError:
            return None
        if resolved == recipe:
            return [*words, *(word for text in changed for word in ("-s", text))]
    if file.is_file():
        try:
            resolved, _ = catalog.resolve(
                catalog.find(catalog.DEFAULT_EXPERIMENT), config_file=file, environ={}
            )
        except ConfigError:
            return None
        if resolved == recipe:
            return ["--config", str(file)]
    return None


def _changes(base: dict[str, Any], plain: dict[str, Any]) -> list[str]:
    """KEY=VALUE for each setting that differs, also where another setting implies it."""
    return [f"{key}={value_text(value)}" for key, value in plain.items() if base[key] != value]


def of_run(
    path: Path, name: str, recipe: Config | None, revision: str | None
) -> list[tuple[str, str]]:
    """Commands to check a run, and to train it again."""
    commands = _checkout(revision)
    commands.append(("Train it again from its record, and compare every bit:",
                  f"flaxcnn reproduce {shell_path(path)}"))  # fmt: skip
    words = recipe and recipe_words(name, recipe, path / "config.json")
    if words:
        commands.append(("Train it again as a new run:", line("train", *words)))
    commands.append(("Test its kept weights again:", f"flaxcnn evaluate {shell_path(path)}"))
    commands.append(("Write this page again:", f"flaxcnn report {shell_path(path)}"))
    return commands


def of_study(path: Path, name: str, plan: dict[str, Any], recipe: Config | None,
             revision: str | None) -> list[tuple[str, str]]:  # fmt: skip
    """Commands to check a study, and to run it again."""
    commands = _checkout(revision)
    commands.append(("Train every run again from the record, and compare every bit:",
                  f"flaxcnn reproduce {shell_path(path)}"))  # fmt: skip
    words = recipe and recipe_words(name, recipe, path / "config.json")
    if recipe and words:
        words += ["--seeds", _seeds(plan["seeds"], recipe.seed)]
        words += _grid_words(plan["grid"])
        if plan["vary"]:
            words += ["--vary", ",".join(plan["vary"])]
        commands.append(("Run it again as a new study:", line("study", *words)))
    commands.append(("Write this page again:", f"flaxcnn report {shell_path(path)}"))
    return commands


def of_search(
    path: Path, name: str, plan: dict[str, Any], revision: str | None, refit: bool
) -> list[tuple[str, str]]:
    """Commands to repeat a search, and its winner's training if `refit`."""
    commands = _checkout(revision)
    try:
        words = _search_words(path, name, plan)
    except ConfigError:
        words = None  # another version's
    if words:
        commands.append(("Run it again as a new search:", line("search", *words)))
    if refit:
        commands.append(("Train the winner again, and compare every bit:",
                      f"flaxcnn reproduce {shell_path(path)}/refit"))  # fmt: skip
    commands.append(("Write this page again:", f"flaxcnn report {shell_path(path)}"))
    return commands


def _search_words(path: Path, name: str, plan: dict[str, Any]) -> list[str] | None:
    """None if the candidates are not those of the experiment, or of a whole grid."""
    if name not in catalog.experiments():
        return None
    first = plan["candidates"][0]
    words = _of_candidates(name, plan) if catalog.find(name).candidates else recipe_words(
        name, Config.from_dict(first["config"]), path / "config.json"
    )  # fmt: skip
    if words is None:
        return None
    if "sampler" in plan:
        words += ["--sampler", plan["sampler"], "--trials", str(plan["trials"]), "--pruner",
                  plan["pruner"], "--space", str(path / "space.json")]  # fmt: skip
    elif not catalog.find(name).candidates:
        settings = [one["settings"] for one in plan["candidates"][1:]]
        grid: dict[str, list[Any]] = {}
        for key, value in (pair for setting in settings for pair in setting.items()):
            if value not in grid.setdefault(key, []):
                grid[key].append(value)
        if settings != [dict(zip(grid, each, strict=True)) for each in product(*grid.values())]:
            return None
        words += _grid_words(grid)
    for option, default in (("folds", 5), ("repeats", 1), ("max_params", None)):
        if plan.get(option, default) != default:
            words += [f"--{option.replace('_', '-')}", str(plan[option])]
    if plan["seeds"] != [first["config"]["seed"]]:
        words += ["--seeds", _seeds(plan["seeds"], first["config"]["seed"])]
    return [*words, *(["--protocol", "document"] if plan["document"] else [])]


def _of_candidates(name: str, plan: dict[str, Any]) -> list[str] | None:
    """The experiment, and the settings that were changed in every candidate."""
    known = {json.dumps(dict(point.settings)): point.config
             for point in catalog.find(name).candidates if point.config}  # fmt: skip
    changed: list[list[str]] = []
    for one in plan["candidates"]:
        own = known.get(json.dumps(one["settings"]))
        if own is None and "incumbent" not in one["settings"]:
            return None
        if own is not None:
            changed.append(_changes(json.loads(json.dumps(own.to_dict())), one["config"]))
    if any(each != changed[0] for each in changed):
        return None
    return [name, *(word for text in changed[0] for word in ("-s", text))]


def _grid_words(grid: Mapping[str, Sequence[Any]]) -> list[str]:
    listed = ((key, ",".join(map(value_text, values))) for key, values in grid.items())
    return [word for key, values in listed for word in ("--grid", f"{key}={values}")]


def _seeds(seeds: Sequence[int], first: int) -> str:
    if list(seeds) == list(range(first, first + len(seeds))):
        return str(len(seeds))
    return ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")


def _checkout(revision: str | None) -> list[tuple[str, str]]:
    if not revision:
        return []
    return [("The source it ran from:", f"git checkout {shlex.quote(revision.rstrip('+'))}")]
