"""A setting declared once: its default, its sentence, its bounds and its role.

Everything else that the package says or decides about a setting is derived from the declaration:
range checks, the fingerprint, what may change on resume, which runs share rows or a compiled
program, the list in `flaxcnn train --help` and the table in the documentation.

>>> @dataclass(frozen=True)
... class Loader:
...     workers: int = setting(1, "processes that read", at_least=0, role=Role.DELIVERY)
>>> names(Loader, Role.DELIVERY)
('workers',)
>>> check_bounds(Loader(workers=-1))
Traceback (most recent call last):
flaxcnn.errors.ConfigError: workers must be at least 0 (got -1)
"""

from __future__ import annotations

import dataclasses
import enum
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any, TypeVar

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.codec import encode

T = TypeVar("T")
KEY = "setting"  # of a field's metadata
ALWAYS_THERE: Any = object()  # of a field that the oldest records have


class Role(enum.Flag):
    """What follows from a setting beside the result it gives; most settings have none."""

    NONE = 0
    PIXELS = enum.auto()  # which images, and of which size
    ROWS = enum.auto()  # which rows are there to train on, and which test
    HELD_OUT = enum.auto()  # which of the training rows validate
    SEED = enum.auto()  # the seed of a run
    STREAM = enum.auto()  # the seed of one stream of random numbers, in the order of rng.Purpose
    PROGRAM = enum.auto()  # compiled into a program, though the engine's Plan does not hold it
    COST = enum.auto()  # changes the time or memory of a step of the same network
    EXECUTION = enum.auto()  # how the result is computed: may change on resume
    DELIVERY = enum.auto()  # how rows reach the device: as EXECUTION, and not in the fingerprint


@dataclass(frozen=True)
class Setting:
    """The declaration of one field."""

    sentence: str
    role: Role = Role.NONE
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    whole: bool = False  # an integer, also in a spec built in Python, which nothing decodes
    before: Any = ALWAYS_THERE  # what records made before the field existed imply

    @property
    def meaning(self) -> str:
        """The sentence, and the bounds if there are any."""
        return "; ".join(text for text in (self.sentence, self.bounds) if text)

    @property
    def bounds(self) -> str:
        """What is allowed in words; empty without bounds."""
        if self.whole:
            bounds = replace(self, whole=False).bounds
            return f"an integer {'' if bounds.startswith('from') else 'of '}{bounds}"
        if self.at_least is not None and self.at_most is not None:
            return f"from {self.at_least} to {self.at_most}"
        limits = {"at least": self.at_least, "above": self.above, "at most": self.at_most,
                  "below": self.below}  # fmt: skip
        return " and ".join(f"{word} {n:g}" for word, n in limits.items() if n is not None)

    def allows(self, value: float) -> bool:
        """Whether a number is within the bounds; NaN is not."""
        return (
            (type(value) is int or not self.whole)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )


def about(sentence: str, **facts: Any) -> Mapping[str, Setting]:
    """Metadata of a field without a default; `facts` are the fields of `Setting`."""
    return {KEY: Setting(sentence, **facts)}


def setting(default: T, sentence: str, **facts: Any) -> T:
    """A dataclass field; `facts` are the fields of `Setting`."""
    return dataclasses.field(default=default, metadata=about(sentence, **facts))


def settings(owner: Any) -> Iterator[tuple[str, Setting]]:
    """(name, declaration) of every declared field of a dataclass or an instance of one."""
    for field in fields(owner):
        if KEY in field.metadata:
            yield field.name, field.metadata[KEY]


def names(owner: Any, role: Role) -> tuple[str, ...]:
    """The settings that have one of the roles joined in `role`, in the order of declaration."""
    return tuple(name for name, declared in settings(owner) if declared.role & role)


def check_bounds(owner: Any, prefix: str = "") -> None:
    """Check each number of a dataclass against the bounds of its field.

    Args:
        owner: an instance; None and texts are left to other checks.
        prefix: before the name in the error, as "optimizer.".

    Raises:
        ConfigError: naming the first that is out of range, its bounds and its value.
    """
    for name, declared in settings(owner):
        value = getattr(owner, name)
        if isinstance(value, int | float) and not declared.allows(value):
            raise ConfigError(f"{prefix}{name} must be {declared.bounds} (got {value!r})")


def table(*groups: type) -> str:
    """The settings of dataclasses as one Markdown table, with a row that names each group."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for group in groups:
        lines.append(f"| **{group.__name__.lower()}** | | |")
        own = group.__annotations__  # not what a base declares
        defaults = {field.name: field.default for field in fields(group)}
        lines += [f"| `{name}` | {_default(defaults[name])} | {declared.meaning} |"
                  for name, declared in settings(group) if name in own]  # fmt: skip
    return "\n".join(lines)


def _default(value: Any) -> str:
    if value is MISSING:
        return "required"
    plain = encode(value)
    if isinstance(plain, dict):
        plain = plain["type"]
    return f"`{plain if isinstance(plain, str) else json.dumps(plain).replace('null', 'none')}`"
