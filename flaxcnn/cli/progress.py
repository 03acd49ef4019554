"""What a command is doing and how far it is: at the foot of a terminal, or as plain lines."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from flaxcnn import activity
from flaxcnn.activity import Activity
from flaxcnn.cli.output import say
from flaxcnn.records.format import count_text

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from flaxcnn.studies.events import Listener, Outcome
    from flaxcnn.studies.plan import PlannedRun

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
BAR = 24  # columns
SHOWN = 3  # of several activities, one in another or in threads beside it


class Progress:
    """How many of the epochs, runs, trials or tasks of a command are done, and how long it takes.

    `total` is 0 until it is known.
    """

    def __init__(self) -> None:
        self.total, self.noun, self.done = 0, "", 0.0
        self._first = (time.monotonic(), 0.0)  # when counting began, and at which count
        self._last = self._first
        self._trained = False
        self.speaks = True  # of several processes, one does
        self.columns: int | None = None  # of the terminal; None: there is none

    def fitted(self, line: str) -> str:
        """The line of an epoch, with shorter words where the terminal has too few columns."""
        for long, short in (("accuracy", "acc"), ("  best", " *"), ("  ", " ")):
            if self.columns is not None and len(line) > self.columns:
                line = line.replace(long, short)
        return line

    def plan(self, total: int, noun: str, done: float = 0.0) -> None:
        """There are `total` units, of which some are done already."""
        self.total, self.noun, self.done = total, noun, done
        self._first = self._last = (self._first[0], done)

    def at(self, done: float) -> None:
        """So many are done."""
        self.done = done
        self._last = (time.monotonic(), done)

    def begun(self, now: Activity) -> None:
        """Count time from the first epoch on: what is compiled before does not come again."""
        if now.images and not self._trained:
            self._trained = True
            self._first = self._last = (now.began, self.done)

    def left(self) -> float | None:
        """Seconds, by the pace so far; None before the first unit is done."""
        (began, before), (when, done) = self._first, self._last
        if not self.total or done <= before:
            return None
        pace = (when - began) / (done - before)
        return max((self.total - done) * pace - (time.monotonic() - when), 0.0)

    def listener(self, listener: Listener) -> Listener:
        """The same listener, and the runs and epochs that it hears of counted."""
        shares: dict[str, float] = {}  # of runs under way, by their keys
        ended_runs = int(self.done)

        def epoch(run: PlannedRun, metrics: dict[str, Any]) -> None:
            shares[run.key] = min(metrics["epoch"] / run.config.epochs, 1.0)
            self.at(ended_runs + sum(shares.values()))
            listener.epoch(run, metrics)

        def run_ended(outcome: Outcome, ended: int, planned: int) -> None:
            nonlocal ended_runs
            shares.pop(outcome.run.key, None)
            if not self.total:  # of runs that had ended before, the rows are there already
                self.plan(planned, "run", self.done)
            ended_runs = ended
            self.at(ended_runs + sum(shares.values()))
            listener.run(outcome, ended, planned)

        return dataclasses.replace(listener, epoch=epoch, run=run_ended)

    def trials(self, listener: Listener, planned: int) -> Listener:
        """The same listener, and the recipes counted that a sampler has drawn."""
        self.plan(planned, "trial")

        def trial(text: str) -> None:
            self.at(min(self.done + 1, planned))
            listener.trial(text)

        return dataclasses.replace(listener, trial=trial)


@contextlib.contextmanager
def progress(as_json: bool = False, lines: bool = True) -> Iterator[Progress]:
    """Show what is being done until the block ends.

    A terminal has a bar and what is under way at its foot; what is printed meanwhile goes above. A
    file or a pipe has a line for what is compiled and measured, unless `lines` is False.
    """
    bar, stream = Progress(), sys.stderr if as_json else sys.stdout
    if not stream.isatty():
        with activity.listening(_Lines(bar, as_json) if lines else bar.begun):
            yield bar
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(file=stream, highlight=False)
    bar.columns = console.width
    live = Live(
        get_renderable=lambda: foot(bar, console), console=console, transient=True,
        redirect_stdout=not as_json, redirect_stderr=sys.stderr.isatty(),
    )  # fmt: skip
    with activity.listening(bar.begun), live:
        yield bar


class _Lines:
    """A line for what is compiled or measured; each once."""

    def __init__(self, bar: Progress, as_json: bool):
        self.bar, self.as_json = bar, as_json
        self.said: set[str] = set()

    def __call__(self, now: Activity) -> None:
        self.bar.begun(now)
        told = now.what.startswith(("compiling the training", "measuring"))
        if self.bar.speaks and told and now.what not in self.said:
            self.said.add(now.what)
            say(f"{now.what} ...", self.as_json)


def foot(bar: Progress, console: Console) -> RenderableType:
    """One line that says how far the command is, and one or two with what it does."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    lines: list[RenderableType] = []
    doing = activity.under_way()
    if bar.total:
        done = min(bar.done + _within(bar, doing), bar.total)
        row = Table.grid(padding=(0, 1))
        row.add_row(
            Text(f"{int(bar.done):,} of {count_text(bar.total, bar.noun)}"),
            ProgressBar(bar.total, done, width=BAR),
            Text(f"{done / bar.total:.0%}"),
            Text("" if not (left := bar.left()) else f"about {duration(left)} left"),
        )
        lines.append(row)
    mark = SPINNER if "utf" in console.encoding else "|/-\\"
    mark = mark[int(time.monotonic() * 8) % len(mark)]
    latest = [one for one in doing if one is doing[0] or _leaf(one, doing)][-SHOWN:]
    lines += [
        Text(f"{mark} {text}", no_wrap=True, overflow="ellipsis", style="dim")
        for text in dict.fromkeys(map(sentence, latest))  # devices may do the same
    ]
    return Group(*lines)


def _leaf(one: Activity, doing: list[Activity]) -> bool:
    """Whether nothing else was begun inside it."""
    later = doing[doing.index(one) + 1 :]
    return all(other.thread != one.thread for other in later)


def _within(bar: Progress, doing: list[Activity]) -> float:
    """The share of the epoch that is under way, where epochs are what is counted."""
    if bar.noun != "epoch":
        return 0.0
    return next((one.share()[0] or 0.0 for one in doing if one.images), 0.0)


def sentence(now: Activity) -> str:
    """What is being done, and how far that is.

    >>> sentence(Activity("compiling the training step"))
    'compiling the training step, 0 s'
    """
    share, estimated = now.share()
    if not now.images or share is None:
        return f"{now.what}, {duration(now.seconds)}"
    about = "about " if estimated else ""
    done = share * now.images
    if estimated:
        done = min(round(done, -2), now.images)
    seconds = now.expected if estimated and now.expected else now.seconds
    rate = now.images / seconds if estimated else share * now.images / max(seconds, 1e-9)
    loss = "" if (value := now.loss()) is None else f", loss {value:.4f}"
    return f"{now.what}: {about}{done:,.0f} of {now.images:,} images, {rate:,.0f} images/s{loss}"


def duration(seconds: float) -> str:
    """As a person says it.

    >>> duration(8.4), duration(75), duration(7300)
    ('8 s', '1 min 15 s', '2 h 1 min')
    """
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
