"""Is accuracy paid for speed? The same rows trained by flaxcnn and by the plain Flax loop.

    python -m benchmarks.accuracy [--model NAME] [--seeds N] [--epochs N] [--output FILE]

Both train the recipe's training rows for the same number of epochs and are validated on the same
held-out rows; the plain loop is the one that benchmarks.peers times. What is compared is the
validation accuracy after the last epoch: means, standard deviations and Welch's interval of the
difference. Every finished training is written at once, and a second call goes on from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when jaxlib is imported

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import record
from benchmarks.peers.with_flax import Network, make_optimizer, train_step
from flaxcnn import backend
from flaxcnn.data.arrays import Dataset
from flaxcnn.data.datasets import load
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.loop import Progress, epochs
from flaxcnn.engine.make_job import make_job
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.records.environment import source_revision
from flaxcnn.records.files import plain, write_atomic
from flaxcnn.studies.contrasts import compare_unpaired


def with_flaxcnn(config: Config, data: Dataset) -> list[float]:
    """Validation accuracy after every epoch."""
    job = make_job(config, data)
    with Interrupt() as interrupt:
        reports = epochs(job, job.init(), Progress(), interrupt)
        return [report.metrics["val_accuracy"] for report in reports]


def with_plain_flax(config: Config, data: Dataset) -> list[float]:
    """The same by the loop of Flax's MNIST example; an incomplete last batch is left out there."""
    job = make_job(config, data)  # for its rows and pixel statistics only
    pixels = (data.train.image.astype(np.float32) - np.asarray(job.data.scaling.mean)) / np.asarray(
        job.data.scaling.scale
    )
    train, held = job.rows.train, job.rows.validation
    network, optimizer = Network(config.layers, jnp.float32), make_optimizer(config)
    variables = network.init(jax.random.key(config.seed), jnp.zeros((1, *data.shape)), False)
    state = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {}),
             "optimizer": optimizer.init(variables["params"]),
             "key": jax.random.key(config.seed + 1)}  # fmt: skip
    step = jax.jit(lambda *args: train_step(network, optimizer, *args), donate_argnums=0)
    logits = jax.jit(lambda kept, image: network.apply(kept, image, False))
    draw, found = np.random.default_rng(config.seed), []
    for _ in range(config.epochs):
        order = draw.permutation(train)
        for start in range(0, len(order) - config.batch_size + 1, config.batch_size):
            rows = order[start : start + config.batch_size]
            state, _ = step(state, pixels[rows], data.train.label[rows])
        kept = {"params": state["params"], "batch_stats": state["batch_stats"]}
        hits = [(np.asarray(logits(kept, pixels[part])).argmax(-1) == data.train.label[part]).sum()
                for part in np.array_split(held, 12)]  # fmt: skip
        found.append(float(sum(hits) / len(held)))
    return found


WAYS = {"flaxcnn": with_flaxcnn, "flax": with_plain_flax}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and sd of each way, and Welch's 95 % interval of the difference of the means."""
    last = {way: [run["val_accuracy"][-1] for run in runs if run["way"] == way] for way in WAYS}
    found: dict[str, Any] = {
        way: {"n": len(x), "mean": float(np.mean(x)), "sd": float(np.std(x, ddof=1))}
        for way, x in last.items()
        if len(x) > 1
    }
    if len(found) == len(WAYS):
        test = compare_unpaired(last["flaxcnn"], last["flax"])
        low, high = test.interval or (None, None)
        found["difference"] = {
            "mean": test.difference, "low": low, "high": high, "p": test.p_value,
        }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy")
    parser.add_argument("--model", default="mnist-ladder/model10")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--output", type=Path, default=record.FOLDER / "accuracy-model10.json")
    wanted = parser.parse_args()
    backend.prepare()
    revision = source_revision()  # of what is loaded, whatever the checkout becomes meanwhile
    config = dataclasses.replace(
        catalog.resolve(catalog.find(wanted.model))[0], epochs=wanted.epochs, patience=None
    )
    data = load(config.dataset)
    document: dict[str, Any] = (
        json.loads(wanted.output.read_text()) if wanted.output.exists() else {"runs": []}
    )
    done = {(run["way"], run["seed"]) for run in document["runs"]}
    for seed in range(wanted.seeds):
        for way, train in WAYS.items():
            if (way, seed) in done:
                continue
            curve = train(dataclasses.replace(config, seed=seed), data)
            document["runs"].append({"way": way, "seed": seed, "val_accuracy": curve,
                                     "source_revision": revision})  # fmt: skip
            document |= {
                "model": wanted.model, "epochs": wanted.epochs,
                "summary": summary(document["runs"]),
                "environment": record.environment(backend.cores(), jax.default_backend()),
            }  # fmt: skip
            wanted.output.parent.mkdir(exist_ok=True)
            write_atomic(wanted.output, json.dumps(plain(document), indent=1).encode() + b"\n")
            print(f"{way:8} seed {seed}: validation accuracy {curve[-1]:.4f}", flush=True)


if __name__ == "__main__":
    main()
