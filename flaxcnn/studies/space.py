"""Which values a sampler may draw for the settings of a recipe."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxcnn.errors import ConfigError, near_miss
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.fields import names
from flaxcnn.recipe.settings import read_table, with_setting
from flaxcnn.studies.plan import SAME_DATA, SEED_KEYS

SIGNIFICANT = 4  # digits of a drawn number: more make no difference to a training
FIELDS = ("choices", "low", "high", "step", "log")


@dataclass(frozen=True)
class Choices:
    """A list of values to choose from."""

    values: tuple[Any, ...]

    def ends(self) -> tuple[Any, ...]:
        """All values."""
        return self.values

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"choices": list(self.values)}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; integers if both are.

    `step` is the distance between them; `log` draws evenly over magnitudes.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether its numbers are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def ends(self) -> tuple[Any, ...]:
        """The smallest and the largest."""
        return self.low, self.high

    def rounded(self, number: float) -> float:
        """A drawn number rounded to what is used, still within the range."""
        if self.whole:
            return int(number)
        return min(max(float(f"{number:.{SIGNIFICANT}g}"), self.low), self.high)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without defaults."""
        step = {} if self.step is None else {"step": self.step}
        return {"low": self.low, "high": self.high, **step, **({"log": True} if self.log else {})}


Axis = Choices | Range
Space = Mapping[str, Axis]  # dotted key of Config -> its values


def read_space(path: Path) -> dict[str, Axis]:
    """A TOML or JSON file of settings to choices or ranges.

        learning_rate = { low = 1e-4, high = 1e-1, log = true }
        batch_size = [32, 64, 128]
        [optimizer.momentum]
        low = 0.0
        high = 0.99

    Raises:
        ConfigError: the file is missing or not valid, or a setting has no choices or range.
    """
    return parse_space(read_table(path, "--space"))


def parse_space(plain: Mapping[str, Any]) -> dict[str, Axis]:
    """Dotted keys, or nested tables, to a list of choices or a table with `low` and `high`.

    Raises:
        ConfigError: a setting with neither, or ends that do not make a range.
    """
    axes: dict[str, Axis] = {}
    for key, value in plain.items():
        if isinstance(value, Choices | Range):
            axes[key] = value
        elif not isinstance(value, Mapping):
            axes[key] = _choices(key, value)
        elif value.keys() & set(FIELDS) or not value:
            axes[key] = _axis(key, value)
        else:
            axes.update(parse_space({f"{key}.{name}": item for name, item in value.items()}))
    return axes


def _choices(key: str, values: Any) -> Choices:
    if not isinstance(values, list | tuple) or not values:
        raise ConfigError(
            f"space.{key} must be a list of choices or a table with low and high (got {values!r})"
        )
    if len({json.dumps(value) for value in values}) < len(values):
        raise ConfigError(f"space.{key} must have distinct choices (got {values!r})")
    return Choices(tuple(values))


def _axis(key: str, value: Mapping[str, Any]) -> Axis:
    for name in value:
        if name not in FIELDS:
            raise ConfigError(
                f"unknown key space.{key}.{name}; a range has {', '.join(FIELDS)}"
                f"{near_miss(name, FIELDS)}"
            )
    if "choices" in value:
        if len(value) > 1:
            raise ConfigError(f"space.{key} must have choices or a range, not both")
        return _choices(key, value["choices"])
    low, high = (_number(f"space.{key}.{name}", value.get(name)) for name in ("low", "high"))
    step = value.get("step")
    if step is not None:
        step = _number(f"space.{key}.step", step)
    log = value.get("log", False)
    if not low < high:
        raise ConfigError(f"space.{key}: low must be below high (got {low} and {high})")
    if not isinstance(log, bool):
        raise ConfigError(f"space.{key}.log must be true or false (got {log!r})")
    if log and (low <= 0 or step is not None):
        raise ConfigError(f"space.{key}: log = true needs low above 0 and no step")
    axis = Range(low, high, step, log)
    if step is not None and (step <= 0 or (axis.whole and not isinstance(step, int))):
        kind = "an integer of at least 1" if axis.whole else "a number above 0"
        raise ConfigError(f"space.{key}.step must be {kind} (got {step})")
    return axis


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        if value is None:
            raise ConfigError(f"{name} is missing; it must be a finite number")
        raise ConfigError(f"{name} must be a finite number (got {value!r})")
    number: float = value
    return number


def check_space(space: Space, base: Config) -> None:
    """Check that each setting exists and accepts its ends, with at least one kind of optimizer.

    Raises:
        ConfigError: one does not, or the space is empty.
    """
    if not space:
        raise ConfigError(
            "space is empty; give at least one setting, such as "
            "learning_rate = { low = 1e-4, high = 1e-1, log = true }"
        )
    kinds = space["optimizer"].ends() if "optimizer" in space else ()
    for key, axis in space.items():
        if key in SEED_KEYS:
            raise ConfigError(f"space.{key}: set seeds with --seeds")
        if key.partition(".")[0] in names(Config, SAME_DATA):
            raise ConfigError(
                f"space.{key}: cannot be drawn, since all recipes must see the same rows; allowed "
                f"is one value, as -s {key}=..."
            )
        for value in axis.ends():
            _check_value(base, key, value, kinds)


def _check_value(base: Config, key: str, value: Any, kinds: Sequence[Any]) -> None:
    settings: list[dict[str, Any]] = [{key: value}]
    if key.startswith("optimizer."):
        settings += [{"optimizer": kind, key: value} for kind in kinds]
    first: ConfigError | None = None
    for setting in settings:
        try:
            with_setting(base, setting)
            return
        except ConfigError as error:
            first = first or error
    assert first is not None
    raise ConfigError(f"space: {first}")
