"""What the arguments of a call in Python mean: a recipe with changes, its data, and its seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import optax

from flaxcnn.data.arrays import Dataset
from flaxcnn.data.datasets import load_for
from flaxcnn.data.given import Arrays, keep
from flaxcnn.errors import ConfigError, near_miss
from flaxcnn.recipe import catalog
from flaxcnn.recipe.catalog import Experiment
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.networks import spec_of
from flaxcnn.studies.events import Listener, Outcome
from flaxcnn.studies.plan import check_count, parse_memory


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a call asks for: a recipe, its name ("" for a Config), and its data if it is loaded."""

    config: Config
    name: str
    loaded: Dataset | None

    def data(self) -> Dataset:
        """The data of the recipe.

        Raises:
            DataError: it is missing or damaged.
        """
        return load_for(self.config) if self.loaded is None else self.loaded


def asked(
    recipe: Config | Experiment | str, name: str, model: Any, dataset: Dataset | str | None,
    data: Arrays | None, settings: Mapping[str, Any],
) -> Asked:  # fmt: skip
    """What the arguments that `train`, `epochs`, `study` and `search` share ask for.

    Raises:
        ConfigError: no such experiment or setting, or a value that does not fit.
        DataError: arrays that are no images and labels.
    """
    changes = _changes(model, dataset, data, settings)
    experiment = ""
    if not isinstance(recipe, Config):
        found = catalog.find(recipe) if isinstance(recipe, str) else recipe
        protocol = changes.pop("protocol", None)  # a document's own brings settings along
        recipe, _ = catalog.resolve(found, protocol=protocol, environ={})
        experiment = found.name
    config = dataclasses.replace(recipe, **changes)
    return Asked(config, name or experiment, dataset if isinstance(dataset, Dataset) else None)


def _changes(
    model: Any, dataset: Dataset | str | None, data: Arrays | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Fields of Config that differ from the recipe's."""
    for key in settings:
        if key not in (known := Config.__dataclass_fields__):
            raise ConfigError(f"unknown setting {key}{near_miss(key, known)}")
    if data is not None and dataset is not None:
        raise ConfigError("dataset and data are two data sets; give one of them")
    changes = dict(settings)
    if data is not None:
        dataset = keep(data)
    if isinstance(dataset, str):
        changes["dataset"] = dataset
    if model is not None:
        changes["model"] = spec_of(model)
    if isinstance(changes.get("optimizer"), optax.GradientTransformation):
        raise ConfigError(
            "optimizer must be made within the step, with the scheduled rate: give its factory and "
            'arguments, as flaxcnn.Optax("optax.adamw", weight_decay=1e-4), and learning_rate'
        )
    if "optimizer" in changes and "learning_rate" not in changes:
        changes["learning_rate"] = None  # the new optimizer's default
    return changes


def seed_list(seeds: int | Iterable[int], first: int) -> list[int]:
    """So many seeds from `first` on, or these.

    Raises:
        ConfigError: neither a number of seeds nor numbers.
    """
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        return list(range(first, first + check_count(seeds)))
    try:
        return [seed.__index__() for seed in seeds]  # type: ignore[union-attr]  # int, or NumPy's
    except (TypeError, AttributeError):
        raise ConfigError(
            f"seeds must be a number of seeds, such as 8, or numbers, such as range(8) "
            f"(got {seeds!r})"
        ) from None


def bytes_of(max_memory: int | str | None) -> int | None:
    """Bytes, also of a text such as "2G".

    Raises:
        ConfigError: it is no size.
    """
    return parse_memory(max_memory) if isinstance(max_memory, str) else max_memory


def speaking(
    tell: Listener | None, verbose: bool, line: Callable[[Mapping[str, Any], str, int, int], str]
) -> Listener:
    """The caller's listener, or with `verbose` one that prints a line a run.

    Args:
        tell: the caller's.
        verbose: whether lines are printed.
        line: of a run that has ended: its row and label, how many have ended, and of how many.
    """

    def run(outcome: Outcome, ended: int, planned: int) -> None:
        print(line(outcome.row, outcome.run.label, ended, planned), flush=True)

    def trial(text: str) -> None:
        print(text, flush=True)

    if tell is not None or not verbose:
        return tell or Listener()
    return Listener(run=run, trial=trial)
