"""`flaxcnn.epochs`: the loop of `flaxcnn.train` in the hands of its user."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

import jax

from flaxcnn.api.arguments import asked
from flaxcnn.backend import prepare
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.given import Arrays
from flaxcnn.engine.metrics import finalize
from flaxcnn.engine.saved import Result
from flaxcnn.engine.step import TrainState
from flaxcnn.engine.train import Training, training
from flaxcnn.errors import check_choice
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.records.folder import new_run
from flaxcnn.trained import TrainedModel, trained

Split = Literal["train", "validation"]
# Loops by the folder of their run. One that an exception has left may still be referred to, as by
# the traceback that a notebook keeps; the next loop over the same run closes it.
_open: weakref.WeakValueDictionary[Path, Epochs] = weakref.WeakValueDictionary()


@dataclass(frozen=True, eq=False)
class Epoch:
    """An epoch that has ended, and the network as it is now."""

    number: int  # from 1
    metrics: dict[str, Any]  # as in metrics.jsonl: `train_loss`, `val_accuracy`, ...
    # Parameters, optimizer and step. The next epoch uses its arrays up: copy what you want to keep.
    state: TrainState = field(repr=False)
    _run: Training = field(repr=False)

    def evaluate(self, split: Split = "validation") -> dict[str, float]:
        """Loss and accuracy on the rows of a split, as they are now.

        The test rows are used once, after the last epoch: `Epochs.result` has what they show.

        Raises:
            ConfigError: another split.
        """
        check_choice("split", split, get_args(Split))
        return finalize(jax.device_get(self._run.job.evaluate(self.state, split)))

    @functools.cached_property
    def model(self) -> TrainedModel:
        """The network as a function of images; it stays as it is while training goes on."""
        run = self._run
        return trained(run.run.path, run.job.config, run.stage.data, self.state)

    def predict(self, images: Any) -> list[str]:
        """The name of the most probable class of each image, uint8 or float [N, H, W, C].

        Raises:
            DataError: images of another shape or type.
        """
        return self.model.predict(images)


class Epochs:
    """The epochs of a run, for a `for` loop; `flaxcnn.epochs` makes it.

    A loop may be left at any epoch: the run is then interrupted, and `resume=True` goes on from its
    newest checkpoint. After the last epoch `result` is the finished run.
    """

    def __init__(self, path: Path, steps: Generator[Epoch, None, Result]):
        self.path = path  # of the run
        self.result: Result | None = None
        self._steps = steps

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Epoch:
        try:
            return next(self._steps)
        except StopIteration as end:
            self.result = end.value or self.result
            raise StopIteration from None

    def close(self) -> None:
        """Leave the run where it is and close its files; the end of a `for` loop does it too."""
        self._steps.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def epochs(
    recipe: Config | str = catalog.DEFAULT_EXPERIMENT,
    *,
    model: Any = None,
    run_dir: Path | str | None = None,
    resume: bool = False,
    name: str = "",
    dataset: Dataset | str | None = None,
    data: Arrays | None = None,
    **settings: Any,
) -> Epochs:
    """Train a recipe in a loop of your own: the run of `flaxcnn.train`, with the same bits.

    >>> for epoch in epochs("digits/quickstart", epochs=2, run_dir="runs/mine"):
    ...     print(epoch.number, sorted(epoch.metrics)[-2:])
    1 ['val_accuracy', 'val_loss']
    2 ['val_accuracy', 'val_loss']

    An epoch is yielded when its metrics and its checkpoint are written. Nothing is trained before
    the first is asked for. While the body of the loop runs, signals have their usual effect.

    Args:
        recipe, model, name, dataset, data, settings: as of `flaxcnn.train`.
        run_dir: a new folder, or with `resume` that of an earlier start.
        resume: go on from the newest checkpoint in `run_dir`.

    Raises:
        ConfigError, DataError: as `flaxcnn.train`, before the first epoch.
        DivergedError, WriteError, InterruptedRun, ...: as `flaxcnn.engine.train.fit`, in the loop.
    """
    ask = asked(recipe, name, model, dataset, data, settings)
    rows = ask.data()
    path = Path(run_dir) if run_dir else new_run(ask.name or "unnamed", ask.config.seed)
    path = path.expanduser().absolute()
    prepare()
    if (earlier := _open.get(path)) is not None:
        earlier.close()
    _close_at_exit()
    _open[path] = found = Epochs(path, _steps(ask.config, rows, path, ask.name, resume))
    return found


@functools.cache
def _close_at_exit() -> None:
    """Have loops that are still open when the program ends closed, so that they can be resumed.

    `atexit` would be too late: the threads with which Orbax writes have ended by then.
    """
    threading._register_atexit(_close_all)  # type: ignore[attr-defined]  # as concurrent.futures


def _close_all() -> None:
    for loop in list(_open.values()):
        loop.close()


def _steps(
    config: Config, dataset: Dataset, path: Path, name: str, resume: bool
) -> Generator[Epoch, None, Result]:
    with training(config, dataset, path, name=name, resume=resume) as run:
        for report in run.epochs():
            with run.interrupt.suspended():
                yield Epoch(report.progress.epoch, report.metrics, report.state, run)
        return run.finish()
