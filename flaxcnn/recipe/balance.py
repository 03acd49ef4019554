"""Specification of class weights: how much the loss of a row of each class counts."""

from __future__ import annotations

import numbers
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.references import Json, TakesArguments


@dataclass(frozen=True, init=False)
class ClassWeights(TakesArguments):
    """A weight for some classes, by name or number; that of the others is 1.

    >>> ClassWeights(cat=2, dog=0.5).named
    {'cat': 2.0, 'dog': 0.5}

    Raises:
        ConfigError: no weight, or one that is not a number of at least 0.
    """

    arguments: tuple[tuple[str, Json], ...] = ()

    def __init__(self, weights: Mapping[Any, float] | None = None, /, **named: float):
        given = {str(key): value for key, value in {**(weights or {}), **named}.items()}
        if not given:
            raise ConfigError("class_weight must give the weight of a class or more (got none)")
        for name, value in given.items():
            number = isinstance(value, numbers.Real) and not isinstance(value, bool)
            if not number or not 0 <= value <= sys.float_info.max:
                raise ConfigError(
                    f"class_weight.{name} must be a number of at least 0 (got {value!r})"
                )
        self._set("class_weight", {}, {name: float(value) for name, value in given.items()})
