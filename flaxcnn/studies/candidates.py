"""Recipes that a search tries: which there are, and which of them can be built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flaxcnn.errors import ConfigError
from flaxcnn.recipe import catalog
from flaxcnn.recipe.catalog import Experiment
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import totals
from flaxcnn.records.format import label
from flaxcnn.studies.plan import Grid, check_same_data, settings_of, with_setting

if TYPE_CHECKING:  # data bring numpy along, and commands that search nothing import this file
    from flaxcnn.data.arrays import Dataset

AS_IT_IS = "as it is"  # label of a recipe with no setting changed
Wanted = list[tuple[Mapping[str, Any], Config]]  # settings and recipe of each candidate


@dataclass(frozen=True)
class Contender:
    """A recipe that is tried; `label` tells it from the others."""

    settings: Mapping[str, Any]
    config: Config
    params: int

    @property
    def label(self) -> str:
        """`learning_rate=0.1, epochs=20`."""
        return name_of(self.settings)

    def to_dict(self) -> dict[str, Any]:
        """For plan.json."""
        return {"label": self.label, "settings": dict(self.settings), "params": self.params,
                "config": self.config.to_dict()}  # fmt: skip


@dataclass(frozen=True)
class Dropped:
    """A candidate that is not tried, and why."""

    label: str
    reason: str


def name_of(settings: Mapping[str, Any]) -> str:
    """`learning_rate=0.1, epochs=20`: what tells a candidate from the others."""
    return label(settings) or AS_IT_IS


def of_grid(config: Config, grid: Grid) -> Wanted:
    """The recipe as it stands, which the others must beat, and all combinations of the grid.

    Raises:
        ConfigError: the grid is empty, or names what is not there.
    """
    if not grid:
        raise ConfigError(
            "grid: is empty; allowed is values of at least one setting, such as "
            "--grid learning_rate=0.1,0.01"
        )
    return [({}, config), *((found, with_setting(config, found)) for found in settings_of(grid))]


def of_catalog(
    experiment: Experiment,
    over: Callable[[Experiment], Config],
    grid: Grid | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[Wanted, str | None]:
    """The candidates of a documented grid and its hand-made model, and that one's label.

    Args:
        experiment: of the catalog, with candidates.
        over: the recipe to try, of an experiment with one, such as `catalog.resolve`.
        grid: further settings, combined with each candidate.
        note: told what cannot be built, and that the hand-made model lies outside of the grid.
    """
    wanted: Wanted = []
    for point in experiment.candidates:
        if point.config is None:
            note(f"{label(point.settings)} cannot be built: {point.reason}")
            continue
        one = over(replace(experiment, config=point.config))
        for extra in settings_of(grid or {}):
            wanted.append(({**point.settings, **extra}, with_setting(one, extra)))
    if not experiment.incumbent:
        return wanted, None
    hand_made = over(catalog.find(experiment.incumbent))
    twin = next((settings for settings, config in wanted if config == hand_made), None)
    if twin is None:
        nearest = min((_differing(config, hand_made) for _, config in wanted), key=len)
        note(
            f"the grid cannot contain {experiment.incumbent}, the hand-made model: every candidate "
            f"differs from it, the nearest in {', '.join(nearest)}; it is tried beside them"
        )
        twin = {"incumbent": experiment.incumbent}
        wanted.insert(0, (twin, hand_made))
    return wanted, label(twin)


def _differing(one: Config, other: Config) -> list[str]:
    """Settings in which two recipes differ."""
    mine, yours = one.to_dict(), other.to_dict()
    return [key for key in mine if mine[key] != yours[key]]


def contender(
    settings: Mapping[str, Any], config: Config, dataset: Dataset, max_params: int | None
) -> Contender:
    """The recipe as one to be tried.

    Raises:
        ConfigError: it cannot be built on the data, or has too many parameters.
    """
    params = totals(config.table(dataset.shape, dataset.num_classes))["params"]
    if max_params is not None and params > max_params:
        raise ConfigError(f"{params:,} parameters; allowed are {max_params:,}")
    return Contender(settings, config, params)


def contenders(
    wanted: Sequence[tuple[Mapping[str, Any], Config]], dataset: Dataset, max_params: int | None
) -> tuple[list[Contender], list[Dropped]]:
    """The recipes that can be built on the data, within the budget of parameters; and the others.

    Raises:
        ConfigError: none is left, one is to be streamed, or they differ in their rows.
    """
    from flaxcnn.data.datasets import require_resident

    found: list[Contender] = []
    dropped: list[Dropped] = []
    for settings, config in wanted:
        check_same_data(config, wanted[0][1], "a search")
        try:
            one = contender(settings, config, dataset, max_params)
        except ConfigError as error:
            dropped.append(Dropped(name_of(settings), str(error)))
            continue
        if twin := next((other for other in found if other.config == config), None):
            dropped.append(Dropped(one.label, f"is the same recipe as {twin.label}"))
            continue
        require_resident(config, dataset, "a search")
        found.append(one)
    if not found:
        why = "; ".join(f"{d.label}: {d.reason}" for d in dropped) or "there are none"
        raise ConfigError(f"search: no candidate is left ({why})")
    return found, dropped
