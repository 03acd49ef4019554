"""`flaxcnn.train`: one run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flaxcnn.api.arguments import asked
from flaxcnn.backend import prepare
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.given import Arrays
from flaxcnn.engine import hosts
from flaxcnn.engine.saved import Result
from flaxcnn.engine.train import fit
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.records.folder import new_run
from flaxcnn.records.views import epoch_line
from flaxcnn.reports.tensorboard import EventFiles, require

log = logging.getLogger(__name__)


def train(
    recipe: Config | str = catalog.DEFAULT_EXPERIMENT,
    *,
    model: Any = None,
    run_dir: Path | str | None = None,
    resume: bool = False,
    name: str = "",
    dataset: Dataset | str | None = None,
    data: Arrays | None = None,
    tensorboard: bool = False,
    verbose: bool = True,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
    **settings: Any,
) -> Result:
    """Load the data, train a recipe, keep its best epoch by validation and test that once.

    >>> from flaxcnn.recipe.layers import Dense, Flatten
    >>> config = Config("digits", (Flatten(), Dense(10)), epochs=2)
    >>> result = train(config, run_dir="runs/linear", verbose=False)
    >>> result.summary["epochs_run"]
    2

    Args:
        recipe: a Config, or the name of an experiment, such as "mnist-ladder/model10".
        model: a network of your own in place of the recipe's layers: a Flax linen module, an NNX
            module class, a pair of functions (init, apply), or one of `flaxcnn.Linen`,
            `flaxcnn.NNX` and `flaxcnn.Pure`.
        run_dir: a new folder, or with `resume` that of an earlier start; by default
            `runs/NAME/TIME-seedN`.
        resume: go on from the newest checkpoint in `run_dir`.
        name: for the records; by default that of the experiment.
        dataset: the name of another data set, or what `flaxcnn.data.datasets.load_for(config)`
            returned.
        data: arrays in place of a data set: (images, labels), or (images, labels, test_images,
            test_labels), or a dict of pairs for train, validation and test. Images are [N, H, W] or
            [N, H, W, C], pixels from 0 to 255 or those divided by 255; labels integers or text.
            They are kept with the prepared data, so that the run can be evaluated and done again.
        tensorboard: write event files to `tensorboard` in the run directory.
        verbose: print a line an epoch, and notes; without it, notes are logged as warnings.
        on_epoch: called with each epoch's metrics after they are written, such as a tracker's log.
        settings: any field of `Config`, such as `epochs=3` or `optimizer="sgd"`.

    Raises:
        ConfigError: the recipe is wrong, or does not fit the data or the run directory.
        DataError: the data is missing or damaged.
        DivergedError, WriteError, InterruptedRun, ...: as `flaxcnn.engine.train.fit`.
    """
    if tensorboard:
        require("tensorboard=True")
    ask = asked(recipe, name, model, dataset, data, settings)
    config, rows = ask.config, ask.data()
    path = Path(run_dir) if run_dir else new_run(ask.name or "unnamed", config.seed)
    prepare()
    with contextlib.ExitStack() as watching:
        watchers = [on_epoch] if on_epoch else []
        if tensorboard and hosts.primary():
            watchers.append(watching.enter_context(EventFiles(path)))

        def show(metrics: dict[str, Any]) -> None:
            if verbose:
                print(epoch_line(metrics, config.epochs), flush=True)
            for watch in watchers:
                watch(metrics)

        tell = _print_note if verbose else log.warning
        return fit(config, rows, path, name=ask.name, resume=resume, on_epoch=show, on_note=tell)


def _print_note(text: str) -> None:
    """Beside the lines of epochs, since a notebook shows what is logged as if it had failed."""
    print(f"note: {text}", flush=True)
