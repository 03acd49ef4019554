"""Figures of each experiment under each protocol, beside what its document reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flaxcnn.recipe import catalog
from flaxcnn.recipe.catalog import Experiment
from flaxcnn.records.read import SearchRecord, read_search
from flaxcnn.results.rows import Results, stale
from flaxcnn.results.verdicts import Judged, judge
from flaxcnn.studies.stats import Summary, summarize

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Document:
    """A document: its experiments, in the order of the catalog, ours beside it included."""

    slug: str
    file: str
    subject: str
    experiments: tuple[Experiment, ...]

    @property
    def documented(self) -> tuple[Experiment, ...]:
        """Those that it describes."""
        return tuple(e for e in self.experiments if e.document)


def documents() -> list[Document]:
    """All of them, in the order of the catalog."""
    known = catalog.experiments()
    known_documents = []
    for module in catalog.MODULES:
        slug = module.replace("_", "-")
        own = tuple(e for name, e in known.items() if name.startswith(f"{slug}/"))
        file = next((e.document.partition(",")[0] for e in own if e.document), "")
        if file:
            text = catalog.load_module(catalog.experiments_folder() / f"{module}.py").__doc__ or ""
            known_documents.append(
                Document(slug, file, text.strip().splitlines()[0].rstrip("."), own)
            )
    return known_documents


@dataclass
class Measured:
    """Rows of one experiment under one protocol. Stale rows are only counted."""

    rows: list[Row] = field(default_factory=list)  # complete, of the recipe as it is now
    stale: int = 0
    diverged: int = 0

    @property
    def living(self) -> list[Row]:
        """Rows of networks that are not dead."""
        return [row for row in self.rows if not row["dead_layers"]]

    def values(self, metric: str = "test_accuracy", alive: bool = False) -> dict[int, float]:
        """Seed -> metric, one of a row's or of those that `value` makes."""
        return {row["seed"]: value(row, metric) for row in (self.living if alive else self.rows)}

    def summary(self, metric: str = "test_accuracy", alive: bool = False) -> Summary | None:
        """Mean, spread and interval over seeds; None without rows."""
        values = self.values(metric, alive)
        return summarize(values) if values else None

    def median(self, metric: str) -> float | None:
        """Of a field of the rows; the lower of two in the middle.

        Rows of runs that were trained side by side count only if there are no others, since their
        seconds are a share of the machine's.
        """
        alone = [row for row in self.rows if "runs_beside" not in row]
        values = sorted(row[metric] for row in alone or self.rows)
        return values[(len(values) - 1) // 2] if values else None

    def of_seed(self, seed: int) -> Row | None:
        """The row of a seed, or the first one."""
        first = self.rows[0] if self.rows else None
        return next((row for row in self.rows if row["seed"] == seed), first)


def value(row: Row, metric: str) -> float:
    """A metric of a row, or one made of several.

    `gap` is training minus test accuracy, `best_val_accuracy` the highest of all epochs.
    """
    if metric == "gap":
        return float(row["train_accuracy"] - row["test_accuracy"])
    if metric == "best_val_accuracy":
        return float(max(v for v in row["curves"]["val_accuracy"] if v is not None))
    return float(row[metric])


class Figures:
    """All rows of a folder by experiment and protocol."""

    def __init__(self, results: Results):
        self.results, self.rows = results, results.rows()
        self._searches: dict[Path, SearchRecord | None] = {}
        self._measured: dict[tuple[str, str], Measured] = {}
        for row in self.rows:
            own = self._measured.setdefault((row["experiment"], row["protocol"]), Measured())
            if stale(row):
                own.stale += 1
            elif row["status"] == "diverged":
                own.diverged += 1
            else:
                own.rows.append(row)

    def of(self, experiment: str, protocol: str) -> Measured:
        """Empty if there are none."""
        return self._measured.get((experiment, protocol), Measured())

    def search(self, experiment: str, protocol: str = "honest") -> SearchRecord | None:
        """The search of a grid, if there is one."""
        folder = self.results.search_folder(experiment, protocol)
        if folder not in self._searches:
            there = (folder / "search.json").is_file()
            self._searches[folder] = read_search(folder) if there else None
        return self._searches[folder]


# -- what a document reports ---------------------------------------------------------------------


@dataclass(frozen=True)
class Reported:
    """The figure of a document that ours are compared with."""

    metric: str  # of our rows: the same quantity
    value: float
    kind: str  # on which rows, and how its epoch was chosen
    digits: int

    @property
    def text(self) -> str:
        """As the document prints it."""
        return f"{self.value:.{self.digits}f}"


KINDS = (  # reported field, metric of ours, where validation is the test set, where it is not
    ("test_accuracy", "test_accuracy", "validation = test", "test"),
    ("best_val_accuracy", "best_val_accuracy", "best validation = test", "best validation"),
    ("train_accuracy", "train_accuracy", "training", "training"),
)


def reported(experiment: Experiment) -> Reported | None:
    """The document's test accuracy, else its best visible validation accuracy, else training."""
    on_test = experiment.documented.get("validation") == "test"
    for name, metric, same, apart in KINDS:
        value = experiment.reported.get(name)
        if value is not None:
            kind = same if on_test else apart
            return Reported(metric, float(value), kind, digits(experiment, name))
    return None


def digits(experiment: Experiment, name: str) -> int:
    """Decimals that a document prints of a figure: the most of any of its experiments.

    A number alone is not enough: the zero of 0.920 is lost.
    """
    slug = experiment.name.partition("/")[0]
    values = [e.reported[name] for n, e in catalog.experiments().items()
             if n.startswith(f"{slug}/") and name in e.reported]  # fmt: skip
    return max(len(repr(float(v)).partition(".")[2]) for v in values or [experiment.reported[name]])


def verdict(experiment: Experiment, measured: Measured) -> Judged:
    """Of rows under the document's protocol; of those that learn, where some networks are dead."""
    own = reported(experiment)
    if not measured.rows:
        return Judged("cannot be told", "it has not been run under the document's protocol")
    if own is None:
        return judge([], None, 1, 1)
    rows = measured.rows[0]["val_rows" if own.metric.startswith("best_val") else "test_rows"]
    values = list(measured.values(own.metric, alive=True).values())
    return judge(values, own.value, rows, own.digits)
