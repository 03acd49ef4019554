"""What a trained network is worth: its kept weights tested, once, and its dead units counted."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from flaxcnn.data import splits
from flaxcnn.engine.calibration import loss_at, temperature_of
from flaxcnn.engine.digest import tree_digest
from flaxcnn.engine.job import Job, SplitName
from flaxcnn.engine.loop import Progress
from flaxcnn.engine.metrics import finalize
from flaxcnn.engine.step import TrainState
from flaxcnn.recipe.layers import totals
from flaxcnn.records.environment import versions

Counts = dict[str, tuple[int, int]]  # layer -> (dead relu units, relu units)


def conclude(
    job: Job,
    state: TrainState,
    progress: Progress,
    history: list[dict[str, Any]],
    name: str,
    dead: tuple[Counts, Counts] | None,
) -> dict[str, Any]:
    """Test the kept weights, once.

    Args:
        job: the run's recipe and data.
        state: the kept state.
        progress: that after the last epoch.
        history: the lines of metrics.jsonl.
        name: the experiment's, for the records.
        dead: `count_dead` of the initial and of the kept state. None: the run only needs a score,
            so the training rows are not evaluated either.

    Returns:
        what summary.json holds.
    """
    config = job.config
    wanted: tuple[SplitName, ...] = ("test",) if dead is None else ("train", "test")
    measured: dict[str, dict[str, float]] = {
        split: finalize(jax.device_get(job.evaluate(state, split))) for split in wanted
    }
    # The documents' protocol validates on the test rows: once is enough.
    same = np.array_equal(job.rows.validation, job.rows.test)
    measured["val"] = measured["test"] if same else finalize(
        jax.device_get(job.evaluate(state, "validation"))
    )  # fmt: skip
    counts = totals(config.table(job.dataset.shape, job.dataset.num_classes))
    return {
        "experiment": name,
        "protocol": config.protocol,
        "seed": config.seed,
        **{key: counts[key] for key in ("params", "trainable_params")},
        "epochs_run": progress.epoch,
        "best_epoch": progress.best_epoch,
        "kept_epoch": progress.kept(config),
        "stopped_early": progress.epoch < config.epochs,
        **{f"{s}_{k}": v for s, metrics in measured.items() for k, v in metrics.items()},
        "train_rows": len(job.rows.train),
        "val_rows": len(job.rows.validation),
        "test_rows": len(job.rows.test),
        "seconds": sum(row["seconds"] for row in history),
        "compile_seconds": job.programs.seconds,
        "images_per_second": float(np.median([row["images_per_second"] for row in history])),
        **({} if dead is None else _dead_units(*dead)),
        **(_calibrated(job, state) if config.calibrate else {}),
        "params_digest": tree_digest(jax.device_get(state.params)),
        "data_digest": job.dataset.digest,
        "split_digest": splits.digest(job.rows),
        "fingerprint": config.fingerprint(),
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "versions": versions(),
    }


def _calibrated(job: Job, state: TrainState) -> dict[str, float]:
    """The temperature for the validation rows, and their cross-entropy with it."""
    logits = job.predict(state, "validation")
    label = job.labels()[job.rows.validation]
    temperature = temperature_of(logits, label)
    return {
        "temperature": temperature, "val_loss_calibrated": loss_at(logits, label, temperature)
    }  # fmt: skip


def _dead_units(before: Counts, after: Counts) -> dict[str, Any]:
    return {
        "dead_units_init": sum(n for n, _ in before.values()),
        "dead_units": sum(n for n, _ in after.values()),
        "dead_layers": [layer for layer, (n, units) in after.items() if n == units],
        "relu_units": sum(units for _, units in after.values()),
    }


def count_dead(job: Job, state: TrainState) -> Counts:
    """Dead relu units of each layer, on the first training rows."""
    alive = job.alive_units(state)
    return {layer: (int((~units).sum()), units.size) for layer, units in alive.items()}


def dead_layers(dead: Counts) -> list[str]:
    """A warning for every layer all of whose units are dead."""
    return [
        f"{layer}: all {count} relu units are dead at initialisation: nothing passes this layer, "
        "so the network cannot learn; try another --seed"
        for layer, (silent, count) in dead.items()
        if silent == count
    ]
