"""A run directory, written while the run trains."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flaxcnn.errors import CheckpointError, ConfigError, DataError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.fields import Role, names
from flaxcnn.records.files import remove_unfinished
from flaxcnn.records.folder import Folder

ELSEWHERE = "checkpoints.json"  # names their folder, where it is not in the run directory


class RunDirectory(Folder):
    """`runs/<experiment>/<id>/`: the records of one run.

    Raises:
        ConfigError: it holds another run or another recipe.
        DataError: its run was started on other data.
        WriteError: it is in use, or cannot be written.
    """

    remade = ("data.json", "env.json", "filters.npz", "metrics.jsonl", "model.json",
              "predictions.npz", "split.json", "status.json", "summary.json")  # fmt: skip
    data_digest: str | None = None  # of the data that it is opened with, where that is known

    def open(self, config: Config, resume: bool, data_digest: str | None = None) -> RunDirectory:
        """Create it for a new run on that data, or open it again to resume; returns self."""
        self.data_digest = data_digest
        self.take(config.to_dict(), resume)
        if self.writes:  # alone: nobody else is between writing a file and renaming it
            remove_unfinished(self.path)
        return self

    def check(self, recipe: dict[str, Any]) -> None:
        """Check that the run may be resumed with the recipe, before anything is written.

        Raises:
            ConfigError: another recipe, or fewer epochs than there are.
            DataError: other data.
        """
        check_same(f"run directory {self.path}", self.config().to_dict(), recipe)
        if recipe["epochs"] < (done := len(self.history())):
            raise ConfigError(
                f"epochs must be at least {done}, which run directory {self.path} has already "
                f"(got {recipe['epochs']})"
            )
        self._check_data(recipe)

    def _check_data(self, recipe: dict[str, Any]) -> None:
        if self.data_digest is None or not (self.path / "data.json").is_file():
            return  # where checkpoints are elsewhere, the folder may be new
        if "digest" not in (data := self.read_json("data.json")):
            raise CheckpointError(f"{self.path / 'data.json'}: lacks digest: it is damaged")
        if data["digest"] == self.data_digest:
            return
        text = f"{recipe['dataset']} is not the data that {self.path} was started on"
        before = self.config().to_dict()
        # Images decoded on demand have a digest of their own: of names and sizes, not of pixels
        changed = [name for name in ("input", "data_memory") if before[name] != recipe[name]]
        if changed:
            kept = " ".join(f"-s {name}={before[name]}" for name in changed)
            text += f", or not in the same form; resume it with {kept}"
        raise DataError(text)

    def config(self) -> Config:
        """The recipe it was started with."""
        return Config.from_dict(self.read_json("config.json"))

    def history(self) -> list[dict[str, Any]]:
        """The epochs of metrics.jsonl."""
        return self.lines("metrics.jsonl")

    def checkpoint_folder(self, chosen: str | Path | None = None) -> str | Path:
        """Where its checkpoints are; a `chosen` folder is recorded for later."""
        if chosen is not None:
            if not str(chosen).strip():
                raise ConfigError("--checkpoint-dir must name a folder (got an empty text)")
            path = chosen if "://" in str(chosen) else Path(chosen).expanduser().absolute()
            self.write_json(ELSEWHERE, {"folder": str(path)})
            return path
        if (self.path / ELSEWHERE).is_file():
            if not isinstance(folder := self.read_json(ELSEWHERE).get("folder"), str):
                raise CheckpointError(f"{self.path / ELSEWHERE}: lacks folder: it is damaged")
            if "://" not in folder and not Path(folder).is_absolute():
                raise CheckpointError(f"{self.path / ELSEWHERE}: folder must be a whole path")
            return folder
        return self.path / "checkpoints"

    def begin(self, history: list[dict[str, Any]]) -> None:
        """Write metrics.jsonl with the epochs of the checkpoint; later ones are computed again."""
        self.write_lines("metrics.jsonl", history)

    def add_epoch(self, rows: list[dict[str, Any]]) -> None:
        """Append the last of the epochs to metrics.jsonl, and write history.csv."""
        self.add_lines("metrics.jsonl", rows[-1:])
        table = io.StringIO()
        writer = csv.DictWriter(table, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
        self.write_text("history.csv", table.getvalue())


def check_same(where: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Check that a run of the recipe `old` can be resumed as `new`.

    It may run for more epochs, unless its schedule spans them all, and settings of execution and
    delivery may change.

    Raises:
        ConfigError: another setting differs.
    """
    before = Config.from_dict(old).to_dict()  # with the fields that are newer than the record
    free = {*names(Config, Role.EXECUTION | Role.DELIVERY)}
    free |= set() if Config.from_dict(dict(new)).spans_run else {"epochs"}
    if differ := [key for key in new if before[key] != new[key] and key not in free]:
        key = differ[0]
        raise ConfigError(
            f"{where} holds a different recipe: {', '.join(differ)} "
            f"({key} was {before[key]!r}, now {new[key]!r})"
        )
