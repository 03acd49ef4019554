"""Which runs a study is made of: settings x seeds, and which source of randomness varies."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from flaxcnn.errors import ConfigError, check_choice
from flaxcnn.recipe.codec import parse_text
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.data import MAX_SEED
from flaxcnn.recipe.fields import Role, names
from flaxcnn.recipe.settings import with_setting
from flaxcnn.recipe.traced import dropout_rates
from flaxcnn.records.format import EVERYTHING, UNCHANGED, label

STREAMS = names(Config, Role.STREAM)
SOURCES = {name.removesuffix("_seed"): name for name in STREAMS}  # init, order, augment, dropout
UNITS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
MAX_SEEDS = 100_000  # of a study: enough for years, and a list that fits
SEED_KEYS = names(Config, Role.SEED | Role.STREAM)
SAME_DATA = Role.PIXELS | Role.ROWS  # of settings that all candidates of a search share
Grid = Mapping[str, Sequence[Any]]  # setting -> its values
How = Literal["auto", "vmap", "map"]  # runs on a device: whichever is faster, side by side, in turn


@dataclass(frozen=True)
class Scoring:
    """How a search scores a recipe: on each of `folds` parts of the training rows in turn.

    Args:
        folds: parts of the training rows.
        repeats: how many times the rows are split into folds.
        seeds: of the trainings; the scores of a fold are averaged over them.
        document: choose the epoch on the fold that is scored, as the documents' searches did.
        how, max_memory: as in a study.

    Raises:
        ConfigError: fewer than 2 folds, fewer than 1 repeat, or wrong seeds.
    """

    folds: int = 5
    repeats: int = 1
    seeds: tuple[int, ...] = (0,)
    document: bool = False
    how: How = "auto"
    max_memory: int | None = None

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ConfigError(f"--folds must be at least 2 (got {self.folds})")
        if self.repeats < 1:
            raise ConfigError(f"--repeats must be at least 1 (got {self.repeats})")
        check_seeds(self.seeds)
        check_how(self.how)

    @property
    def fold_ratio(self) -> float:
        """Scored rows / training rows of a fold."""
        return 1 / (self.folds - 1)

    def to_dict(self) -> dict[str, Any]:
        """For plan.json: what decides the scores."""
        return {"folds": self.folds, "repeats": self.repeats, "seeds": list(self.seeds),
                "document": self.document}  # fmt: skip


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study; `setting` holds what the grid sets, `vary` what its seed drives."""

    config: Config
    setting: Mapping[str, Any]
    vary: str
    seed: int
    shorter: tuple[PlannedRun, ...] = ()  # with fewer epochs: read off this one as it passes them

    @property
    def key(self) -> str:
        """16 hex digits, unique to the run."""
        text = json.dumps([self.config.fingerprint(), self.vary, self.seed])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def keys(self) -> set[str]:
        """Its own key and those of the shorter runs."""
        return {self.key, *(run.key for run in self.shorter)}

    @property
    def label(self) -> str:
        """Its setting, and the source that varies: `learning_rate=0.1, init`."""
        return label(self.setting, self.vary)

    @property
    def name(self) -> str:
        """The label, or `unchanged`."""
        return self.label or UNCHANGED


def plan_runs(
    base: Config, seeds: Sequence[int], grid: Grid | None = None, vary: Sequence[str] = ()
) -> list[PlannedRun]:
    """Every setting of the grid with every seed, setting by setting.

    Args:
        base: the recipe; sources that do not vary keep its own seed.
        seeds: distinct, each 0 to 2**32 - 1.
        grid: dotted keys of Config to values; all combinations.
        vary: of "init", "order", "augment", "dropout", "all"; each setting is run for each. Empty:
            everything varies with the seed.

    Raises:
        ConfigError: no seeds, one twice, an unknown key or source, a value that does not fit, or a
            source that the recipe does not have.
    """
    check_seeds(seeds)
    _check_vary(base, vary)
    runs = []
    for setting in settings_of(grid or {}):
        config = with_setting(base, setting)
        if "optimizer" in setting:  # a kind may bring its own learning rate: the setting shows it
            setting = {**setting, "learning_rate": config.learning_rate}
        for source in vary or (EVERYTHING,):
            for seed in seeds:
                own: dict[str, Any] = {"seed" if source == EVERYTHING else SOURCES[source]: seed}
                runs.append(PlannedRun(replace(config, **own), setting, source, seed))
    if twice := _first_repeated([run.key for run in runs]):
        where = [run.key for run in runs].index(twice)
        raise ConfigError(
            f"grid has the setting {runs[where].label} twice; settings must be distinct"
        )
    return runs


def longest(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs to be trained: a run that is the beginning of a longer one is read off it.

    The state after e epochs does not depend on how many are to follow, unless the schedule of the
    learning rate spans them all.
    """
    alike: dict[Config, list[PlannedRun]] = {}
    for run in runs:
        spans = run.config.spans_run
        key = run.config if spans else replace(run.config, epochs=1)
        alike.setdefault(key, []).append(run)
    chosen = []
    for group in alike.values():
        *shorter, last = sorted(group, key=lambda run: run.config.epochs)
        chosen.append(replace(last, shorter=tuple(shorter)))
    return chosen


def settings_of(grid: Grid) -> list[dict[str, Any]]:
    """All combinations, the last key varying fastest."""
    for key, values in grid.items():
        if key in SEED_KEYS:
            raise ConfigError(f"grid.{key}: set seeds with --seeds or --vary")
        if not values:
            raise ConfigError(f"grid.{key} must have at least one value")
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def parse_grid(texts: Sequence[str]) -> dict[str, list[Any]]:
    """`["learning_rate=0.1,0.01", "optimizer=sgd,adam"]` -> setting -> values.

    Raises:
        ConfigError: not KEY=VALUE,VALUE, or a key twice.
    """
    grid: dict[str, list[Any]] = {}
    for text in texts:
        key, equals, values = (part.strip() for part in text.partition("="))
        if not equals or not key or not values:
            raise ConfigError(
                f"--grid {text}: write it as KEY=VALUE,VALUE, as in --grid learning_rate=0.1,0.01"
            )
        if key in grid:
            raise ConfigError(f"--grid {key} is given twice; put all its values into one list")
        grid[key] = [parse_text(value.strip()) for value in _split(values)]
    return grid


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def parse_seeds(text: str, first: int) -> list[int]:
    """`"8"`: eight seeds from `first` on; `"3,5,8"`: these three.

    Raises:
        ConfigError: neither of the two, or no seeds.
    """
    words = [word.strip() for word in text.split(",")]
    try:
        numbers = [int(word) for word in words if word]
    except ValueError:
        numbers = []
    if not numbers:
        raise ConfigError(
            f"--seeds must be a number of seeds, such as 8, or a list, such as 3,5,8 (got {text!r})"
        )
    if "," in text:
        return numbers
    return list(range(first, first + check_count(numbers[0], "--seeds")))


def check_count(number: int, name: str = "seeds") -> int:
    """Return a number of seeds; ConfigError unless it is one."""
    if not 1 <= number <= MAX_SEEDS:
        raise ConfigError(f"{name} must be from 1 to {MAX_SEEDS} (got {number})")
    return number


def parse_memory(text: str) -> int:
    """`"2G"`, `"512M"` or bytes -> bytes; units are powers of 1024.

    Raises:
        ConfigError: anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match or not (size := int(float(match[1]) * 1024 ** UNITS[match[2].upper()])):
        raise ConfigError(f"--max-memory must be a size such as 2G or 512M (got {text!r})")
    return size


def check_how(how: str) -> How:
    """Return `how`; ConfigError unless it is one of How."""
    check_choice("how", how, get_args(How))
    return cast(How, how)


def check_seeds(seeds: Sequence[int]) -> None:
    """ConfigError unless they are distinct and in range."""
    if not seeds:
        raise ConfigError("seeds is empty; give at least one")
    for seed in seeds:
        if type(seed) is not int or not 0 <= seed <= MAX_SEED:
            raise ConfigError(f"seeds must be integers from 0 to {MAX_SEED} (got {seed!r})")
    if (twice := _first_repeated(seeds)) is not None:
        raise ConfigError(
            f"seeds must be distinct, since the same seed gives the same result (got {twice} twice)"
        )


def check_same_data(config: Config, base: Config, what: str, role: Role = SAME_DATA) -> None:
    """ConfigError where the recipe has another value of a setting with the role than `base`."""
    for name in names(Config, role):
        if (own := getattr(config, name)) != (other := getattr(base, name)):
            raise ConfigError(
                f"{name} must have one value in {what}, which compares recipes on the same rows "
                f"(got {other!r} and {own!r})"
            )


def _first_repeated(values: Sequence[Any]) -> Any:
    counts = Counter(values)
    return next((value for value in values if counts[value] > 1), None)


def _check_vary(base: Config, vary: Sequence[str]) -> None:
    known = (*SOURCES, EVERYTHING)
    for source in vary:
        check_choice("vary", source, known)
    if twice := _first_repeated(vary):
        raise ConfigError(f"vary has {twice} twice")
    if vary and (fixed := [name for name in STREAMS if getattr(base, name) is not None]):
        raise ConfigError(
            f"{fixed[0]}={getattr(base, fixed[0])} does not work with --vary, which chooses the "
            "sources that the seed drives; leave it out"
        )
    if "augment" in vary and not base.augment:
        raise ConfigError("vary=augment needs a recipe with augmentation")
    if "dropout" in vary and not any(dropout_rates(base.layers)):
        raise ConfigError("vary=dropout needs a recipe with dropout")
