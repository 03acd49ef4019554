"""The epochs of a run as plain numbers, for trackers and plots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flaxcnn.errors import CheckpointError
from flaxcnn.records import digests
from flaxcnn.records.files import read_lines
from flaxcnn.records.read import Record, StudyRecord, read_study

EPOCHS = "metrics.jsonl"


def history(run: str | Path | Record) -> list[dict[str, Any]]:
    """Read each epoch of a run, under way or ended, or of each run of a finished study.

    A value that was not finite, null in the file, is `nan`. A line that is still being written is
    left out. Of a study, each epoch begins with the `seed` of its run and what varies beside it.

    >>> _ = Path("metrics.jsonl").write_text('{"epoch": 1, "val_loss": null}\\n')
    >>> history(".")
    [{'epoch': 1, 'val_loss': nan}]

    Args:
        run: its directory, or what `flaxcnn.train` and `study` returned.

    Raises:
        CheckpointError: the records are missing or damaged.
    """
    path = (run.path if isinstance(run, Record) else Path(run)).expanduser().absolute()
    if (path / "study.json").is_file():
        return _of_study(read_study(path))
    if not (path / EPOCHS).is_file():
        raise CheckpointError(
            f"{path}: holds no {EPOCHS}; give a run directory as `flaxcnn train` writes it, or "
            "that of a finished study"
        )
    digests.check(path, EPOCHS)
    return numbers(read_lines(path / EPOCHS))


def _of_study(study: StudyRecord) -> list[dict[str, Any]]:
    """The epochs of all runs, in the order of the plan."""
    found = []
    for row in study.rows:
        about = {"seed": row["seed"], **row["setting"]}
        for epoch in numbers(study.histories.get(row["run"], [])):
            found.append({**about, **{k: v for k, v in epoch.items() if k != "run"}})
    return found


def numbers(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lines of a record with nan in place of null."""
    return [{k: math.nan if v is None else v for k, v in line.items()} for line in lines]
