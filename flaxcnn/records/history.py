"""The epochs of a run as plain numbers, for trackers and plots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flaxcnn.errors import CheckpointError
from flaxcnn.records import digests
from flaxcnn.records.files import read_lines

EPOCHS = "metrics.jsonl"


def history(run: str | Path) -> list[dict[str, Any]]:
    """Read each epoch of a run, under way or ended, from metrics.jsonl: `epoch`, `train_loss`, ...

    A value that was not finite, null in the file, is `nan`. A line that is still being written is
    left out.

    >>> _ = Path("metrics.jsonl").write_text('{"epoch": 1, "val_loss": null}\\n')
    >>> history(".")
    [{'epoch': 1, 'val_loss': nan}]

    Args:
        run: its directory.

    Raises:
        CheckpointError: metrics.jsonl is missing or damaged.
    """
    path = Path(run).expanduser().absolute()
    if not (path / EPOCHS).is_file():
        raise CheckpointError(
            f"{path}: holds no {EPOCHS}; give a run directory as `flaxcnn train` writes it"
        )
    digests.check(path, EPOCHS)
    return numbers(read_lines(path / EPOCHS))


def numbers(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lines of a record with nan in place of null."""
    return [{k: math.nan if v is None else v for k, v in line.items()} for line in lines]
