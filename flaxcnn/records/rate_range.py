"""What a learning-rate range test found: losses at growing rates, and a rate to begin with."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

AROUND = 40  # the losses on each side that a smoothed one is the mean of are one in so many
WINDOW = 10  # a slope is taken over one in so many updates on each side
DIVERGED = 4.0  # times the lowest loss so far: what follows says nothing
FEWEST = 10  # updates from which a slope can be told
ROWS, BAR = 16, 40  # of the table, and characters of its longest bar


@dataclass(frozen=True)
class RateRange:
    """Losses of training batches, one for each update, while the learning rate grows."""

    rates: Sequence[float]
    losses: Sequence[float]  # NaN once they are not finite

    @functools.cached_property
    def smoothed(self) -> list[float]:
        """Means of the losses around each; they end where losses diverge."""
        side = len(self.losses) // AROUND
        found: list[float] = []
        for i in range(len(self.losses)):
            around = self.losses[max(0, i - side) : i + side + 1]
            now = math.fsum(around) / len(around)
            if not math.isfinite(now) or (found and now > DIVERGED * min(found)):
                break
            found.append(now)
        return found

    @property
    def lowest(self) -> float | None:
        """The rate at the lowest smoothed loss; None: none fell."""
        if not self.smoothed:
            return None
        best = min(range(len(self.smoothed)), key=self.smoothed.__getitem__)
        return self.rates[best] if best else None

    @property
    def steepest(self) -> float | None:
        """The rate at which the smoothed loss falls fastest, over the logarithm of the rate.

        After Smith 2017 (arXiv:1506.01186) and fast.ai. None: too few updates, or it never falls.
        """
        side = max(1, len(self.losses) // WINDOW)
        slopes = {
            self.rates[i]: self.smoothed[i + side] - self.smoothed[i - side]
            for i in range(side, len(self.smoothed) - side)
        }
        if not slopes or min(slopes.values()) >= 0:
            return None
        return min(slopes, key=slopes.__getitem__)

    @property
    def sentence(self) -> str:
        """What it comes to."""
        if self.steepest is None or self.lowest is None:
            return "the loss does not fall at any of these rates; try lower ones"
        return (
            f"the loss falls fastest at {self.steepest:.2g} and is lowest at {self.lowest:.2g}; "
            f"begin with learning_rate={self.steepest:.2g}"
        )

    def table(self) -> list[list[str]]:
        """Some of the rates with their smoothed losses, and a bar for each."""
        shown = range(0, len(self.smoothed), max(1, len(self.smoothed) // ROWS))
        most = max(self.smoothed, default=1.0) or 1.0
        rows = [
            [f"{self.rates[i]:.3g}", f"{self.smoothed[i]:.4f}",
             "#" * round(BAR * self.smoothed[i] / most)]
            for i in shown
        ]  # fmt: skip
        return [["learning rate", "loss", ""], *rows]

    def to_dict(self) -> dict[str, Any]:
        """As JSON; a loss that is not finite is null."""
        finite = [loss if math.isfinite(loss) else None for loss in self.losses]
        return {
            "rates": list(self.rates), "losses": finite, "smoothed": self.smoothed,
            "steepest": self.steepest, "lowest": self.lowest,
        }  # fmt: skip
