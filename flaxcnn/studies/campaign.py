"""Many runs trained, and recorded one by one: what studies, searches and trials have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flaxcnn.backend import enough_memory
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.sampling import imbalance
from flaxcnn.data.splits import choose
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.saved import check_data
from flaxcnn.errors import InterruptedRun
from flaxcnn.records.environment import (
    check_jax_settings,
    environment,
    other_software,
    unusual,
)
from flaxcnn.records.folder import Folder
from flaxcnn.records.study import StudyDirectory
from flaxcnn.studies.events import Ledger, Listener, TooLarge
from flaxcnn.studies.groups import Group, grouped
from flaxcnn.studies.plan import How, PlannedRun, longest
from flaxcnn.studies.runs import JobPool, run_groups
from flaxcnn.studies.under_way import FOLDER, UnderWay
from flaxcnn.studies.width import choose_width, width_key


@dataclass(frozen=True)
class Campaign:
    """What it takes to train many runs, whichever they are.

    Args:
        data: of all runs.
        path: the folder that is made, or with `resume` that of an earlier start.
        name: of the experiment, for the records.
        resume: keep the runs that have ended and train the others.
        how: "map" trains one run after the other on each device, "vmap" as many as fit side by
            side, "auto" whichever is faster in a few steps.
        max_memory: bytes for the arrays of runs; None: half of what is free.
        listener: called while the runs train.
    """

    data: Dataset
    path: Path
    name: str = ""
    resume: bool = False
    how: How = "auto"
    max_memory: int | None = None
    listener: Listener = field(default_factory=Listener)

    @enough_memory()
    def train(
        self,
        planned: Sequence[PlannedRun],
        folder: StudyDirectory,
        interrupt: Interrupt,
        *,
        pool: JobPool | None = None,
        in_turn: bool = False,
        all_or_none: bool = False,
    ) -> list[TooLarge]:
        """Train the runs that have not ended yet, and record each in `folder` as it ends.

        Args:
            planned: all runs.
            folder: opened for writing.
            interrupt: checked between parts of epochs.
            pool: jobs of an earlier call, for their pixels and programs.
            in_turn: train one run after the other, in the order of the plan.
            all_or_none: stop at the first run that does not fit in memory.

        Returns:
            Runs that do not fit in memory; they have no row, and are tried again on resuming.

        Raises:
            ConfigError, DataError: a recipe does not fit the data, or the folder is of other data
                or of other settings of jax.
            OutOfMemoryError: the data, or the runs that are side by side, do not fit; with
                `all_or_none`, a run does not.
            InterruptedRun: a signal came.
        """
        for row in folder.rows():
            check_data(self.data, row["data_digest"])
        ledger = Ledger(folder, self.name, self.listener, len(planned), all_or_none)
        known = ledger.ended and (folder.path / "env.json").is_file()
        if known:
            before = folder.read_json("env.json")
            check_jax_settings(str(folder.path), before)
            if text := other_software(before):
                self.listener.note(text)
        if odd := unusual():
            self.listener.note(odd)
        folder.write_json("env.json", environment())
        folder.set_status("running", ended=len(ledger.ended), planned=len(planned))
        if pool is None and planned:
            own = planned[0].config
            if uneven := imbalance(own, self.data, choose(self.data, own).train):
                self.listener.note(uneven)
        training = _Training(self, ledger, interrupt, pool or JobPool(self.data))
        for part in [[run] for run in planned] if in_turn else [planned]:
            training.train(grouped(longest(part), self.data))
        UnderWay(folder.path).forget_all()
        return ledger.too_large


class _Training:
    """The groups of a campaign: how many runs of each are trained side by side, and where."""

    def __init__(self, campaign: Campaign, ledger: Ledger, interrupt: Interrupt, pool: JobPool):
        self.campaign, self.ledger, self.interrupt, self.pool = campaign, ledger, interrupt, pool
        self.widths: dict[Hashable, int] = {}  # measured, by `width_key`

    def train(self, groups: Sequence[Group]) -> None:
        """Train what has not ended of the groups."""
        runs = sum(len(group.runs) for group in groups)
        chosen: list[tuple[Group, int]] = []
        for group in groups:
            self.interrupt.check()  # to measure a width takes seconds
            if not (rest := group.without(self.ledger.ended)).runs:
                continue
            known = self._known_width(rest)
            if known is None or not chosen:
                self.pool.prepare(group, runs)
            width = self._width_before(rest) or known or self._measured_width(rest)
            self.campaign.listener.group(rest, self.pool.jobs, width)
            chosen.append((rest, width))
        if chosen:
            run_groups(chosen, self.pool, self.ledger, self.interrupt)

    def _width_before(self, group: Group) -> int | None:
        """Of runs that were stopped: they go on as they were, if that is still asked for."""
        width = UnderWay(self.campaign.path).width({run.key for run in group.runs})
        asked = {"map": width == 1, "vmap": width != 1}.get(self.campaign.how, True)
        return width if asked else None

    def _known_width(self, group: Group) -> int | None:
        if self.campaign.max_memory is not None:  # each group has to fit
            return None
        return self.widths.get(width_key(group, self.campaign.data))

    def _measured_width(self, group: Group) -> int:
        campaign = self.campaign
        width = choose_width(group, self.pool.jobs, campaign.how, campaign.max_memory)
        self.widths[width_key(group, campaign.data)] = width
        return width


@contextlib.contextmanager
def status_of(folder: Folder, what_ended: Callable[[], str]) -> Iterator[None]:
    """Note in the folder's status.json what ended the work inside, if it did not complete.

    Args:
        folder: opened for writing.
        what_ended: called after a signal: how much is done and kept.
    """
    try:
        yield
    except InterruptedRun as error:
        folder.set_status("interrupted", reason=str(error))
        text = f"{what_ended()} have ended and are kept"
        if any((folder.path / FOLDER).glob("*")):
            text += ", and those under way are saved"
        text += "; the same command with --resume does the others"
        raise InterruptedRun(error.signal, text, error.exit_code) from None
    except Exception as error:
        folder.set_status("failed", reason=f"{type(error).__name__}: {error}")
        raise
