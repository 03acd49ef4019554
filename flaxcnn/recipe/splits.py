"""Specifications of splits: which rows train, validate and test."""

from __future__ import annotations

from dataclasses import dataclass

from flaxcnn.errors import ConfigError


@dataclass(frozen=True)
class Archive:
    """Training and test rows as the data set divides them."""


@dataclass(frozen=True)
class Permuted:
    """Rows of the train archive only, shuffled once by `numpy.random.RandomState(seed)`.

    `p = RandomState(seed).permutation(rows)`; the first `test` of p test, the last `validation`
    validate, and those between train (document 004, lines 51-56).
    """

    rows: int
    seed: int
    test: int
    validation: int

    def __post_init__(self) -> None:
        if not 0 < self.test + self.validation < self.rows:
            raise ConfigError(
                f"split: test={self.test} and validation={self.validation} leave no training rows "
                f"of rows={self.rows}"
            )


@dataclass(frozen=True)
class Ranges:
    """Consecutive rows of the train archive: `train` first, then `validation`, then `test`."""

    train: int
    validation: int
    test: int

    def __post_init__(self) -> None:
        if min(self.train, self.validation, self.test) < 1:
            raise ConfigError(f"split: train, validation and test must be at least 1 (got {self})")


@dataclass(frozen=True)
class Fold:
    """Fold `index` of `folds` is scored in place of the test rows of `of`, which stay unused.

    The training and validation rows of `of` are dealt into folds in proportion to the classes,
    by `seed`. Validation rows are held out of the other folds, so that no choice is made on the
    rows that score it; `validation="test"` chooses on the scored fold, as many notebooks do.
    """

    index: int
    folds: int = 5
    seed: int = 0
    of: Archive | Permuted | Ranges = Archive()

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ConfigError(f"split.folds must be at least 2 (got {self.folds})")
        if not 0 <= self.index < self.folds:
            raise ConfigError(
                f"split.index must be from 0 to {self.folds - 1}, the last of the folds "
                f"(got {self.index})"
            )


Split = Archive | Permuted | Ranges | Fold
