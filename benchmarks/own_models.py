"""A linen module of one's own in this package, beside the same network in a hand-written scan.

    python -m benchmarks.own_models [--steps N] [--turns N] [--output FILE]

The network is that of Flax's MNIST example. By hand: one jitted epoch, a `lax.scan` over shuffled
batches gathered on the device, softmax cross-entropy and `optax.adam`. In the package: the program
of an epoch of `flaxcnn train` with `optax.adam`, on one device, and as it trains by default. They
take turns, so that what else the machine does falls on all alike; ratios are taken within a turn.
Processor seconds, of all threads, are beside the times: others on the machine disturb them less.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when jaxlib is imported

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import flaxcnn
from benchmarks.parallel import Case
from benchmarks.peers import record
from flaxcnn import backend
from flaxcnn.bench import synthetic
from flaxcnn.recipe.networks import spec_of
from flaxcnn.records.environment import source_revision
from flaxcnn.records.files import plain, write_atomic

OUTPUT = record.FOLDER / "own-models-cpu.json"
BATCH, RATE = 64, 1e-3


class CNN(nn.Module):
    """The network of Flax's MNIST example."""

    @nn.compact
    def __call__(self, x):
        for features in (32, 64):
            x = nn.relu(nn.Conv(features, kernel_size=(3, 3))(x))
            x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = nn.relu(nn.Dense(256)(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


class ByHand:
    """Epochs of `steps` batches, in about as little code as it takes."""

    def __init__(self, image: Any, label: Any, steps: int):
        self.data = jax.device_put((image[: steps * BATCH], label[: steps * BATCH]))
        self.steps, net, optimizer = steps, CNN(), optax.adam(RATE)
        params = net.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))["params"]
        self.state = (params, optimizer.init(params), jax.random.key(1))

        def loss_of(params: Any, image: Any, label: Any) -> Any:
            logits = net.apply({"params": params}, image.astype(jnp.float32) / 255.0)
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
            return loss, (logits.argmax(-1) == label).mean()

        def epoch(state: Any, data: Any) -> Any:
            params, opt_state, key = state
            key, own = jax.random.split(key)
            order = jax.random.permutation(own, steps * BATCH).reshape(steps, BATCH)

            def step(carry: Any, rows: Any) -> Any:
                params, opt_state = carry
                image, label = data[0][rows], data[1][rows]
                of_params = jax.value_and_grad(loss_of, has_aux=True)
                metrics, grads = of_params(params, image, label)
                updates, opt_state = optimizer.update(grads, opt_state, params)
                return (optax.apply_updates(params, updates), opt_state), metrics

            (params, opt_state), metrics = jax.lax.scan(step, (params, opt_state), order)
            return (params, opt_state, key), metrics

        self.epoch: Callable[..., Any] = jax.jit(epoch, donate_argnums=0)

    def step_seconds(self) -> float:
        """Of one step, over an epoch."""
        began = time.perf_counter()
        self.state, _ = jax.block_until_ready(self.epoch(self.state, self.data))
        return (time.perf_counter() - began) / self.steps


def measure(steps: int, turns: int) -> dict[str, Any]:
    """Seconds of a step of each, and their ratios; the first turn warms up and does not count."""
    data = synthetic("mnist")
    own = flaxcnn.Config(
        "mnist", model=spec_of(CNN()), optimizer=flaxcnn.Optax("optax.adam"),
        learning_rate=RATE, batch_size=BATCH,
    )  # fmt: skip
    cases = {
        "by hand": ByHand(data.train.image, data.train.label, steps),
        "flaxcnn, one device": Case(own, data, steps, alone=True),
        "flaxcnn": Case(own, data, steps, alone=False),
    }
    names = list(cases)
    found, used = [], []
    for turn in range(1 + turns):
        times, processor = {}, {}
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began = time.process_time()
            times[name] = cases[name].step_seconds()
            processor[name] = (time.process_time() - began) / steps
        found.append(times)
        used.append(processor)
    found, used = found[1:], used[1:]
    return {
        "steps": steps, "turns": turns, "batch_size": BATCH,
        "step_seconds": {name: [turn[name] for turn in found] for name in names},
        "processor_seconds": {name: [turn[name] for turn in used] for name in names},
        "over_by_hand": {name: ratios(found, name) for name in names[1:]},
        "processor_over_by_hand": {name: ratios(used, name) for name in names[1:]},
        "devices": cases["flaxcnn"].job.plan.sharding.devices,  # type: ignore[union-attr]
    }  # fmt: skip


def ratios(turns: list[dict[str, float]], name: str) -> dict[str, float]:
    """Median and quartiles of the speed over that of the loop by hand."""
    low, middle, high = statistics.quantiles([t["by hand"] / t[name] for t in turns], n=4)
    return {"median": middle, "lower_quartile": low, "upper_quartile": high}


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_models")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--turns", type=int, default=21)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    backend.prepare()
    document = {
        **measure(options.steps, options.turns), "source_revision": source_revision(),
        "environment": record.environment(backend.cores(), jax.default_backend()),
    }  # fmt: skip
    write_atomic(options.output, (json.dumps(plain(document), indent=1) + "\n").encode())
    for what in ("over_by_hand", "processor_over_by_hand"):
        for name, one in document[what].items():
            print(f"{what}, {name}: {one['median']:.3f} ({one['lower_quartile']:.3f} to "
                  f"{one['upper_quartile']:.3f})")  # fmt: skip


if __name__ == "__main__":
    main()
