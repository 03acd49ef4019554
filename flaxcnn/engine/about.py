"""What the folder of a run says of its data, its code, its software and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from flaxcnn.data import splits
from flaxcnn.data.sampling import class_rows, imbalance
from flaxcnn.engine.job import Job
from flaxcnn.engine.promises import Promises
from flaxcnn.engine.step import TrainState
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.recipe.layers import Conv
from flaxcnn.recipe.networks import only_here, own_code
from flaxcnn.records.environment import environment, other_software
from flaxcnn.records.run import RunDirectory


def notes_on_code(run: RunDirectory, config: Config, promises: Promises | None) -> list[str]:
    """Write model.json of a network of one's own -> what a person should know of its code."""
    here = only_here(config)
    notes = [here] if here else []
    if promises is None:
        return notes
    run.write_json("model.json", {"keeps": vars(promises), "elsewhere": here is None})
    return notes + [f"{own_code(config)}: {text}" for text in promises.broken()]


def note_on_test(job: Job) -> str | None:
    """A sentence, where a person's own data has no test split."""
    data = job.dataset
    if data.test_origin == "archive" or data.name in KNOWN_DATA:
        return None
    return (
        f"the data has no test split: a fixed fifth of its rows ({len(data.test):,}), the same for "
        "every run, is the test split"
    )


def check_continuity(
    run: RunDirectory, saved: dict[str, Any], on_note: Callable[[str], None]
) -> None:
    """A resumed run should have the software that its checkpoint was made with.

    Args:
        run: its folder; that of older checkpoints, which do not say, has env.json.
        saved: what the checkpoint says.
        on_note: called where it has another one.
    """
    before = saved.get("environment")
    if before is None and (run.path / "env.json").is_file():
        before = run.read_json("env.json")
    if before and (text := other_software(before)):
        on_note(text)


def describe(job: Job, run: RunDirectory, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write what is known before the first step -> env.json and data.json."""
    data, scaling = job.dataset, jax.device_get(job.data.scaling)
    uneven = imbalance(job.config, data, job.rows.train)
    env = run.write_json("env.json", environment())
    run.write_text("split.json", splits.to_json(job.rows))
    about = run.write_json("data.json", {
        "experiment": name, "name": data.name, "digest": data.digest, "shape": list(data.shape),
        "classes": list(data.classes), "test_origin": data.test_origin,
        **({"validation_origin": "archive"} if data.validation else {}),
        **({"source": dict(data.source)} if data.source else {}),
        "split_digest": splits.digest(job.rows),
        "rows": {s: len(getattr(job.rows, s)) for s in ("train", "validation", "test")},
        "mean": scaling.mean.tolist(), "scale": scaling.scale.tolist(),
        "class_rows": class_rows(data, job.rows.train).tolist(),
        **({} if scaling.class_weight is None else
           {"class_weight": scaling.class_weight.tolist()}),
        **({"imbalance": uneven} if uneven else {}),
    })  # fmt: skip
    return env, about


def write_predictions(job: Job, run: RunDirectory, state: TrainState) -> None:
    """predictions.npz: row [N], label [N], logits [N, K] of the test rows."""
    rows = job.rows.test
    logits = job.predict(state, "test")
    run.write_npz("predictions.npz", row=rows, label=job.labels()[rows], logits=logits)


def write_filters(job: Job, run: RunDirectory, state: TrainState) -> None:
    """filters.npz: layer and kernel [H, W, C, N] of a network that begins with a convolution."""
    first = job.config.table(job.dataset.shape, job.dataset.num_classes)[0]
    if not isinstance(first.layer, Conv):
        return
    kernel = np.asarray(jax.device_get(state.params[first.name]["kernel"]), np.float32)
    run.write_npz("filters.npz", layer=first.name, kernel=kernel)
