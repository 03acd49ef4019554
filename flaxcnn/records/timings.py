"""What `flaxcnn bench` writes: read again, as a table, and beside that of another machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxcnn.errors import CheckpointError, ConfigError
from flaxcnn.records.files import read_json
from flaxcnn.records.tables import Cell, Table, count

CASE = ("experiment", "mode", "batch_size", "dtype")  # what tells one case from another
NEEDED = (*CASE, "images_per_second", "spread")
APART_NOTE = "apart: the slowest block of the one is faster than the fastest of the other"


@dataclass(frozen=True)
class Timings:
    """A document of `flaxcnn bench`, and the name it is shown by."""

    name: str
    results: list[dict[str, Any]]
    environment: dict[str, Any]

    @property
    def machine(self) -> str:
        """`NVIDIA H200, jax 0.10.1`."""
        devices = self.environment.get("devices") or 1
        device = self.environment.get("device") or "unknown device"
        if self.environment.get("backend") == "cpu":
            device = self.environment.get("processor") or device
            times = f"{self.environment['cpus']} cores of " if "cpus" in self.environment else ""
        else:
            times = f"{devices} x " if devices != 1 else ""
        return f"{times}{device}, jax {self.environment.get('versions', {}).get('jax', 'unknown')}"


def read_timings(path: Path) -> Timings:
    """A file that `flaxcnn bench --output` or `--json` wrote.

    Raises:
        CheckpointError: it is missing, damaged, or something else.
    """
    found = read_json(path)
    rows = found.get("results") if isinstance(found, dict) else None
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and all(key in row for key in NEEDED) for row in rows
    ):
        raise CheckpointError(
            f"{path}: is not what `flaxcnn bench --output` writes (no results with "
            f"{', '.join(NEEDED[4:])})"
        )
    return Timings(path.stem, rows, found.get("environment") or {})


@dataclass(frozen=True)
class Ratio:
    """One case on two machines: rates of the first and the second, and second over first."""

    case: tuple[Any, ...]
    first: float
    second: float
    low: float  # from the slowest block of the second over the fastest of the first
    high: float

    @property
    def ratio(self) -> float:
        """How many times as fast the second is."""
        return self.second / self.first

    @property
    def apart(self) -> bool:
        """Whether the ranges of the blocks do not touch."""
        return self.low > 1 or self.high < 1


def ratios(first: Timings, second: Timings) -> list[Ratio]:
    """The cases that both measured, in the order of the first.

    Raises:
        ConfigError: there is none.
    """
    known = {case_of(row): row for row in second.results if row["images_per_second"]}
    both = [(row, known[case_of(row)]) for row in first.results
            if row["images_per_second"] and case_of(row) in known]  # fmt: skip
    if not both:
        raise ConfigError(
            f"--compare: {first.name} and {second.name} have no case in common: the same "
            f"experiment, mode, batch size and dtype (as {_example(first)} and {_example(second)})"
        )
    return [
        Ratio(
            case_of(a), a["images_per_second"], b["images_per_second"],
            b["spread"][0] / a["spread"][1], b["spread"][1] / a["spread"][0],
        )
        for a, b in both
    ]  # fmt: skip


def case_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """(experiment, mode, batch size, dtype)."""
    return tuple(row[key] for key in CASE)


def case_labels(cases: Sequence[tuple[Any, ...]]) -> list[str]:
    """`mnist-ladder/model10 train 128 f32`, without what all cases share.

    >>> case_labels([("a", "train", 64, "f32"), ("a", "eval", 500, "f32")])
    ['train 64', 'eval 500']
    """
    shared = [len(cases) > 1 and len(set(column)) == 1 for column in zip(*cases, strict=True)]
    return [
        " ".join(str(word) for word, same in zip(case, shared, strict=True) if not same)
        for case in cases
    ]


def shared_words(cases: Sequence[tuple[Any, ...]]) -> str:
    """What all of several cases share: `mnist-ladder/model10 f32`."""
    columns = zip(*cases, strict=True)
    return " ".join(str(column[0]) for column in columns if len(set(column)) == 1 < len(cases))


def _example(timings: Timings) -> str:
    return " ".join(map(str, case_of(timings.results[0]))) if timings.results else "nothing"


def ratio_table(first: Timings, second: Timings, found: Sequence[Ratio]) -> Table:
    """A row for each case: both rates, and their ratio with its range."""
    header = ["experiment", "mode", "batch", "dtype", first.name, second.name, "ratio", "range",
              "apart"]  # fmt: skip
    rows = [
        [
            Cell(one.case[0]), Cell(one.case[1]), count(one.case[2]), Cell(one.case[3]),
            count(round(one.first)), count(round(one.second)),
            Cell(f"{one.ratio:.3g}x", one.ratio), Cell(f"{one.low:.3g} to {one.high:.3g}"),
            Cell("yes" if one.apart else "no"),
        ]
        for one in found
    ]  # fmt: skip
    return Table(f"Images per second of {second.name} over {first.name}", header, rows)
