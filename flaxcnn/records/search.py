"""Search directories: of a grid, of recipes that several processes draw, and of one such recipe."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterable, Iterator
from typing import Any

from flaxcnn.errors import ConfigError, WriteError
from flaxcnn.recipe.config import decisive
from flaxcnn.records.files import as_read
from flaxcnn.records.study import StudyDirectory


class SearchDirectory(StudyDirectory):
    """`plan.json` (candidates, folds, seeds), `runs.jsonl`, `epochs.jsonl`, `search.json`, ...

    Raises:
        ConfigError: it holds another search, or something else.
        WriteError: it is in use, or cannot be written.
    """

    kind = "search"
    scores_only = True
    fixed: tuple[str, ...] = ("experiment", "candidates", "folds", "document")

    def check(self, recipe: dict[str, Any]) -> None:
        """ConfigError for other candidates or folds; more seeds and repeats may be added.

        Labels follow from the settings, and another version may word them otherwise.
        """
        old, new = self.plans(recipe)
        for plan in (old, new):
            plan["candidates"] = [
                {**one, "label": None, "config": decisive(one["config"])}
                for one in plan["candidates"]
            ]
        differ = [key for key in self.fixed if old[key] != new[key]]
        missing = [seed for seed in old["seeds"] if seed not in new["seeds"]]
        if differ or missing or new["repeats"] < old["repeats"]:
            what = ", ".join(differ) or "fewer seeds or repeats"
            raise ConfigError(
                f"search directory {self.path}: holds another search ({what} differ); resume "
                "the same one, with the same seeds and repeats or more"
            )


class SampledDirectory(SearchDirectory):
    """A search that several processes write to: each trial has a folder in `trials/`.

    Raises:
        ConfigError: it holds another search, or something else.
        WriteError: it cannot be written.
    """

    fixed = (*SearchDirectory.fixed, "repeats", "seeds", "max_params", "sampler", "pruner",
             "space")  # fmt: skip

    def check(self, recipe: dict[str, Any]) -> None:
        """ConfigError for another search; more trials may be added."""
        super().check(recipe)
        if recipe["trials"] < (old := self.read_json(self.proof)["trials"]):
            raise ConfigError(
                f"--trials must be at least {old}, which search directory {self.path} was planned "
                f"with (got {recipe['trials']})"
            )

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Only one of the processes is inside at a time."""
        with open(self.path / "turn.lock", "a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                raise WriteError(
                    f"{self.path}: file locks do not work there ({error.strerror}), which the "
                    "processes of a search need"
                ) from error
            yield

    def trial(self, name: str) -> TrialDirectory:
        """The folder of a trial, by its number or as `incumbent`."""
        return TrialDirectory(self.path / "trials" / name)


class TrialDirectory(StudyDirectory):
    """`plan.json` (settings and recipe), `runs.jsonl`, `epochs.jsonl` of a trial.

    Raises:
        ConfigError: it holds another trial.
        WriteError: another process is at work on it, or it cannot be written.
    """

    kind = "trial"
    scores_only = True

    def check(self, recipe: dict[str, Any]) -> None:
        """ConfigError for another trial."""
        if self.read_json(self.proof) != as_read(recipe):
            raise ConfigError(f"trial directory {self.path}: holds another trial")

    def complete_rows(self, keys: Iterable[str]) -> list[dict[str, Any]] | None:
        """The rows of all runs with these keys; None if one has not ended."""
        keys = list(keys)
        rows = self.ordered_rows(keys)
        return rows if len(rows) == len(keys) else None
