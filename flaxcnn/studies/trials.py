"""One trial after another: a recipe that Optuna draws, scored on all folds or given up early.

What Optuna knows lies in `optuna.log` (optuna-dashboard reads it), and each trial's rows in a
folder of its own, so that several processes can work on one search, and a trial that a kill cut
short is taken up again where it was.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flaxcnn.data.arrays import Dataset
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.resident import ResidentJob
from flaxcnn.errors import ConfigError, InterruptedRun, OutOfMemoryError, WriteError
from flaxcnn.records.search import SampledDirectory, TrialDirectory
from flaxcnn.studies.candidates import Contender, contender, name_of
from flaxcnn.studies.plan import PlannedRun, Scoring, with_setting
from flaxcnn.studies.runs import Watch
from flaxcnn.studies.samplers import Sampling
from flaxcnn.studies.search import plan_search, scores
from flaxcnn.studies.study import Tell, carry_out

Say = Callable[[str], None]
GIVEN_UP = "given up"  # how such a reason begins, where others did better
REASON = "reason"  # kept with a trial: why it has no score of its own
FINGERPRINT = "fingerprint"  # and that of its recipe


class Pruned(Exception):
    """Others did better by then."""


@dataclass
class Work:
    """What one process does of a search, trial by trial."""

    hand_made: Contender
    sampling: Sampling
    scoring: Scoring
    max_params: int | None
    data: Dataset
    folder: SampledDirectory
    name: str  # of the experiment
    study: Any  # Optuna's
    longest: int  # epochs of a run
    tell: Tell
    say: Say
    jobs: list[ResidentJob] = field(default_factory=list)  # of the trial before, for its programs

    def planned(self, one: Contender) -> list[PlannedRun]:
        """The runs of a recipe."""
        return plan_search([one], self.scoring)

    def keys(self, one: Contender) -> list[str]:
        """The keys of its runs."""
        return [run.key for run in self.planned(one)]

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """What ends the work inside is the folder's status."""
        try:
            yield
        except InterruptedRun as error:
            self.folder.set_status("interrupted", reason=str(error))
            ended = sum(trial.state.is_finished() for trial in self._trials())
            raise InterruptedRun(
                error.signal, f"{ended} of {self.sampling.trials} trials have ended and are kept; "
                "the same command with --resume does the others", error.exit_code,
            ) from None  # fmt: skip
        except Exception as error:
            self.folder.set_status("failed", reason=f"{type(error).__name__}: {error}")
            raise

    def score_incumbent(self, interrupt: Interrupt) -> None:
        """Train the recipe as it stands on all folds, unless another process does."""
        try:
            own = self._take("incumbent", {})
        except WriteError:
            return
        with own:
            self._train(self.planned(self.hand_made), own, interrupt)

    def next_trial(self) -> tuple[Any, TrialDirectory] | None:
        """One that a kill cut short, or a new one, its folder taken; None: there are enough."""
        from optuna.trial import Trial, TrialState

        with self.folder.exclusive():
            for left in self._trials():
                if left.state.is_finished():
                    continue
                if left.params.keys() != self.sampling.space.keys():  # killed while it was drawn
                    self.study.tell(left.number, state=TrialState.FAIL)
                    continue
                with contextlib.suppress(WriteError):  # another process is at work on it
                    own = self._take_trial(left)
                    if not self._trials()[left.number].state.is_finished():
                        return Trial(self.study, left._trial_id), own
                    with own:  # it has ended meanwhile
                        pass
            drawn = [one for one in self._trials() if one.state != TrialState.FAIL]
            if len(drawn) >= self.sampling.trials:
                return None
            self.study.sampler = self.sampling.seeded(self.scoring.seeds[0], len(drawn))
            trial = self.study.ask(self.sampling.distributions())
            return trial, self._take_trial(trial)

    def carry_out(self, trial: Any, own: TrialDirectory, interrupt: Interrupt) -> None:
        """Score a trial and tell Optuna; its folder is given back."""
        from optuna.trial import TrialState

        settings = self.sampling.settings(trial.params)
        score, reason = None, ""
        with own:
            try:
                one = self._contender(settings)
                if twin := self._twin(trial, one):
                    score, reason = twin[1], f"is the same recipe as {twin[0]}"
                else:
                    planned = self.planned(one)
                    watch = Watcher(trial, planned, own, self.longest)
                    self._train(planned, own, interrupt, watch)
                    score = self._score(one, own.path.name)
                    reason = "" if score is not None else "a run diverged"
            except (ConfigError, OutOfMemoryError, Pruned) as error:
                reason = str(error)
            if reason:
                trial.set_user_attr(REASON, reason)
                own.set_status("pruned", reason=reason)
            pruned = TrialState.PRUNED
            self.study.tell(trial, score, state=pruned if score is None else None)
        shown = "not scored" if score is None else f"{score:.4f}"
        self.say(f"trial {trial.number:>3}  {name_of(settings)}  {shown}"
                 + (f": {reason}" if reason else ""))  # fmt: skip

    def found(self) -> tuple[list[Contender], list[dict[str, str]], list[dict[str, Any]]] | None:
        """Recipes that were scored, those that were not with why, and the runs of the former.

        None where a process is still at work.
        """
        rows = self.folder.trial("incumbent").complete_rows(self.keys(self.hand_made))
        if rows is None or not all(trial.state.is_finished() for trial in self._trials()):
            return None
        tried, dropped = [self.hand_made], []
        for trial in self._trials():
            if trial.params.keys() != self.sampling.space.keys():
                continue
            settings = self.sampling.settings(trial.params)
            more = None
            with contextlib.suppress(ConfigError):
                one = self._contender(settings)
                more = self.folder.trial(f"{trial.number:04d}").complete_rows(self.keys(one))
            if more is None or any(other.label == one.label for other in tried):
                reason = trial.user_attrs.get(REASON, "is the same recipe as another trial's")
                dropped.append({"label": name_of(settings), "reason": reason})
            else:
                tried.append(one)
                rows = rows + more
        return tried, dropped, rows

    def _trials(self) -> list[Any]:
        found: list[Any] = self.study.get_trials(deepcopy=False)
        return found

    def _contender(self, settings: dict[str, Any]) -> Contender:
        """ConfigError where it cannot be built, or is too large."""
        config = with_setting(self.hand_made.config, settings)
        return contender(settings, config, self.data, self.max_params)

    def _take_trial(self, trial: Any) -> TrialDirectory:
        settings = self.sampling.settings(trial.params)
        return self._take(f"{trial.number:04d}", settings)

    def _take(self, place: str, settings: Mapping[str, Any]) -> TrialDirectory:
        """WriteError where another process has it."""
        return self.folder.trial(place).take({"trial": place, "settings": settings}, resume=True)

    def _twin(self, trial: Any, one: Contender) -> tuple[str, float | None] | None:
        """An earlier recipe that is the same, and its score; None: it is a new one."""
        own = one.config.fingerprint()
        trial.set_user_attr(FINGERPRINT, own)
        if own == self.hand_made.config.fingerprint():
            return "the recipe as it stands", self._score(self.hand_made, "incumbent")
        for other in self._trials()[: trial.number]:
            if other.user_attrs.get(FINGERPRINT) == own:
                # Of one that was given up, Optuna has the value at that time.
                scored = other.state.name == "COMPLETE"
                return f"trial {other.number}", other.value if scored else None
        return None

    def _score(self, one: Contender, place: str) -> float | None:
        """Mean over folds of a recipe all of whose runs have ended well; None for another."""
        rows = self.folder.trial(place).complete_rows(self.keys(one))
        if rows is None or any(row["status"] == "diverged" for row in rows):
            return None
        (scored,) = scores([one], rows)
        return float(np.mean(list(scored.by_fold().values())))

    def _train(
        self, planned: Sequence[PlannedRun], own: TrialDirectory, interrupt: Interrupt,
        watch: Watch = lambda run, metrics: None,
    ) -> None:  # fmt: skip
        carry_out(
            planned, self.data, own, self.name, self.scoring.how, self.scoring.max_memory,
            self.tell, interrupt, self.jobs, watch,
            # What a trial is given up by must not depend on which of its runs is ahead.
            in_turn=self.sampling.pruner != "none", all_or_none=True,
        )  # fmt: skip
        own.set_status("complete")


class Watcher:
    """Tells Optuna of a trial's epochs, and gives it up where Optuna says so.

    What is told is the mean over the runs begun of the best validation accuracy so far, on rows
    held out of the training folds; runs are counted one after the other, each as long as the
    longest, so that a step means the same in every trial.
    """

    def __init__(self, trial: Any, planned: Sequence[PlannedRun], own: TrialDirectory,
                 longest: int):  # fmt: skip
        self.trial, self.longest = trial, longest
        self.place = {run.key: number for number, run in enumerate(planned)}
        self.last = (len(planned) - 1) * longest + planned[-1].config.epochs
        known = trial.study.get_trials(deepcopy=False)[trial.number]
        self.told = set(known.intermediate_values)  # before it was cut short
        self.best: dict[str, float] = {}
        for line in own.lines("epochs.jsonl"):
            self._note(line["run"], line)

    def _note(self, key: str, metrics: Mapping[str, Any]) -> None:
        value = metrics.get("val_accuracy")
        if value is not None and math.isfinite(value):
            self.best[key] = max(value, self.best.get(key, 0.0))

    def __call__(self, run: PlannedRun, metrics: dict[str, Any]) -> None:
        """Pruned where it is to be given up."""
        self._note(run.key, metrics)
        if not self.best:  # no rows are held out
            return
        step = self.place[run.key] * self.longest + metrics["epoch"]
        if step not in self.told:
            self.trial.report(float(np.mean(list(self.best.values()))), step)
            self.told.add(step)
        if step < self.last and self.trial.should_prune():
            raise Pruned(
                f"{GIVEN_UP} in epoch {metrics['epoch']} of run {self.place[run.key] + 1} of "
                f"{len(self.place)}"
            )
