"""One trial after another: a recipe that Optuna draws, scored on all folds or pruned early.

Optuna's journal is `optuna.log` (optuna-dashboard reads it), and each trial's rows are in a folder
of its own, so that several processes can work on one search, and a trial that a kill cut short goes
on where it was.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.errors import ConfigError, OutOfMemoryError, WriteError
from flaxcnn.recipe.settings import with_setting
from flaxcnn.records.format import candidate_label
from flaxcnn.records.search import SampledDirectory, TrialDirectory
from flaxcnn.studies.campaign import Campaign
from flaxcnn.studies.candidates import Candidate, Dropped, make_candidate
from flaxcnn.studies.plan import PlannedRun, Scoring
from flaxcnn.studies.runs import JobPool
from flaxcnn.studies.samplers import Sampling, open_study
from flaxcnn.studies.search import plan_search, scores

INCUMBENT = "incumbent"  # folder of the recipe as it is
GIVEN_UP = "given up"  # how the reason of a pruned trial begins, in records too
REASON = "reason"  # kept with a trial: why it has no score of its own
FINGERPRINT = "fingerprint"  # and that of its recipe


class Pruned(Exception):
    """Other trials did better at this point."""


class Trials:
    """The trials of a search, as one of its processes carries them out.

    Args:
        incumbent: the recipe as it is, which drawn ones must beat.
        sampling: what is drawn, and how.
        scoring: how each recipe is scored.
        max_params: a recipe with more parameters is drawn but not trained.
        campaign: data, folder, and who hears of it.
        folder: of the search.
    """

    def __init__(
        self,
        incumbent: Candidate,
        sampling: Sampling,
        scoring: Scoring,
        max_params: int | None,
        campaign: Campaign,
        folder: SampledDirectory,
    ):
        self.incumbent, self.sampling, self.scoring = incumbent, sampling, scoring
        self.max_params, self.campaign, self.folder = max_params, campaign, folder
        epochs = sampling.space["epochs"].ends() if "epochs" in sampling.space else ()
        self.longest = max([incumbent.config.epochs, *epochs])  # epochs that a run can have
        runs = len(self.planned(incumbent))
        self.study = open_study(folder.path, sampling, self.longest, runs)  # Optuna's
        self.pool = JobPool(campaign.data)  # kept from trial to trial

    def planned(self, candidate: Candidate) -> list[PlannedRun]:
        """The runs of a recipe."""
        return plan_search([candidate], self.scoring)

    def ended(self) -> str:
        """How many have ended, in words."""
        count = sum(trial.state.is_finished() for trial in self.all())
        return f"{count} of {self.sampling.trials} trials"

    def all(self) -> list[Any]:
        """Optuna's trials, in the order in which they were drawn."""
        trials: list[Any] = self.study.get_trials(deepcopy=False)
        return trials

    # -- carried out -----------------------------------------------------------------------------

    def score_incumbent(self, interrupt: Interrupt) -> None:
        """Train the recipe as it is on all folds, unless another process does."""
        try:
            own = self._take(INCUMBENT, {})
        except WriteError:
            return
        with own:
            self._train(self.planned(self.incumbent), own, interrupt, self.campaign)

    def next(self) -> tuple[Any, TrialDirectory] | None:
        """A trial that a kill cut short, or a new one, its folder taken; None: there are enough."""
        from optuna.trial import Trial, TrialState

        with self.folder.exclusive():
            for left in self.all():
                if left.state.is_finished():
                    continue
                if not self._is_drawn(left):
                    self.study.tell(left.number, state=TrialState.FAIL)
                    continue
                with contextlib.suppress(WriteError):  # another process is at work on it
                    own = self._take_trial(left)
                    if not self.all()[left.number].state.is_finished():
                        return Trial(self.study, left._trial_id), own
                    own.close()  # it has ended meanwhile
            drawn = [trial for trial in self.all() if trial.state != TrialState.FAIL]
            different = {tuple(sorted(trial.params.items())) for trial in drawn}
            if len(drawn) >= self.sampling.trials or len(different) >= self.sampling.combinations():
                return None
            seed = self.scoring.seeds[0]
            self.study.sampler = self.sampling.seeded(seed, len(drawn))
            trial = self.study.ask(self.sampling.distributions())
            return trial, self._take_trial(trial)

    def carry_out(self, trial: Any, own: TrialDirectory, interrupt: Interrupt) -> None:
        """Score a trial and report it to Optuna; its folder is closed."""
        from optuna.trial import TrialState

        score, reason = None, ""
        with own:
            try:
                score, reason = self._scored(trial, own, interrupt)
            except (ConfigError, OutOfMemoryError, Pruned) as error:
                reason = str(error)
            if reason:
                trial.set_user_attr(REASON, reason)
                own.set_status("pruned", reason=reason)
            self.study.tell(trial, score, state=TrialState.PRUNED if score is None else None)
        label = candidate_label(self.sampling.settings(trial.params))
        shown = "not scored" if score is None else f"{score:.4f}"
        self.campaign.listener.trial(
            f"trial {trial.number:>3}  {label}  {shown}" + (f": {reason}" if reason else "")
        )

    def _scored(
        self, trial: Any, own: TrialDirectory, interrupt: Interrupt
    ) -> tuple[float | None, str]:
        """(score, why it is not its own, or is missing)."""
        candidate = self._candidate(self.sampling.settings(trial.params))
        if twin := self._twin(trial, candidate):
            return twin[1], f"is the same recipe as {twin[0]}"
        planned = self.planned(candidate)
        listener, prune = self.campaign.listener, Pruning(trial, planned, own, self.longest)

        def epoch(run: PlannedRun, metrics: dict[str, Any]) -> None:
            listener.epoch(run, metrics)
            prune(run, metrics)

        campaign = replace(self.campaign, listener=replace(listener, epoch=epoch))
        self._train(planned, own, interrupt, campaign)
        score = self._score(candidate, own.path.name)
        return score, "" if score is not None else "a run diverged"

    def _train(
        self,
        planned: Sequence[PlannedRun],
        own: TrialDirectory,
        interrupt: Interrupt,
        campaign: Campaign,
    ) -> None:
        # When a trial is pruned must not depend on which of its runs is ahead.
        in_turn = self.sampling.pruner != "none"
        campaign.train(planned, own, interrupt, pool=self.pool, in_turn=in_turn, all_or_none=True)
        own.set_status("complete")

    # -- what is known of them -------------------------------------------------------------------

    def outcome(self) -> tuple[list[Candidate], list[Dropped], list[dict[str, Any]]] | None:
        """Recipes that were scored, those that were not, and the runs of the former.

        None while a process is still at work.
        """
        incumbent = self.incumbent
        rows = self._rows(INCUMBENT, incumbent)
        if rows is None or not all(trial.state.is_finished() for trial in self.all()):
            return None
        tried, dropped = [incumbent], []
        for trial in filter(self._is_drawn, self.all()):
            settings = self.sampling.settings(trial.params)
            own = None
            with contextlib.suppress(ConfigError):
                candidate = self._candidate(settings)
                own = self._rows(f"{trial.number:04d}", candidate)
            if own is None or any(other.label == candidate.label for other in tried):
                reason = trial.user_attrs.get(REASON, "is the same recipe as another trial's")
                dropped.append(Dropped(candidate_label(settings), reason))
            else:
                tried.append(candidate)
                rows = rows + own
        return tried, dropped, rows

    def _is_drawn(self, trial: Any) -> bool:
        """Whether every parameter was drawn: a kill may come in between."""
        return bool(trial.params.keys() == self.sampling.space.keys())

    def _candidate(self, settings: dict[str, Any]) -> Candidate:
        """ConfigError if it cannot be built, or is too large."""
        config = with_setting(self.incumbent.config, settings)
        return make_candidate(settings, config, self.campaign.data, self.max_params)

    def _take_trial(self, trial: Any) -> TrialDirectory:
        return self._take(f"{trial.number:04d}", self.sampling.settings(trial.params))

    def _take(self, name: str, settings: Mapping[str, Any]) -> TrialDirectory:
        """WriteError if another process has it."""
        plan = {"trial": name, "settings": dict(settings)}
        return self.folder.trial(name).take(plan, resume=True)

    def _twin(self, trial: Any, candidate: Candidate) -> tuple[str, float | None] | None:
        """An earlier recipe that is the same, and its score; None: it is a new one."""
        own, incumbent = candidate.config.fingerprint(), self.incumbent
        trial.set_user_attr(FINGERPRINT, own)
        if own == incumbent.config.fingerprint():
            return "the recipe unchanged", self._score(incumbent, INCUMBENT)
        for other in self.all()[: trial.number]:
            if other.user_attrs.get(FINGERPRINT) == own:
                # Of a pruned trial, Optuna has the value at that time.
                scored = other.state.name == "COMPLETE"
                return f"trial {other.number}", other.value if scored else None
        return None

    def _rows(self, name: str, candidate: Candidate) -> list[dict[str, Any]] | None:
        """The rows of a trial; None if a run has not ended."""
        keys = [run.key for run in self.planned(candidate)]
        return self.folder.trial(name).complete_rows(keys)

    def _score(self, candidate: Candidate, name: str) -> float | None:
        """Mean over folds of a recipe all of whose runs have ended well; None for another."""
        rows = self._rows(name, candidate)
        if rows is None or any(row["status"] == "diverged" for row in rows):
            return None
        (scored,) = scores([candidate], rows)
        return float(np.mean(list(scored.by_fold().values())))


class Pruning:
    """Reports a trial's epochs to Optuna, and prunes it if Optuna says so.

    What is reported is the mean over the runs begun of the best validation accuracy so far, on rows
    held out of the training folds; runs are counted one after the other, each as long as the
    longest, so that a step means the same in every trial.
    """

    def __init__(self, trial: Any, planned: Sequence[PlannedRun], own: TrialDirectory,
                 longest: int):  # fmt: skip
        self.trial, self.longest = trial, longest
        self.position = {run.key: number for number, run in enumerate(planned)}
        self.last = (len(planned) - 1) * longest + planned[-1].config.epochs
        known = trial.study.get_trials(deepcopy=False)[trial.number]
        self.reported = set(known.intermediate_values)  # before it was cut short
        self.best: dict[str, float] = {}
        for line in own.lines("epochs.jsonl"):
            self._note(line["run"], line)

    def _note(self, key: str, metrics: Mapping[str, Any]) -> None:
        value = metrics.get("val_accuracy")
        if value is not None and math.isfinite(value):
            self.best[key] = max(value, self.best.get(key, 0.0))

    def __call__(self, run: PlannedRun, metrics: dict[str, Any]) -> None:
        """An epoch of a run has ended.

        Raises:
            Pruned: other trials did better at this point.
        """
        self._note(run.key, metrics)
        if not self.best:  # no rows are held out
            return
        position = self.position[run.key]
        step = position * self.longest + metrics["epoch"]
        if step not in self.reported:
            self.trial.report(float(np.mean(list(self.best.values()))), step)
            self.reported.add(step)
        if step < self.last and self.trial.should_prune():
            raise Pruned(
                f"{GIVEN_UP} in epoch {metrics['epoch']} of run {position + 1} of "
                f"{len(self.position)}"
            )
