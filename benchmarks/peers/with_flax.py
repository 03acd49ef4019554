"""Flax as its own MNIST example uses it: linen's layers, optax, one jitted call per batch."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers.peer import Peer
from benchmarks.peers.task import scaled
from flaxcnn.accelerators.plain import (
    Network,
    State,
    init_state,
    make_optimizer,
    metrics,
    train_step,
)
from flaxcnn.data.arrays import Split


class FlaxPeer(Peer):
    """`gather`: rows are picked by numpy on the host, or inside the program from data it holds."""

    alternatives: ClassVar[dict[str, tuple[Any, ...]]] = {"gather": ("host", "program")}

    def configure(self, settings: dict[str, Any]) -> None:
        self.in_program = settings["gather"] == "program"
        network = Network(self.config.layers, jnp.dtype(self.task.dtype))
        optimizer = make_optimizer(self.config)
        self.state = jax.jit(lambda: init_state(self.config, self.data.shape))()
        self.draw = np.random.default_rng(0)

        def logits(state: State, image: jax.Array) -> jax.Array:
            kept = {"params": state["params"], "batch_stats": state["batch_stats"]}
            return network.apply(kept, image, False)  # type: ignore[return-value]

        def picked(state: State, image: jax.Array, label: jax.Array, rows: jax.Array) -> Any:
            return train_step(network, optimizer, state, image[rows], label[rows])

        plain = functools.partial(train_step, network, optimizer)
        self.step = jax.jit(picked if self.in_program else plain, donate_argnums=0)
        self.logits = jax.jit(logits)
        self.score = jax.jit(lambda state, image, label: metrics(logits(state, image), label))

    def take_rows(self, train: Split, test: Split) -> None:
        hold = jnp.asarray if self.in_program else np.asarray
        image, test_image = scaled(train, test, self.config)
        self.image, self.label = hold(image), hold(train.label)
        batches = -(-len(test) // self.eval_batch)
        self.test = list(
            zip(np.split(test_image, batches), np.split(test.label, batches), strict=True)
        )

    def train(self, passes: int) -> None:
        for _ in range(passes):
            order = self.draw.permutation(len(self.label)).astype(np.int32)
            found = []
            for rows in order.reshape(-1, self.config.batch_size):
                if self.in_program:
                    self.state, one = self.step(self.state, self.image, self.label, rows)
                else:
                    self.state, one = self.step(self.state, self.image[rows], self.label[rows])
                found.append(one)
        jax.block_until_ready((self.state, found))

    def evaluate(self, passes: int) -> None:
        for _ in range(passes):
            found = [self.score(self.state, *batch) for batch in self.test]
        jax.block_until_ready(found)

    def parameters(self) -> int:
        kept = (self.state["params"], self.state["batch_stats"])
        return sum(x.size for x in jax.tree.leaves(kept))

    def device(self) -> str:
        first = jax.devices()[0]
        return "cpu" if first.platform == "cpu" else first.device_kind


PEER = FlaxPeer
