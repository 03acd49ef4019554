"""Weights from elsewhere: the kept ones of a run, and those that a run starts from."""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from flaxcnn.data.arrays import Dataset
from flaxcnn.data.batches import Scaling
from flaxcnn.data.splits import Rows
from flaxcnn.engine.average import chosen
from flaxcnn.engine.checkpoint import Checkpoints
from flaxcnn.engine.initial import Flat, Start, flat
from flaxcnn.engine.job import make_hypers, make_plan
from flaxcnn.engine.step import Plan, TrainState, init_state
from flaxcnn.engine.whitening import whitening
from flaxcnn.errors import CheckpointError, ConfigError, near_miss
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.weights import SUFFIX, Weights
from flaxcnn.records.read import RunRecord, read_run
from flaxcnn.records.run import RunDirectory


def kept_state(path: Path, record: RunRecord) -> TrainState:
    """The kept state of a finished run, verified.

    Raises:
        CheckpointError: its checkpoint is damaged.
    """
    config = Config.from_dict(record.config)
    plan = make_plan(config, record.data["rows"]["train"])
    like = state_like(plan, config, tuple(record.data["shape"]))
    with Checkpoints(RunDirectory(path).checkpoint_folder(), writes=False) as checkpoints:
        state, _ = checkpoints.restore(record.summary["kept_epoch"], like)
    return chosen(config, state)


def state_like(plan: Plan, config: Config, shape: tuple[int, ...]) -> TrainState:
    """Shapes of the state of a run on images of `shape` (H, W, C)."""
    seeds, hypers = jnp.asarray(config.seeds(), jnp.uint32), make_hypers(config)
    like: TrainState = jax.eval_shape(lambda: init_state(plan, shape, seeds, hypers))
    return like


def start_of(
    config: Config, plan: Plan, dataset: Dataset, rows: Rows, scaling: Scaling
) -> Start | None:
    """What a run of a recipe on its rows starts from; None: from random weights.

    Args:
        config, plan: of the run.
        dataset, rows, scaling: what it trains on.

    Raises:
        ConfigError: the weights are not there, have changed, or do not fit; or a pattern of
            `init_from`, `freeze`, `no_decay`, `rates`, `decays` or `fade` fits nothing.
    """
    by_name = {"freeze": config.freeze, "no_decay": config.no_decay, "rates": plan.rules.rates,
               "decays": plan.rules.decays, "fade": plan.rules.fade,
               "optimizer.weights": getattr(config.optimizer, "weights", ())}  # fmt: skip
    made = whitening(config, dataset, rows, scaling)
    start = Start(made) if made else None
    if config.init_from is None and not any(by_name.values()):
        return start
    state = state_like(plan, config, dataset.shape)
    names = _plain(flat({"params": state.params}))
    for setting, patterns in by_name.items():
        check_patterns(setting, patterns, names)
    if config.init_from is None:
        return start
    found = _fitted(config.init_from, state, dataset.num_classes)
    return dataclasses.replace(found, arrays={**made, **found.arrays})


def check_patterns(setting: str, patterns: Sequence[str], names: Sequence[str]) -> None:
    """ConfigError for a pattern that fits none of the names of weights."""
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise ConfigError(
                f"{setting}: {pattern!r} fits no weights; they are {_listed(names)}"
                f"{near_miss(pattern, names)}"
            )


def _fitted(weights: Weights, state: TrainState, classes: int) -> Start:
    there = _read(weights.path, weights.digest)
    own = flat({"params": state.params, "batch_stats": state.batch_stats})
    wanted = [name for name in own if _selected(name, weights)]
    taken, left = {}, []
    for name in wanted:
        if name not in there:
            left.append(name)
        elif there[name].shape == own[name].shape:
            taken[name] = there[name]
        elif _of_classes(own[name].shape, there[name].shape, classes):
            left.append(name)
        else:
            raise ConfigError(
                f"init_from: {name.partition('/')[2]} has shape {list(there[name].shape)} there "
                f"and {list(own[name].shape)} here; leave it with init_from.leave"
            )
    if not taken:
        raise ConfigError(
            f"init_from: no weights of {weights.path} fit; it has {_listed(_plain(there))}"
        )
    layers = sorted({name.split("/")[1] for name in left})
    note = f"init_from: {', '.join(layers)} stay random, since {weights.path} has none that fit"
    return Start(taken, (note,) if left else ())


def _of_classes(own: tuple[int, ...], there: tuple[int, ...], classes: int) -> bool:
    """Whether two arrays have a value for each class in their last axis, and only those differ."""
    return own[-1:] == (classes,) and own[:-1] == there[:-1] and len(own) == len(there)


def _selected(name: str, weights: Weights) -> bool:
    """Whether a pattern of `only` fits, and none of `leave`."""
    own = name.partition("/")[2]
    fits = lambda patterns: any(fnmatch.fnmatch(own, pattern) for pattern in patterns)  # noqa: E731
    return (not weights.only or fits(weights.only)) and not fits(weights.leave)


@functools.lru_cache(4)
def _read(path: str, digest: str) -> Flat:
    """The arrays of a run or a file; `digest` is what the recipe says they have.

    Raises:
        ConfigError: they have another, or cannot be read.
    """
    weights = Weights(path)
    if weights.digest != digest:
        raise ConfigError(f"init_from: {path} has changed since the recipe was made")
    if weights.file.suffix != SUFFIX:
        try:
            state = jax.device_get(kept_state(weights.file, read_run(weights.file)))
        except CheckpointError as error:
            raise ConfigError(f"init_from: {error}") from error
        return flat({"params": state.params, "batch_stats": state.batch_stats})
    try:
        from safetensors.numpy import load_file
    except ImportError:
        raise ConfigError(
            "init_from needs safetensors for such a file; pip install 'flaxcnn[export]'"
        ) from None
    try:
        return dict(load_file(weights.file))
    except Exception as error:  # of the library's own kinds
        raise ConfigError(f"init_from: cannot read {path} ({error})") from error


def _plain(arrays: Flat) -> list[str]:
    """The names without their collection."""
    return [name.partition("/")[2] for name in arrays]


def _listed(names: Sequence[str]) -> str:
    """The first few names."""
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
