"""`flaxcnn.lr_range`: which learning rate to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flaxcnn.api.arguments import asked
from flaxcnn.backend import prepare
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.given import Arrays
from flaxcnn.engine.range_test import range_test
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.records.files import check_suffix
from flaxcnn.records.rate_range import RateRange
from flaxcnn.reports.rates import draw


def lr_range(
    recipe: Config | str = catalog.DEFAULT_EXPERIMENT,
    *,
    low: float = 1e-6,
    high: float = 10.0,
    steps: int = 200,
    output: Path | str | None = None,
    model: Any = None,
    dataset: Dataset | str | None = None,
    data: Arrays | None = None,
    **settings: Any,
) -> RateRange:
    """Train a few updates of a recipe, each at a larger learning rate, and see where losses fall.

    Smith's range test (2017, arXiv:1506.01186). The recipe's optimizer, batches and augmentation
    are used; its schedule and learning rate are not.

    >>> found = lr_range("digits/quickstart", low=1e-4, high=10, steps=60)
    >>> found.steepest < found.lowest
    True

    Args:
        recipe: a Config, or the name of an experiment.
        low: learning rate of the first update.
        high: that of the last.
        steps: updates.
        output: a file for a picture, such as "rates.png".
        model: as of `flaxcnn.train`.
        dataset: as of `flaxcnn.train`.
        data: as of `flaxcnn.train`.
        settings: any field of `Config`, such as `batch_size=128`.

    Returns:
        `rates` and `losses` of the updates, `smoothed` losses, and the rates at which they fall
        fastest (`steepest`) and are `lowest`.

    Raises:
        ConfigError: the recipe is wrong or does not fit the data, or not 0 < low < high.
        DataError: the data is missing or damaged.
        WriteError: the picture cannot be written.
    """
    if output is not None:
        check_suffix("output", Path(output), ".png", ".svg", ".pdf")
    ask = asked(recipe, "", model, dataset, data, settings)
    loaded = ask.data()
    prepare()
    found = range_test(ask.config, loaded, low, high, steps)
    if output is not None:
        draw(found, Path(output))
    return found
