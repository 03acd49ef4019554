"""How long a recipe takes to an accuracy: whole runs, timed as the speed records are.

Compilation and bringing the data to the device are outside of the clock; initial weights, the
whitening layer, all epochs and the test with its views are inside, in one program. Every run counts
and none is chosen; the bar is met by the mean.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from scipy import stats

from flaxcnn import backend
from flaxcnn.activity import doing
from flaxcnn.bench import DTYPES, all_rows_train, flops_per_image, peak_memory
from flaxcnn.data.arrays import Dataset
from flaxcnn.engine.make_job import make_resident_job
from flaxcnn.engine.whole import Outcome, check_whole, compile_whole
from flaxcnn.recipe.config import Config
from flaxcnn.studies.stats import summarize

MIN_P = 2  # runs without which there is no p


@dataclass(frozen=True)
class Run:
    """One timed run."""

    seed: int
    seconds: float
    accuracy: float  # of the test rows
    loss: float


def whole_recipe(config: Config) -> Config:
    """The recipe as it is raced: all training rows, and the weights of the last epoch.

    Raises:
        ConfigError: it needs the host between its epochs.
    """
    config = dataclasses.replace(all_rows_train(config), keep="last")
    check_whole(config)
    return config


def race(
    name: str, config: Config, data: Dataset, target: float, runs: int,
    on_run: Callable[[Run], None] = lambda run: None,
) -> dict[str, Any]:  # fmt: skip
    """Time `runs` whole runs of a recipe, of its seed and those after it.

    Args:
        name: of the experiment.
        config: as `whole_recipe` gives it.
        data: its data set.
        target: the test accuracy that is the bar.
        runs: how many.
        on_run: hears of each as it ends.

    Returns:
        the document that `flaxcnn bench --to-accuracy --json` prints, without the environment.
    """
    backend.prepare(cache=False)  # a program out of the cache has no compile time
    job = make_resident_job(config, data)
    whole = compile_whole(job)
    warm = jax.default_backend() != "cpu"  # whose first call allocates and chooses kernels
    if warm:
        with doing("warming up"):
            whole(_seeds(config, config.seed + runs))
    done: list[Run] = []
    for seed in range(config.seed, config.seed + runs):
        with doing(f"run {len(done) + 1} of {runs}"):
            done.append(_timed(whole, config, seed))
        on_run(done[-1])
    images = job.plan.steps_per_epoch * config.batch_size * config.epochs
    flops = flops_per_image(config, data.shape, "train", data.num_classes) * images
    return {
        "experiment": name, "target": target, "dtype": DTYPES[config.precision],
        "epochs": config.epochs, "batch_size": config.batch_size,
        "steps": job.plan.steps_per_epoch * config.epochs, "devices": job.plan.sharding.devices,
        "train_rows": len(job.rows.train), "test_rows": len(job.rows.test),
        "training_flops": flops, "compile_seconds": job.programs.seconds, "warm_up": warm,
        "runs": [dataclasses.asdict(run) for run in done], **verdict(done, target),
        "peak_memory": peak_memory(),
    }  # fmt: skip


def _seeds(config: Config, seed: int) -> np.ndarray:
    """[4] uint32, one for each purpose."""
    return np.asarray(dataclasses.replace(config, seed=seed).seeds(), np.uint32)


def _timed(whole: Callable[[np.ndarray], Outcome], config: Config, seed: int) -> Run:
    seeds = _seeds(config, seed)
    began = time.perf_counter()
    outcome = whole(seeds)
    seconds = time.perf_counter() - began
    return Run(seed, seconds, outcome.test["accuracy"], outcome.test["loss"])


def verdict(runs: Sequence[Run], target: float) -> dict[str, Any]:
    """What the runs say together.

    >>> two = [Run(0, 2.0, 0.941, 0.2), Run(1, 3.0, 0.942, 0.2)]
    >>> found = verdict(two, 0.94)
    >>> found["seconds"]["median"], round(found["accuracy"]["mean"], 4), found["reached"]
    (2.5, 0.9415, True)

    Returns:
        `seconds` and `accuracy` with their figures; `reached`, whether the mean accuracy is at
        least `target`; and `p`, one-sided by Student's t, of a mean so high if the true one were
        the target. It is None for one run, and where all runs have one accuracy.
    """
    seconds = [run.seconds for run in runs]
    accuracy = summarize([run.accuracy for run in runs])
    p = None
    if accuracy.sem and accuracy.n >= MIN_P:
        p = float(stats.t.sf((accuracy.mean - target) / accuracy.sem, accuracy.n - 1))
    return {
        "seconds": {
            "min": min(seconds), "median": statistics.median(seconds),
            "mean": statistics.fmean(seconds), "max": max(seconds),
        },
        "accuracy": {
            "n": accuracy.n, "mean": accuracy.mean, "sd": accuracy.sd, "min": accuracy.min,
            "max": accuracy.max, "t_interval": accuracy.t_interval,
        },
        "reached": accuracy.mean >= target, "p": p,
    }  # fmt: skip
