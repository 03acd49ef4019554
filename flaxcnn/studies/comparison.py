"""What a comparison of recipes found, as a table, sentences, and files of a paper."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flaxcnn.records.differing import MOST, difference_table, differing
from flaxcnn.records.format import EVERYTHING, verdict_text
from flaxcnn.records.latex import latex
from flaxcnn.records.tables import Cell, Table, columns, count, csv_text
from flaxcnn.studies.contrasts import Superiority
from flaxcnn.studies.stats import summarize
from flaxcnn.studies.verdict import Verdict


@dataclass
class Side:
    """Runs of one recipe on the same rows that differ in their seed."""

    label: str
    path: Path  # of the first of them
    shared: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)  # by dotted key
    varied: str = EVERYTHING  # source of randomness
    rows: int | None = None  # that the metric is taken on
    values: dict[int, float] = field(default_factory=dict)  # seed -> metric
    failed: set[int] = field(default_factory=set)  # seeds of runs that diverged
    dead: set[int] = field(default_factory=set)  # of networks that learn nothing
    left_out: set[int] = field(default_factory=set)  # of those


@dataclass(frozen=True)
class Compared:
    """One side against the first."""

    label: str
    against: str
    verdict: Verdict
    superiority: Superiority
    p_corrected: float | None  # Holm's, over all comparisons of the call


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """The sides, and every other one against the first; `print` shows it as a table."""

    metric: str
    paired: bool
    alive: bool
    sides: list[Side]
    compared: list[Compared]  # one for each side but the first
    notes: list[str]  # for the reader

    @property
    def differing(self) -> dict[str, list[str]]:
        """Setting -> its value on each side as text, of those that are not the same on all."""
        return differing([side.settings for side in self.sides])

    def table(self) -> Table:
        """A row for each side: its figure, and what it is against the first."""
        name = self.metric.replace("_", " ")
        header = ["", "seeds", name, "difference [95 %]", "p", "P(better) [95 %]", "verdict"]
        rows = [
            [Cell(side.label), count(len(side.values)), *map(Cell, _cells(side, compared))]
            for side, compared in zip(self.sides, [None, *self.compared], strict=True)
        ]
        what = f"{name.capitalize()} over seeds (mean ± sd)"
        return Table(f"{what}; differences from {self.sides[0].label}", header, rows)

    def sentences(self) -> list[str]:
        """Each verdict with its reason, and how many seeds would settle what is open."""
        return [_sentence(compared) for compared in self.compared]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `flaxcnn compare --json` prints them."""
        return {
            "metric": self.metric, "paired": self.paired, "alive": self.alive, "notes": self.notes,
            "differing": self.differing,
            "sides": [
                {"label": s.label, "values": dict(sorted(s.values.items())),
                 "diverged": sorted(s.failed), "dead": sorted(s.dead)}
                for s in self.sides
            ],
            "comparisons": [
                {"label": c.label, "against": c.against, "p_corrected": c.p_corrected,
                 "superiority": asdict(c.superiority), **asdict(c.verdict)}
                for c in self.compared
            ],
        }  # fmt: skip

    def columns(self) -> dict[str, list[Any]]:
        """Column -> one value per side: `pandas.DataFrame(found.columns())`, and the CSV table."""
        rows = [_plain_row(side, one) for side, one in
                zip(self.sides, [None, *self.compared], strict=True)]  # fmt: skip
        return columns(rows)

    def text(self, kind: str) -> str:
        """As a file of a paper: "markdown", "latex" (booktabs), "csv", or "text"."""
        match kind:
            case "markdown":
                return self._repr_markdown_() + "\n"
            case "latex":
                return self._latex()
            case "csv":
                return csv_text(self.columns())
        return f"{self}\n"

    def _latex(self) -> str:
        """Settings in columns of their own where few differ, else in a second table."""
        table, differ = self.table(), self.differing
        if not 0 < len(differ) <= MOST or len(set(zip(*differ.values(), strict=True))) < len(
            self.sides
        ):
            labels = [side.label for side in self.sides]
            return latex(table, difference_table(labels, differ) if differ else None,
                         self.sentences())  # fmt: skip
        cells = zip(*differ.values(), strict=True)
        rows = [[*map(Cell, own), *row[1:]] for own, row in zip(cells, table.rows, strict=True)]
        header = [*differ, *table.header[1:]]
        return latex(Table(table.caption, header, rows), None, self.sentences())

    def __str__(self) -> str:
        return "\n".join([*self.table().text(), "", *self.sentences(), *self.notes])

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        """How a notebook shows it."""
        return "\n\n".join([self.table().markdown(), *self.sentences(), *self.notes])


def _plain_row(side: Side, compared: Compared | None) -> dict[str, Any]:
    """One line of a CSV file."""
    figures = summarize(list(side.values.values()))
    row: dict[str, Any] = {
        "side": side.label, "seeds": figures.n, "mean": figures.mean, "sd": figures.sd,
        "low": figures.t_interval and figures.t_interval[0],
        "high": figures.t_interval and figures.t_interval[1],
    }  # fmt: skip
    if compared is None:
        return row
    own, test = compared.verdict, compared.verdict.comparison
    low, high = test.interval or (None, None)
    return row | {
        "difference": test.difference, "difference_low": low, "difference_high": high,
        "p": own.p_value, "probability_better": compared.superiority.probability,
        "verdict": own.verdict, "more_seeds": own.more_seeds,
    }  # fmt: skip


def _cells(side: Side, compared: Compared | None) -> list[str]:
    figures = summarize(list(side.values.values()))
    cells = [f"{figures.mean:.4f} ± {figures.sd or 0:.4f}"]
    if compared is None:
        return [*cells, "", "", "", "reference"]
    own, chance, test = compared.verdict, compared.superiority, compared.verdict.comparison
    ends = f" [{test.interval[0]:+.4f}, {test.interval[1]:+.4f}]" if test.interval else ""
    p = "-" if own.p_value is None else f"{own.p_value:.2g}"
    return [
        *cells, f"{test.difference:+.4f}{ends}", p,
        f"{chance.probability:.2f} [{chance.interval[0]:.2f}, {chance.interval[1]:.2f}]",
        verdict_text(own.verdict),
    ]  # fmt: skip


def _sentence(compared: Compared) -> str:
    own = compared.verdict
    text = (
        f"{compared.label} against {compared.against}: {verdict_text(own.verdict)} ({own.reason})"
    )
    if own.more_seeds is not None:
        return f"{text}; about {own.more_seeds} more seeds a side would settle it"
    if own.verdict == "not shown" and own.seeds.reason:
        return f"{text}; {own.seeds.reason}"
    return text
