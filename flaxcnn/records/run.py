"""A run directory, written while the run trains."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.config import Config
from flaxcnn.records.folder import Folder

ELSEWHERE = "checkpoints.json"  # names their folder, where it is not in the run directory
# Settings that a resumed run may change: they say how it is computed, not what.
FREE = {"save_every", "parallel", "shard_optimizer", "remat", "workers"}


class RunDirectory(Folder):
    """`runs/<experiment>/<id>/`: the records of one run.

    Raises:
        ConfigError: it holds another run or another recipe.
        WriteError: it is in use, or cannot be written.
    """

    def open(self, config: Config, resume: bool) -> RunDirectory:
        """Create it for a new run, or take it up again; returns self."""
        return self.take(config.to_dict(), resume)

    def check(self, recipe: dict[str, Any]) -> None:
        """ConfigError for another recipe, or for fewer epochs than there are."""
        check_same(f"run directory {self.path}", self.config().to_dict(), recipe)
        if recipe["epochs"] < (done := len(self.history())):
            raise ConfigError(
                f"epochs: got {recipe['epochs']}, but run directory {self.path} has {done} "
                f"already; allowed is {done} or more"
            )

    def config(self) -> Config:
        """The recipe it was started with."""
        return Config.from_dict(self.read_json("config.json"))

    def history(self) -> list[dict[str, Any]]:
        """The epochs of metrics.jsonl."""
        return self.lines("metrics.jsonl")

    def checkpoint_folder(self, chosen: str | Path | None = None) -> str | Path:
        """Where its checkpoints are; one that is `chosen` is noted for later."""
        if chosen is not None:
            place = chosen if "://" in str(chosen) else Path(chosen).expanduser().absolute()
            self.write_json(ELSEWHERE, {"folder": str(place)})
            return place
        if (self.path / ELSEWHERE).is_file():
            return str(self.read_json(ELSEWHERE)["folder"])
        return self.path / "checkpoints"

    def begin(self, history: list[dict[str, Any]]) -> None:
        """metrics.jsonl with the epochs of the checkpoint: later ones are computed again."""
        self.write_lines("metrics.jsonl", history)

    def add_epoch(self, rows: list[dict[str, Any]]) -> None:
        """A line for the last of the epochs in metrics.jsonl, and history.csv anew."""
        self.add_lines("metrics.jsonl", rows[-1:])
        table = io.StringIO()
        writer = csv.DictWriter(table, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
        self.write_text("history.csv", table.getvalue())


def check_same(where: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """ConfigError unless a run of the recipe `old` can go on as `new`.

    It may be made longer, unless its schedule spans the epochs, and be computed in another way.
    """
    free = FREE | ({"epochs"} if new["schedule"]["type"] != "cosine" else set())
    if differ := [key for key in new if old[key] != new[key] and key not in free]:
        key = differ[0]
        raise ConfigError(
            f"{where}: holds a different recipe: {', '.join(differ)} "
            f"(there {key}={old[key]!r}, now {new[key]!r})"
        )
