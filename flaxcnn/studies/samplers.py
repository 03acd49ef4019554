"""Optuna: where drawn values come from, and when a trial is pruned.

optuna is imported only when it is needed: it is the extra `search`.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from flaxcnn.errors import CheckpointError, ConfigError, check_choice
from flaxcnn.limits import parse_json, read_bytes
from flaxcnn.recipe.config import Config
from flaxcnn.studies.plan import How
from flaxcnn.studies.space import Axis, Choices, Space, check_space

log = logging.getLogger(__name__)

Sampler = Literal["tpe", "random"]
Pruner = Literal["median", "hyperband", "none"]
JOURNAL = "optuna.log"
NAME = "flaxcnn"  # of Optuna's study
# Median pruning begins after this part (1 / 4) of a run: pruning from the first epoch on would drop
# small learning rates that end among the best.
WARM_UP = 4


@dataclass(frozen=True)
class Sampling:
    """What is drawn, how, how often, and when a trial is pruned.

    Samplers: "tpe" (Bergstra et al. 2011) or "random" (Bergstra and Bengio 2012). Pruners:
    "median" prunes what is below the median of earlier trials at the same epoch, from a quarter of
    the first run on; "hyperband" (Li et al. 2018) all but the best third at each of several depths.
    """

    space: Space
    sampler: Sampler = "tpe"
    trials: int = 50
    pruner: Pruner = "median"

    def check(self, config: Config, how: How = "auto") -> None:
        """ConfigError if a name or number is wrong, the space does not fit, or Optuna lacks."""
        known: tuple[str, ...]
        for name, value, known in (("sampler", self.sampler, get_args(Sampler)),
                                   ("pruner", self.pruner, get_args(Pruner))):  # fmt: skip
            check_choice(f"--{name}", value, known)
        if self.trials < 1:
            raise ConfigError(f"--trials must be at least 1 (got {self.trials})")
        if how == "vmap" and self.pruner != "none":
            raise ConfigError(
                f"--how vmap does not work with --pruner {self.pruner}, since pruning must not "
                "depend on which run of a trial is ahead; use auto or map, or --pruner none"
            )
        check_space(self.space, config)
        if importlib.util.find_spec("optuna") is None:
            raise ConfigError("--sampler: needs Optuna; pip install 'flaxcnn[search]'")

    def to_dict(self) -> dict[str, Any]:
        """For plan.json."""
        space = {key: axis.to_dict() for key, axis in self.space.items()}
        return {"sampler": self.sampler, "pruner": self.pruner, "trials": self.trials,
                "space": space}  # fmt: skip

    def settings(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """A trial's parameters as settings of a recipe."""
        return {key: _value(axis, drawn[key]) for key, axis in self.space.items()}

    def combinations(self) -> float:
        """How many different trials there are; infinity where a setting has a range of numbers."""
        return math.prod(_size(axis) for axis in self.space.values())

    def distributions(self) -> dict[str, Any]:
        """Optuna's distributions, by setting."""
        return {key: _distribution(axis) for key, axis in self.space.items()}

    def seeded(self, seed: int, number: int) -> Any:
        """The sampler for trial `number`: what it draws depends only on the earlier trials.

        So a search that was killed goes on with the same draws.
        """
        import numpy as np
        from optuna.samplers import RandomSampler, TPESampler

        own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        return TPESampler(seed=own) if self.sampler == "tpe" else RandomSampler(seed=own)


def open_study(folder: Path, sampling: Sampling, epochs: int, runs: int) -> Any:
    """Make or open Optuna's study in `folder`, for trials of `runs` runs of at most `epochs`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # tqdm's, in a notebook
        import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    _mend_journal(folder / JOURNAL)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pruner = {
        "median": lambda: optuna.pruners.MedianPruner(n_warmup_steps=epochs // WARM_UP),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(max_resource=epochs * runs),
        "none": optuna.pruners.NopPruner,
    }[sampling.pruner]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
            return optuna.create_study(
                storage=storage, pruner=pruner, study_name=NAME, direction="maximize",
                load_if_exists=True,
            )  # fmt: skip
        except (AssertionError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{folder / JOURNAL}: is damaged ({type(error).__name__})"
            ) from error


def _mend_journal(path: Path) -> None:
    """Cut off a last line that a full disk or a power loss left half-written.

    Raises:
        CheckpointError: another line is no entry of a journal.
    """
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    *lines, last = data.split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            sound = isinstance(parse_json(line)["op_code"], int)
        except (ValueError, LookupError, TypeError):
            sound = False
        if not sound:
            raise CheckpointError(f"{path}: line {number} is damaged")
    if last:
        log.warning("%s: the last line is cut short; it is left out", path)
        os.truncate(path, len(data) - len(last))


def importances(study: Any, seed: int) -> dict[str, float]:
    """Setting -> Optuna's importance (fANOVA, Hutter et al. 2014); empty: nothing to learn from."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    try:
        found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed))
    except (RuntimeError, ValueError):  # fewer than two trials scored, or all the same
        return {}
    return {key: float(share) for key, share in found.items()}


def _distribution(axis: Axis) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(axis, Choices):
        return CategoricalDistribution([_choice(value) for value in axis.values])
    if axis.whole:
        return IntDistribution(int(axis.low), int(axis.high), axis.log, int(axis.step or 1))
    return FloatDistribution(float(axis.low), float(axis.high), axis.log, axis.step)


def _size(axis: Axis) -> float:
    if isinstance(axis, Choices):
        return len(axis.values)
    return (axis.high - axis.low) // (axis.step or 1) + 1 if axis.whole else math.inf


def _choice(value: Any) -> Any:
    """As Optuna keeps it: a list, such as layers, as JSON."""
    plain = value is None or isinstance(value, bool | int | float | str)
    return value if plain else json.dumps(value)


def _value(axis: Axis, drawn: Any) -> Any:
    if isinstance(axis, Choices):
        return next(value for value in axis.values if _choice(value) == drawn)
    return axis.rounded(drawn)
