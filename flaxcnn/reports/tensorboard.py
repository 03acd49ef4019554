"""TensorBoard event files of a run, as Keras lays them out, written from metrics.jsonl.

`tensorboard/train` and `tensorboard/validation` share the tags `epoch_loss` and `epoch_accuracy`,
so that a chart overlays the two; a step is an epoch as the records count it, from 1. metrics.jsonl
stays the truth: a start writes new files from it and empties those of earlier starts, whose last
epochs may be computed again. tensorboardX is imported only where event files are wanted.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, get_args

from flaxcnn.errors import ConfigError, WriteError
from flaxcnn.recipe.averages import Average
from flaxcnn.records.format import label
from flaxcnn.records.history import history, numbers
from flaxcnn.records.read import histories, kind_of, run_rows

log = logging.getLogger(__name__)
FOLDER = "tensorboard"
# Prefix in metrics.jsonl -> folder, which TensorBoard calls a run.
SPLITS = {
    "train_": "train", "val_": "validation", "clean_train_": "clean_train",
    **{f"{average.name}_val_": f"{average.name}_validation" for average in get_args(Average)},
}  # fmt: skip
OF_TRAINING = ("images_per_second", "stall")
LONGEST = 100  # characters of a folder's name
_files = itertools.count()  # of this process


def require(what: str) -> None:
    """ConfigError if tensorboardX, which `what` needs, is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError(
            f"{what}: needs tensorboardX, which is not installed; "
            "`pip install tensorboardX` does that"
        )


class EventFiles:
    """Event files that grow with a run: `with EventFiles(path) as add: fit(..., on_epoch=add)`.

    An epoch can be seen as soon as it has ended. If something cannot be written, that is reported
    once and the run goes on.

    Args:
        run: the run directory.
        on_note: called with what cannot be written.

    Raises:
        ConfigError: tensorboardX is not installed.
    """

    def __init__(self, run: str | Path, on_note: Callable[[str], None] = log.warning):
        require("EventFiles")
        self._run = Path(run).expanduser().absolute()
        self._note = on_note
        self._writers: dict[str, _Writer] = {}
        self._begun = self._failed = False

    def __call__(self, metrics: Mapping[str, Any]) -> None:
        """An epoch has ended, and metrics.jsonl has its line."""
        self._try(lambda: self._add(metrics))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and not self._begun:  # a finished run, taken up again, has no more epochs
            self._try(self._begin)
        self._try(lambda: _close(self._writers))

    def _add(self, metrics: Mapping[str, Any]) -> None:
        if self._begun:
            _write(self._writers, [metrics])
        else:
            self._begin()

    def _begin(self) -> None:
        """All epochs there are, in new files."""
        rows = history(self._run)
        self._begun = True
        self._writers = _open(self._run / FOLDER, rows)
        _write(self._writers, rows)

    def _try(self, action: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:
            self._failed = True
            with contextlib.suppress(OSError):
                _close(self._writers)
            self._note(
                f"TensorBoard event files end here ({type(error).__name__}: {error}); "
                "`flaxcnn report RUN --tensorboard` writes them again when the run has ended"
            )


def convert(path: Path) -> Path:
    """Write event files of a finished run, or every run of a study or search -> their folder.

    Raises:
        ConfigError: tensorboardX is not installed.
        CheckpointError: nothing finished, or a damaged record.
        WriteError: they cannot be written.
    """
    require("--tensorboard")
    path = path.expanduser().absolute()
    runs = {"": history(path)} if kind_of(path) == "run" else _runs(path)
    try:
        for name, rows in runs.items():
            writers = _open(path / FOLDER / name, rows)
            _write(writers, rows)
            _close(writers)
    except OSError as error:
        raise WriteError(f"{path / FOLDER}: cannot be written ({error.strerror})") from error
    return path / FOLDER


def _runs(path: Path) -> dict[str, list[dict[str, Any]]]:
    """`learning_rate=0.1/seed3` -> epochs, of a study or a search; drawn trials have folders."""
    epochs = histories(path)
    runs: dict[str, list[dict[str, Any]]] = {}
    for row in run_rows(path):
        setting = re.sub(r"[^\w.,=+ -]", "_", label(row["setting"], row["vary"]))[:LONGEST]
        name = str(Path(setting) / f"seed{row['seed']}")
        if name in runs:  # settings that differ in what a folder's name cannot hold
            name += f"-{row['run']}"
        runs[name] = numbers(epochs.get(row["run"], []))
    return runs


# -- one file a split ----------------------------------------------------------------------------


class _Writer:
    """A new event file in a folder; those of earlier starts are emptied."""

    def __init__(self, folder: Path):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        folder.mkdir(parents=True, exist_ok=True)
        before = list(folder.glob("events.out.tfevents.*"))
        # Files are named by the second; a suffix of its own keeps one from overwriting another.
        # The writer without a queue and thread: what is flushed is on the disk.
        self._file = EventsWriter(str(folder / "events"), f".{os.getpid()}.{next(_files)}")
        # A TensorBoard that is open forgets the steps it has read of the earlier files.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._file.write_event(event_pb2.Event(session_log=start, step=0, wall_time=time.time()))
        for path in before:
            # Emptied, and removed at the next start: a TensorBoard that is open reads a file to its
            # end before it looks for a later one, and stays for good at one that has vanished.
            if path.stat().st_size:
                os.truncate(path, 0)
            else:
                path.unlink()

    def add(self, epoch: int, values: Mapping[str, float], when: float) -> None:
        """The values of an epoch by tag."""
        from tensorboardX.proto import event_pb2, summary_pb2

        each = [summary_pb2.Summary.Value(tag=t, simple_value=v) for t, v in values.items()]
        summary = summary_pb2.Summary(value=each)
        self._file.write_event(event_pb2.Event(summary=summary, step=epoch, wall_time=when))

    def flush(self) -> None:
        """To the disk, where TensorBoard reads it."""
        self._file.flush()

    def close(self) -> None:
        """No further epochs."""
        self._file.close()


def _split(row: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Folder -> tag -> value."""
    splits: dict[str, dict[str, float]] = {}
    for key, value in row.items():
        for prefix, folder in SPLITS.items():
            if key.startswith(prefix):
                splits.setdefault(folder, {})[f"epoch_{key.removeprefix(prefix)}"] = value
        if key in OF_TRAINING:
            splits.setdefault("train", {})[f"epoch_{key}"] = value
    return splits


def _open(folder: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, _Writer]:
    """A writer for each split in the epochs."""
    splits = dict.fromkeys(split for row in rows for split in _split(row))
    return {split: _Writer(folder / split) for split in splits}


def _write(writers: Mapping[str, _Writer], rows: Sequence[Mapping[str, Any]]) -> None:
    """Epochs that ended one after the other, the last of them now."""
    left = sum(row["seconds"] for row in rows)
    now = time.time()
    for row in rows:
        left -= row["seconds"]
        for split, values in _split(row).items():
            writers[split].add(row["epoch"], values, now - left)
    for writer in writers.values():
        writer.flush()


def _close(writers: Mapping[str, _Writer]) -> None:
    for writer in writers.values():
        writer.close()
