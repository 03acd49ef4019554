"""flaxcnn itself: the programs that `flaxcnn train` runs, an epoch at a time."""

from __future__ import annotations

from typing import Any

import jax

from benchmarks.peers.peer import Peer
from flaxcnn import backend
from flaxcnn.bench import all_rows_train
from flaxcnn.data.arrays import Split, dataset
from flaxcnn.engine.make_job import make_job

backend.prepare()


class FlaxcnnPeer(Peer):
    """An epoch over the block's rows is one program."""

    def configure(self, settings: dict[str, Any]) -> None:
        """Every row of the train split trains: the block is as long as the data set is."""
        backend.require_sound()
        self.config = all_rows_train(self.config)

    def take_rows(self, train: Split, test: Split) -> None:
        cut = dataset(self.data.name, train, test, self.data.classes)
        self.job = make_job(self.config, cut)
        self.state = self.job.init()

    def train(self, passes: int) -> None:
        for _ in range(passes):
            self.state, sums = self.job.train_epoch(self.state)
        jax.block_until_ready((self.state, sums))

    def evaluate(self, passes: int) -> None:
        sums = [self.job.evaluate(self.state, "test") for _ in range(passes)]
        jax.block_until_ready(sums)

    def parameters(self) -> int:
        return sum(x.size for x in jax.tree.leaves((self.state.params, self.state.batch_stats)))

    def device(self) -> str:
        first = jax.devices()[0]
        return "cpu" if first.platform == "cpu" else first.device_kind


PEER = FlaxcnnPeer
