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
from flaxcnn.recipe.settings import with_setting
from flaxcnn.records.format import UNCHANGED, candidate_label, label
from flaxcnn.studies.plan import Grid, check_same_data, settings_of

if TYPE_CHECKING:  # data bring numpy along, and commands that search nothing import this file
    from flaxcnn.data.arrays import Dataset

Proposals = Sequence[tuple[Mapping[str, Any], Config]]  # settings and recipe of each candidate


@dataclass(frozen=True)
class Candidate:
    """A recipe that a search tries; `label` tells it from the others."""

    settings: Mapping[str, Any]
    config: Config
    params: int

    @property
    def label(self) -> str:
        """`learning_rate=0.1, epochs=20`."""
        return candidate_label(self.settings)

    def to_dict(self) -> dict[str, Any]:
        """For plan.json."""
        return {"label": self.label, "settings": dict(self.settings), "params": self.params,
                "config": self.config.to_dict()}  # fmt: skip


@dataclass(frozen=True)
class Dropped:
    """A candidate that is not tried, and why."""

    label: str
    reason: str


def of_grid(config: Config, grid: Grid) -> Proposals:
    """The recipe as it is, which the others must beat, and all combinations of the grid.

    Raises:
        ConfigError: the grid is empty, or names an unknown setting.
    """
    if not grid:
        raise ConfigError(
            "grid is empty; give values of at least one setting, such as --grid "
            "learning_rate=0.1,0.01"
        )
    settings = settings_of(grid)
    return [({}, config), *((each, with_setting(config, each)) for each in settings)]


def of_catalog(
    experiment: Experiment,
    over: Callable[[Experiment], Config],
    grid: Grid | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[Proposals, str | None]:
    """The candidates of a documented grid and its hand-made model, and that one's label.

    Args:
        experiment: one with candidates.
        over: gives the recipe of an experiment, such as `catalog.resolve` with options.
        grid: further settings, combined with each candidate.
        note: called with what cannot be built, and if the hand-made model is not in the grid.
    """
    proposals: list[tuple[Mapping[str, Any], Config]] = []
    for point in experiment.candidates:
        if point.config is None:
            note(f"{label(point.settings)} cannot be built: {point.reason}")
            continue
        base = over(replace(experiment, config=point.config))
        for extra in settings_of(grid or {}):
            proposals.append(({**point.settings, **extra}, with_setting(base, extra)))
    if not experiment.incumbent:
        return proposals, None
    hand_made = over(catalog.find(experiment.incumbent))
    twin = next((settings for settings, config in proposals if config == hand_made), None)
    if twin is None:
        nearest = min((_differing(config, hand_made) for _, config in proposals), key=len)
        note(
            f"the grid cannot contain {experiment.incumbent}, the hand-made model: every candidate "
            f"differs from it, the nearest in {', '.join(nearest)}; it is tried beside them"
        )
        twin = {"incumbent": experiment.incumbent}
        proposals.insert(0, (twin, hand_made))
    return proposals, label(twin)


def _differing(config: Config, twin: Config) -> list[str]:
    """Settings in which two recipes differ."""
    mine, yours = config.to_dict(), twin.to_dict()
    return [key for key in mine if mine[key] != yours[key]]


def make_candidate(
    settings: Mapping[str, Any], config: Config, dataset: Dataset, max_params: int | None
) -> Candidate:
    """The recipe as a candidate.

    Raises:
        ConfigError: it cannot be built on the data, or has too many parameters.
    """
    params = totals(config.table(dataset.shape, dataset.num_classes))["params"]
    if max_params is not None and params > max_params:
        raise ConfigError(f"{params:,} parameters are more than max_params={max_params:,}")
    return Candidate(settings, config, params)


@dataclass(frozen=True)
class Candidates:
    """Which recipes a search tries, and which it does not.

    Args:
        tried: at least one.
        dropped: cannot be built, too large, or the same as another.
        incumbent: label of the candidate that the others must beat; None for none.
        max_params: what they were held to.
    """

    tried: tuple[Candidate, ...]
    dropped: tuple[Dropped, ...] = ()
    incumbent: str | None = None
    max_params: int | None = None

    @classmethod
    def of(
        cls, proposals: Proposals, dataset: Dataset, max_params: int | None = None,
        incumbent: str | None = None,
    ) -> Candidates:  # fmt: skip
        """Choose the recipes that can be built on the data, within the budget of parameters.

        Raises:
            ConfigError: none is left, one would have to be streamed, or they differ in their rows.
        """
        from flaxcnn.data.datasets import require_resident

        tried: list[Candidate] = []
        dropped: list[Dropped] = []
        for settings, config in proposals:
            check_same_data(config, proposals[0][1], "a search")
            try:
                own = make_candidate(settings, config, dataset, max_params)
            except ConfigError as error:
                dropped.append(Dropped(candidate_label(settings), str(error)))
                continue
            if twin := next((other for other in tried if other.config == config), None):
                same = "the recipe unchanged" if twin.label == UNCHANGED else twin.label
                dropped.append(Dropped(own.label, f"is the same recipe as {same}"))
                continue
            require_resident(config, dataset, "a search")
            tried.append(own)
        if not tried:
            why = "; ".join(f"{d.label}: {d.reason}" for d in dropped) or "there are none"
            raise ConfigError(f"search: no candidate is left ({why})")
        return cls(tuple(tried), tuple(dropped), incumbent, max_params)

    def to_dict(self) -> dict[str, Any]:
        """For plan.json."""
        return {
            "max_params": self.max_params,
            "incumbent": self.incumbent,
            "candidates": [each.to_dict() for each in self.tried],
            "dropped": [vars(each) for each in self.dropped],
        }
