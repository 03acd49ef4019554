"""A study directory: one line per run and one line per epoch, added as each run ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.config import decisive
from flaxcnn.records.checked import check_lines, check_value
from flaxcnn.records.files import as_read
from flaxcnn.records.folder import Folder


class StudyDirectory(Folder):
    """`plan.json` (recipe, seeds, grid, vary), `runs.jsonl`, `epochs.jsonl`, `study.json`, ...

    Raises:
        ConfigError: it holds another study, or something else.
        WriteError: it is in use, or cannot be written.
    """

    kind = "study"
    proof = "plan.json"
    remade = ("env.json", "search.json", "space.json", "status.json", "study.json")
    by_line = ("runs.jsonl",)
    scores_only = False  # rows without training accuracy and dead units
    predictions = False  # what is predicted for the test rows, a file a run

    def check(self, recipe: dict[str, Any]) -> None:
        """ConfigError for another recipe; more seeds may be added."""
        old, new = self.plans(recipe)
        differ = [key for key in ("experiment", "grid", "vary") if old[key] != new[key]]
        config = decisive(old["config"])
        differ += [k for k, v in decisive(new["config"]).items() if config.get(k) != v]
        missing = [seed for seed in old["seeds"] if seed not in new["seeds"]]
        if differ or missing:
            what = ", ".join(differ) or f"seeds {', '.join(map(str, missing))}"
            raise ConfigError(
                f"study directory {self.path}: holds a study of another recipe ({what} differ); "
                "resume the same one, with the same seeds or more"
            )

    def plans(self, new: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The recorded plan, and `new` as JSON would return it.

        Raises:
            CheckpointError: the recorded one lacks a key of the new one, or is none.
        """
        old = self.read_json(self.proof)
        check_value(self.path / self.proof, old, list(new))
        return old, as_read(new)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """As of a folder; each has what a run or an epoch must have."""
        found = super().lines(name)
        check_lines(self.path / name, found)
        return found

    def rows(self) -> list[dict[str, Any]]:
        """A row for each run that has ended, in the order in which they did."""
        return self.lines("runs.jsonl")

    def ordered_rows(self, keys: Iterable[str]) -> list[dict[str, Any]]:
        """The rows of the runs with these keys that have ended, in the order of the keys."""
        by_key = {row["run"]: row for row in self.rows()}
        return [by_key[key] for key in keys if key in by_key]

    def forget(self, result: str) -> None:
        """Remove the figures of fewer runs, once all that they can be made from is readable.

        Raises:
            CheckpointError: a line of the runs or their epochs is damaged; nothing is removed.
        """
        self.rows()
        self.lines("epochs.jsonl")
        (self.path / result).unlink(missing_ok=True)

    def tidy(self) -> set[str]:
        """Drop what a kill left of a run without a row -> keys of the runs that have ended."""
        rows = self.rows()
        ended = {row["run"] for row in rows}
        self.write_lines("runs.jsonl", rows)
        epochs = [line for line in self.lines("epochs.jsonl") if line["run"] in ended]
        self.write_lines("epochs.jsonl", epochs)
        return ended

    def add(
        self,
        row: dict[str, Any],
        history: Sequence[dict[str, Any]],
        predictions: Mapping[str, Any] | None = None,
    ) -> None:
        """Record a run that has ended: its epochs first, so that a row is never without them.

        Args:
            row: its line for runs.jsonl; `row["run"]` is its key.
            history: its epochs.
            predictions: arrays to keep in `predictions_file`.
        """
        key = row["run"]
        if predictions is not None:
            self.write_npz(predictions_file(key), **predictions)
        self.add_lines("epochs.jsonl", [{"run": key, **epoch} for epoch in history])
        self.add_lines("runs.jsonl", [row])


def predictions_file(key: str) -> str:
    """Where a study that keeps them has the predictions of a run, below its folder."""
    return f"predictions-{key}.npz"
