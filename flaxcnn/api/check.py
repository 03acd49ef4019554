"""`flaxcnn.check`: the promises of this package, tried out on one's own model and machine."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flaxcnn.api.arguments import asked
from flaxcnn.backend import prepare
from flaxcnn.checks.checks import Finding, findings
from flaxcnn.checks.task import small_task
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.given import Arrays
from flaxcnn.errors import ConfigError, WriteError
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.records.folder import runs_folder
from flaxcnn.signals import GRACE_SECONDS


@dataclass(frozen=True)
class Checked:
    """What the checks have shown, in their order."""

    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """Whether none has failed."""
        return not self.failed

    @property
    def failed(self) -> list[str]:
        """The names of those that have."""
        return [each.name for each in self.findings if each.verdict == "failed"]


def check(
    recipe: Config | str = catalog.DEFAULT_EXPERIMENT,
    *,
    model: Any = None,
    dataset: Dataset | str | None = None,
    data: Arrays | None = None,
    grace: float = GRACE_SECONDS,
    on_check: Callable[[Finding], None] = lambda finding: None,
    **settings: Any,
) -> Checked:
    """Try out on a few rows whether a recipe keeps what this package promises.

    It is trained for three epochs on some rows of its own data, on the disk of the runs: twice
    (the same bits), killed and resumed, in a study, on one device and on two; a batch is padded, a
    checkpoint damaged, and the time to save one measured. It takes a minute or two.

    >>> from flaxcnn.recipe.layers import Dense, Flatten
    >>> config = Config("digits", (Flatten(), Dense(10)), batch_size=100)
    >>> check(config).ok
    True

    Args:
        recipe: a Config, or the name of an experiment, or FILE.py:NAME.
        model: a network of your own in place of the recipe's layers, as for `flaxcnn.train`.
        dataset: the name of another data set, or one that is loaded.
        data: arrays in place of a data set, as for `flaxcnn.train`.
        grace: seconds between a signal to stop and the end, which a checkpoint must fit in.
        on_check: called with each finding as it comes.
        settings: any field of `Config`, such as `determinism="exact"`.

    Raises:
        ConfigError, DataError: the recipe is wrong, or does not fit the data.
        WriteError: the folder of the runs cannot be written.
    """
    if not grace > 0:
        raise ConfigError(f"grace must be above 0 (got {grace})")
    ask = asked(recipe, "", model, dataset, data, settings)
    rows = ask.data()
    prepare()
    folder = _folder()
    try:
        task = small_task(ask.config, rows, folder)
        found = []
        for finding in findings(task, grace):
            found.append(finding)
            on_check(finding)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Checked(found)


def _folder() -> Path:
    """A new folder on the disk of the runs."""
    runs = runs_folder().absolute()
    try:
        return Path(tempfile.mkdtemp(prefix=".check-", dir=runs if runs.is_dir() else runs.parent))
    except OSError as error:
        raise WriteError(f"{runs.parent}: cannot be written ({error.strerror})") from error
