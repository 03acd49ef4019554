"""How many seeds a study needs, before it runs: by a known spread, or by a pilot study.

The tests are those of `flaxcnn compare`: Welch's two-sided t test, or the paired one. Their power
is that of the noncentral t distribution (`flaxcnn.studies.verdict`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flaxcnn.errors import ConfigError, near_miss, one_of
from flaxcnn.records.read import Record, StudyRecord, read
from flaxcnn.records.tables import Cell, Table, count, decimal
from flaxcnn.studies.stats import (
    Interval,
    binomial_floor,
    check_count,
    check_share,
    interval_of_sd,
    variance,
)
from flaxcnn.studies.verdict import (
    MAX_SEEDS,
    SeedsNeeded,
    attained_power,
    seeds_needed,
    seeds_needed_paired,
)

PLANNED = (2, 3, 5, 8, 10, 15, 20, 30, 50, 100)  # numbers of seeds that a plan lists
TOLERANCE = 1e-4  # of the smallest difference, as a share of it
WIDEST = 1e6  # standard deviations: no difference that is looked for is larger


@dataclass(frozen=True, repr=False)
class Plan:
    """What numbers of seeds can show; `print` shows it as a table."""

    sd: float  # of one run, or of the difference at one seed where paired
    difference: float | None
    paired: bool
    power: float
    alpha: float
    seeds: SeedsNeeded | None  # for the difference, where one is given
    detectable: list[tuple[int, float, float | None]]  # seeds, smallest difference, power
    source: str = ""  # of the standard deviation
    sd_interval: Interval | None = None  # 95 %, of a pilot study
    at_most: SeedsNeeded | None = None  # seeds, where the sd is the upper end of that
    floor: float | None = None  # standard error of the accuracy by the choice of test rows

    def sentences(self) -> list[str]:
        """The answer in words."""
        side = "pairs" if self.paired else "seeds a side"
        words = []
        if self.seeds is not None:
            words.append(
                f"{_number(self.seeds)} {side} find a difference of {self.difference:g} in "
                f"{self.power:.0%} of studies (sd {self.sd:.4g}, two-sided test at {self.alpha:g})."
            )
        if self.at_most is not None and self.sd_interval is not None:
            words.append(
                f"{self.source}. The 95 % interval of the sd is [{self.sd_interval[0]:.4g}, "
                f"{self.sd_interval[1]:.4g}]: at its upper end it takes {_number(self.at_most)}."
            )
        elif self.source:
            words.append(f"{self.source}.")
        if self.floor is not None:
            words.append(
                f"Seeds do not help against the choice of the test rows: its standard error is "
                f"{self.floor:.4g}."
            )
        return words

    def table(self) -> Table:
        """A row for each number of seeds: the smallest difference it finds, and its power."""
        header = ["pairs" if self.paired else "seeds a side", f"finds at {self.power:.0%}"]
        header += [] if self.difference is None else [f"power for {self.difference:g}"]
        rows = [
            [count(n), decimal(smallest),
             *([] if chance is None else [Cell(f"{chance:.0%}", chance)])]
            for n, smallest, chance in self.detectable
        ]  # fmt: skip
        return Table("What numbers of seeds can show", header, rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `flaxcnn power --json` prints them."""
        return {
            **{key: value for key, value in asdict(self).items() if key != "detectable"},
            "detectable": [
                {"seeds": n, "difference": smallest, "power": chance}
                for n, smallest, chance in self.detectable
            ],
        }

    def __str__(self) -> str:
        return "\n".join([*self.sentences(), "", *self.table().text()])

    def __repr__(self) -> str:
        return str(self)

    def _repr_markdown_(self) -> str:
        """How a notebook shows it."""
        return "\n\n".join([*self.sentences(), self.table().markdown()])


def _number(needed: SeedsNeeded) -> str:
    return f"more than {MAX_SEEDS:,}" if needed.seeds is None else f"{needed.seeds:,}"


def power(
    difference: float | None = None, sd: float | None = None, *,
    pilot: Path | str | Record | None = None, metric: str = "test_accuracy",
    correlation: float | None = None, power: float = 0.8, alpha: float = 0.05, comparisons: int = 1,
) -> Plan:  # fmt: skip
    """Plan a study: the seeds that find a difference, and what other numbers of seeds would find.

    >>> power(0.003, sd=0.0045).seeds.seeds
    37
    >>> power(0.003, sd=0.0045, correlation=0.5).seeds.seeds  # the same seeds on both sides
    20

    Args:
        difference: of the means, in the unit of the metric (0.003 is 0.3 percentage points);
            without it only what numbers of seeds can find is told.
        sd: standard deviation over seeds.
        pilot: a study, or its directory, from which to take it instead: pooled over its settings.
        metric: of the pilot's runs, such as "val_accuracy" or "test_loss".
        correlation: between the two sides at the same seed; makes the test a paired one, whose sd
            is sd * sqrt(2 * (1 - correlation)).
        power: share of studies in which the difference shall be found.
        alpha: level of the two-sided test.
        comparisons: how many recipes are compared with the first; the level is divided by it, which
            is Holm's correction for the smallest of their p values.

    Raises:
        CheckpointError: the pilot is no finished study.
        ConfigError: neither or both of sd and pilot, no spread, or a number out of its range.
    """
    if (sd is None) == (pilot is None):
        raise ConfigError("power needs one of --sd and --pilot: how much runs differ by their seed")
    check_count(comparisons, "comparisons")
    check_share(power, "power")
    check_share(alpha, "alpha")
    if correlation is not None and not -1.0 <= correlation < 1.0:
        raise ConfigError(f"correlation must be from -1 to below 1 (got {correlation:g})")
    source, interval, floor = "", None, None
    if pilot is not None:
        sd, interval, source, floor = _of_pilot(pilot, metric)
    assert sd is not None
    if not 0.0 < sd < math.inf:
        raise ConfigError(f"sd must be a number above 0 (got {sd:g})")
    paired, level = correlation is not None, alpha / comparisons
    factor = math.sqrt(2 * (1 - correlation)) if correlation is not None else 1.0
    needed = lambda spread: _needed(difference, spread * factor, paired, power, level)  # noqa: E731
    seeds = needed(sd)
    smallest = [_smallest_difference(n, sd * factor, paired, power, level) for n in PLANNED]
    chances = [
        None if difference is None
        else attained_power(n, difference, sd * factor, paired, level) for n in PLANNED
    ]  # fmt: skip
    return Plan(
        sd * factor, difference, paired, power, level, seeds,
        list(zip(PLANNED, smallest, chances, strict=True)), source, interval,
        None if interval is None or difference is None else needed(interval[1]), floor,
    )  # fmt: skip


def _needed(
    difference: float | None, sd: float, paired: bool, power: float, alpha: float
) -> SeedsNeeded | None:
    if difference is None:
        return None
    if not difference:
        raise ConfigError("difference must not be 0: no number of seeds finds none")
    if paired:
        return seeds_needed_paired(difference, sd, power, alpha)
    return seeds_needed(difference, sd, sd, power, alpha)


def _smallest_difference(n: int, sd: float, paired: bool, power: float, alpha: float) -> float:
    """The smallest true difference that n seeds find with this power, which grows with it."""
    low, high = 0.0, WIDEST
    while high - low > TOLERANCE * high:
        middle = (low + high) / 2
        enough = attained_power(n, middle * sd, sd, paired, alpha) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high * sd


def _of_pilot(
    pilot: Path | str | Record, metric: str
) -> tuple[float, Interval | None, str, float | None]:
    """(sd, its 95 % interval, a sentence on it, standard error by the test rows) of a study."""
    record = pilot if isinstance(pilot, Record) else read(Path(pilot))
    if not isinstance(record, StudyRecord):
        raise ConfigError(
            f"--pilot: {record.path} is no study; `flaxcnn study --seeds N` makes one"
        )
    complete = [row for row in record.rows if row["status"] == "complete"]
    numbers = {key for row in complete for key, value in row.items() if isinstance(value, float)}
    if metric not in numbers:
        known = sorted(key for key in numbers if key.startswith(("test_", "val_")))
        raise ConfigError(
            f"--metric must be {one_of(known or ['that of a complete run'])} (got {metric!r})"
            f"{near_miss(metric, known)}"
        )
    groups: dict[str, list[float]] = {}
    for row in complete:
        groups.setdefault(f"{row['setting']} {row['vary']}", []).append(row[metric])
    samples = [values for values in groups.values() if len(values) > 1]
    if not samples:
        raise ConfigError(f"--pilot: {record.path} has no setting with two complete seeds")
    df = sum(len(values) - 1 for values in samples)
    sd = math.sqrt(sum((len(own) - 1) * variance(np.array(own)) for own in samples) / df)
    if sd == 0.0:
        raise ConfigError(f"--pilot: all seeds of {record.path} have the same {metric}")
    rows = next((row.get(f"{metric.partition('_')[0]}_rows") for row in complete), None)
    floor = None
    if metric.endswith("accuracy") and rows:
        mean = float(np.mean([value for own in samples for value in own]))
        floor = binomial_floor(mean, int(rows)).standard_error
    where = f" around the means of {len(samples)} settings" if len(samples) > 1 else ""
    source = f"{record.path.name}: sd {sd:.4g} of {df + len(samples)} runs{where}"
    return sd, interval_of_sd(sd, df), source, floor
