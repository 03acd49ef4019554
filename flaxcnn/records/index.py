"""Everything under a folder: runs, studies and searches, finished or not, with their figures."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from flaxcnn.errors import (
    CheckpointError,
    ConfigError,
    FlaxcnnError,
    FolderInUseError,
    WriteError,
)
from flaxcnn.records.files import read_lines
from flaxcnn.records.folder import Folder, runs_folder
from flaxcnn.records.format import count_text
from flaxcnn.records.tables import MISSING, Cell, Table, columns, count, decimal

# The file that says what a folder is: each kind has one from its first second on
PROOFS = (("space.json", "search"), ("plan.json", "study"), ("config.json", "run"))
BARS = "▁▂▃▄▅▆▇█"
SPARKS = 12  # bars of a line on a terminal
KEYS = {"name": "name", "accuracy": "accuracy", "when": "when", "size": "bytes",
        "seconds": "seconds", "kind": "kind", "parameters": "parameters"}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A run, study or search; what a record does not tell, or not yet, is None."""

    path: Path
    kind: str  # run, study or search
    name: str  # of the experiment
    status: str  # complete, running, stopped (killed), interrupted, diverged, failed, damaged
    when: float  # of its last change, seconds since 1970
    bytes: int  # on disk
    data: str | None = None
    accuracy: float | None = None  # test; of the best setting by validation, or of the refit
    spread: tuple[float, float] | None = None  # 95 % interval of that
    validation: float | None = None
    parameters: int | None = None
    runs: int = 1  # that have ended
    epochs: int | None = None
    seconds: float | None = None  # of training
    note: str = ""
    curve: list[float] = field(default_factory=list)  # validation accuracy by epoch, or by run

    @property
    def time(self) -> str:
        """`2026-11-20 10:15`."""
        return datetime.fromtimestamp(self.when).strftime("%Y-%m-%d %H:%M")


@dataclass(frozen=True, eq=False, repr=False)
class Runs(Sequence[Entry]):
    """What is under a folder: a sequence of `Entry`, a table, and columns for pandas."""

    folder: Path
    entries: list[Entry]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: Any) -> Any:
        return self.entries[index]

    def where(self, kind: str | None = None, status: str | None = None, text: str = "") -> Runs:
        """Those of a kind, of a status, and with `text` in their path or name."""
        chosen = [
            each for each in self.entries
            if kind in (None, each.kind) and status in (None, each.status)
            and (text in each.name or text in str(each.path))
        ]  # fmt: skip
        return Runs(self.folder, chosen)

    def by(self, key: str) -> Runs:
        """Sorted: by name from A, by anything else the largest or newest first."""
        attribute = KEYS[key]
        value = lambda each: getattr(each, attribute)  # noqa: E731
        known = [each for each in self.entries if value(each) is not None]
        unknown = [each for each in self.entries if value(each) is None]
        known.sort(key=value, reverse=not isinstance(value(known[0]), str) if known else False)
        return Runs(self.folder, [*known, *unknown])

    def to_dict(self) -> dict[str, list[Any]]:
        """Column -> one value per entry: `pandas.DataFrame(flaxcnn.runs().to_dict())`."""
        rows = []
        for each in self.entries:
            row = {**asdict(each), "path": str(each.path)}
            low, high = row.pop("spread") or (None, None)
            rows.append({**row, "low": low, "high": high})
        return columns(rows)

    def table(self) -> Table:
        """A row for each, named by its folder below this one."""
        header = ["folder", "kind", "status", "test accuracy", "validation", "runs", "when",
                  "size"]  # fmt: skip
        rows = [
            [
                Cell(str(self.place(each))), Cell(each.kind), Cell(each.status),
                decimal(each.accuracy), Cell(spark(each.curve)), count(each.runs),
                Cell(each.time, each.when), Cell(size_text(each.bytes), each.bytes),
            ]
            for each in self.entries
        ]  # fmt: skip
        return Table(f"{count_text(len(rows), 'record')} under {self.folder}", header, rows)

    def place(self, entry: Entry) -> Path:
        """Its folder below this one."""
        return entry.path.relative_to(self.folder) if entry.path != self.folder else entry.path

    def __str__(self) -> str:
        return "\n".join(self.table().text())

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        """How a notebook shows it."""
        return self.table().markdown()


def runs(folder: Path | str | None = None) -> Runs:
    """List every run, study and search under a folder, the newest first.

    >>> from flaxcnn import train
    >>> _ = train(epochs=1, run_dir="runs/one", verbose=False)
    >>> found = runs("runs")
    >>> [(each.kind, each.status) for each in found.where(text="one")]
    [('run', 'complete')]

    Args:
        folder: by default that of new runs: FLAXCNN_RUNS_DIR, or `runs`.

    Raises:
        ConfigError: there is no such folder.
    """
    chosen = runs_folder() if folder is None else Path(folder)
    top = chosen.expanduser().absolute()
    if not top.is_dir():
        raise ConfigError(f"{chosen}: there is no such folder; `flaxcnn train` makes runs/")
    found = [entry(path, kind) for path, kind in _records(top)]
    return Runs(top, found).by("when")


def index_of(folder: Path) -> Runs | None:
    """What is under a folder; None where there is no folder, or no record."""
    if not folder.expanduser().is_dir():
        return None
    return runs(folder) or None


def kind_by_proof(path: Path) -> str | None:
    """What a folder holds, finished or not; None: no record."""
    for name, kind in PROOFS:
        if (path / name).is_file():
            if kind == "study" and "candidates" in _object(path / name):
                return "search"
            return kind if kind != "run" or (path / "status.json").is_file() else None
    return None


def _records(top: Path) -> Iterator[tuple[Path, str]]:
    """Every folder with a record; what a study or search holds within is part of it."""
    if kind := kind_by_proof(top):
        yield top, kind
        return
    try:
        below = sorted(each for each in top.iterdir() if each.is_dir() and not each.is_symlink())
    except OSError:
        return
    for each in below:
        if not each.name.startswith("."):
            yield from _records(each)


def entry(path: Path, kind: str) -> Entry:
    """What one folder's records tell; a damaged one is told as that."""
    ended = any((path / name).is_file() for name in ("summary.json", "study.json", "search.json"))
    status = _object(path / "status.json").get("status") or ("complete" if ended else "unfinished")
    shared = (path / "trials").is_dir()  # by several processes, none of which holds it
    if status == "running" and (path / "run.lock").is_file() and not shared:
        with contextlib.suppress(FolderInUseError, OSError):
            check_unused(path)
            status = "stopped"  # its process is gone, and could not say so
    try:
        told = {"run": _run, "study": _study, "search": _search}[kind](path)
    except (FlaxcnnError, KeyError, TypeError, ValueError, IndexError) as error:
        told, status = {"note": f"{type(error).__name__}: {error}"}, "damaged"
    changed = max((file.stat().st_mtime for file in path.glob("*.json*")), default=0.0)
    name = str(told.pop("name", None) or path.name)
    return Entry(path, kind, name, str(status), changed, _bytes(path), **told)


def _run(path: Path) -> dict[str, Any]:
    config, summary = _object(path / "config.json"), _object(path / "summary.json")
    history = read_lines(path / "metrics.jsonl")
    curve = _curve(history)
    told = {"data": config.get("dataset"), "epochs": len(history), "curve": curve,
            "seconds": sum(row.get("seconds") or 0.0 for row in history),
            "validation": max(curve, default=None)}  # fmt: skip
    if summary:
        told |= {"name": summary["experiment"], "accuracy": summary["test_accuracy"],
                 "validation": summary["val_accuracy"],
                 "parameters": summary["params"]}  # fmt: skip
    return told


def _study(path: Path) -> dict[str, Any]:
    plan, summary = _object(path / "plan.json"), _object(path / "study.json")
    rows = read_lines(path / "runs.jsonl")
    ended = [row for row in rows if row["status"] == "complete"]
    told: dict[str, Any] = {
        "name": plan["experiment"], "data": plan["config"].get("dataset"), "runs": len(rows),
        "seconds": sum(row.get("seconds") or 0.0 for row in ended),
        "curve": [row["test_accuracy"] for row in ended],
        "parameters": ended[0].get("params") if ended else None,
    }  # fmt: skip
    settings = [each for each in summary.get("settings", ()) if each["metrics"]]
    if settings:
        best = max(settings, key=lambda each: float(each["metrics"]["val_accuracy"]["mean"]))
        figures = best["metrics"]["test_accuracy"]
        told |= {"accuracy": figures["mean"], "validation": best["metrics"]["val_accuracy"]["mean"],
                 "spread": figures["t_interval"] and tuple(figures["t_interval"]),
                 "note": best["label"]}  # fmt: skip
    return told


def _search(path: Path) -> dict[str, Any]:
    plan, summary = _object(path / "plan.json"), _object(path / "search.json")
    folders = [path, *(path / "trials").glob("*")]
    ended = sum(len(read_lines(folder / "runs.jsonl")) for folder in folders)
    told: dict[str, Any] = {"name": plan.get("experiment"),
                            "runs": summary.get("planned", ended)}  # fmt: skip
    if plan.get("candidates"):
        told["data"] = plan["candidates"][0]["config"].get("dataset")
    scored = [each["mean"] for each in summary.get("candidates", ()) if each["mean"] is not None]
    refit = summary.get("refit") or {}
    return told | {
        "curve": scored[::-1], "validation": max(scored, default=None),
        "accuracy": refit.get("test_accuracy"), "parameters": refit.get("params"),
        "note": summary.get("winner") or "",
    }  # fmt: skip


def _curve(history: Sequence[dict[str, Any]]) -> list[float]:
    return [row["val_accuracy"] for row in history if row.get("val_accuracy") is not None]


def _object(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _bytes(path: Path) -> int:
    return sum(
        os.lstat(os.path.join(folder, name)).st_size
        for folder, _, names in os.walk(path) for name in names
    )  # fmt: skip


def spark(values: Sequence[float], most: int = SPARKS) -> str:
    """Numbers as a line of bars, from the lowest to the highest of them.

    >>> spark([0.1, 0.5, 0.9])
    '▁▄█'
    """
    if not values:
        return MISSING
    step = max(1.0, len(values) / most)
    taken = [values[min(len(values) - 1, int(i * step))] for i in range(min(most, len(values)))]
    taken[-1] = values[-1]
    low, high = min(taken), max(taken)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[int((value - low) * scale)] for value in taken)


def size_text(number: int) -> str:
    """`3.4 MB`.

    >>> size_text(3_400_000), size_text(812)
    ('3.4 MB', '812 B')
    """
    size = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def check_unused(path: Path) -> None:
    """FolderInUseError if a process is writing to it."""
    Folder(path).check_unused()


def remove(path: Path) -> int:
    """Delete a run, study or search for good -> the bytes that it held.

    Raises:
        CheckpointError: the folder is none of them.
        FolderInUseError: a process is writing to it.
        WriteError: it cannot be deleted.
    """
    path = path.expanduser().absolute()
    if kind_by_proof(path) is None:
        raise CheckpointError(f"{path}: holds no run, study or search, so nothing was deleted")
    held = _bytes(path)
    check_unused(path)
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise WriteError(f"{path}: cannot be deleted ({error.strerror})") from error
    return held
