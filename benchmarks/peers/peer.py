"""What every peer can do, and how its settings and the length of its blocks are found."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from benchmarks.peers.task import EVAL_BATCHES, Task, load, whole_batches
from flaxcnn.data.arrays import Split, repeated

BLOCK_SECONDS = 1.0
MIN_STEPS = 5  # of a training block, however slow they are
FIRST_STEPS = 2  # of the shortest block that settings are compared by
TELLING_SECONDS = 0.15  # blocks shorter than this are too short to compare settings by


class Peer:
    """A framework with the task's network in it. Subclasses fill in the methods that raise.

    Every `train` and `evaluate` returns only when the device is done. `alternatives` are settings
    that a careful user of the framework would try; the first of each is its default.
    """

    alternatives: ClassVar[dict[str, tuple[Any, ...]]] = {}
    not_compiled: ClassVar[tuple[str, ...]] = ()  # settings that leave compiled programs alone

    def __init__(self, task: Task):
        self.task = task
        self.current: dict[str, Any] | None = None
        self.config = task.config
        self.data, self.pixels = load(task)
        self.eval_batch = min(EVAL_BATCHES[0], len(self.data.test))

    def settings(self) -> dict[str, Any]:
        """The first of every alternative."""
        return {key: options[0] for key, options in self.alternatives.items()}

    def be(self, settings: dict[str, Any]) -> None:
        """Configure, unless that is how it is already."""
        if settings != self.current:
            self.current = None  # until it has worked
            self.configure(settings)
            self.current = settings

    def configure(self, settings: dict[str, Any]) -> None:
        """Build network and programs anew in this way."""
        raise NotImplementedError

    def take_rows(self, train: Split, test: Split) -> None:
        """Make these rows ready to be trained on and evaluated."""
        raise NotImplementedError

    def train(self, passes: int) -> None:
        """Go over the training rows `passes` times."""
        raise NotImplementedError

    def evaluate(self, passes: int) -> None:
        """Loss and accuracy of the test rows, `passes` times."""
        raise NotImplementedError

    def parameters(self) -> int:
        """How many numbers the network has, moving statistics included."""
        raise NotImplementedError

    def device(self) -> str:
        """`cpu`, or what the driver calls the GPU."""
        raise NotImplementedError

    def use(self, train: int, test: int) -> None:
        """Take `train` and `test` rows of the data set."""
        self.take_rows(repeated(self.data.train, train), repeated(self.data.test, test))

    @property
    def most_steps(self) -> int:
        """Steps of one epoch over all that there is to train on."""
        return max(len(self.data.train) // self.config.batch_size, 1)


class Trial:
    """How long a peer takes in one setting: to get ready, for a step, for an evaluated image."""

    def __init__(self, peer: Peer, settings: dict[str, Any], steps: int):
        batch = peer.config.batch_size
        began = time.perf_counter()
        peer.be(settings)
        peer.use(steps * batch, peer.eval_batch)
        peer.train(1)
        peer.evaluate(1)
        ready = time.perf_counter() - began
        train, evaluate = self._fastest(peer.train), self._fastest(peer.evaluate)
        self.settings, self.steps = settings, steps
        self.ready = max(ready - train - evaluate, 0.0)
        self.pass_seconds = train
        self.step_seconds = train / steps
        self.image_seconds = evaluate / peer.eval_batch

    @staticmethod
    def _fastest(block: Any) -> float:
        """The faster of two blocks; of one, where it is long enough to tell."""
        best = float("inf")
        for _ in range(2):
            began = time.perf_counter()
            block(1)
            best = min(best, time.perf_counter() - began)
            if best > BLOCK_SECONDS:
                break
        return best


class Blocks:
    """A peer in its fastest settings, with blocks of about BLOCK_SECONDS."""

    def __init__(self, peer: Peer):
        self.peer = peer
        self.tried: list[dict[str, Any]] = []
        self.trials: list[Trial] = []
        trial = self._fastest()
        batch = peer.config.batch_size
        wanted = max(BLOCK_SECONDS / trial.step_seconds, MIN_STEPS)
        steps = max(min(round(wanted), peer.most_steps), 1)
        several = trial.settings.get("steps_per_execution", 1)
        if steps > several:
            steps -= steps % several
        self.train_rows, self.train_passes = steps * batch, max(round(wanted / steps), 1)
        self.test_rows = whole_batches(len(peer.data.test), peer.eval_batch)
        self.settings = trial.settings
        # The same programs may have been compiled for an earlier trial: the longest one counts.
        programs = self._programs(trial.settings)
        self.ready = max(t.ready for t in self.trials if self._programs(t.settings) == programs)
        peer.be(trial.settings)
        self._warm_up(trial)
        self._choose_eval_batch()

    def _programs(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in settings.items() if k not in self.peer.not_compiled}

    def _warm_up(self, trial: Trial) -> None:
        """Take the rows of the blocks and run each once, the second time to see how long."""
        per_image = trial.image_seconds
        if per_image * self.test_rows > BLOCK_SECONDS:
            self.test_rows = whole_batches(round(BLOCK_SECONDS / per_image), self.peer.eval_batch)
        self.peer.use(self.train_rows, self.test_rows)
        self.peer.train(1)
        self.peer.evaluate(1)
        began = time.perf_counter()
        self.peer.evaluate(1)
        self.test_passes = max(round(BLOCK_SECONDS / (time.perf_counter() - began)), 1)

    def _choose_eval_batch(self) -> None:
        """Of EVAL_BATCHES that divide the test rows, the one that evaluates faster."""
        seconds = {}
        for size in EVAL_BATCHES:
            if self.test_rows % size == 0:
                self.peer.eval_batch = size
                self.peer.evaluate(1)
                began = time.perf_counter()
                self.peer.evaluate(1)
                seconds[size] = time.perf_counter() - began
        if seconds:
            self.peer.eval_batch = min(seconds, key=lambda size: seconds[size])

    def _fastest(self) -> Trial:
        """The default settings, then each other option in turn, keeping what is faster."""
        steps = min(FIRST_STEPS, self.peer.most_steps)
        best = self._try(self.peer.settings(), steps)
        while best.pass_seconds < TELLING_SECONDS and steps < self.peer.most_steps:
            growth = min(TELLING_SECONDS * 2 / max(best.pass_seconds, 1e-4), 32)
            steps = min(max(round(steps * growth), steps + 1), self.peer.most_steps)
            best = self._try(self.peer.settings(), steps)
        for key, options in self.peer.alternatives.items():
            for option in options[1:]:
                try:
                    trial = self._try({**best.settings, key: option}, steps)
                except Exception as error:  # an option that does not work here is not the best
                    reason = f"{type(error).__name__}: {error}"[:200]
                    settings = {**best.settings, key: option}
                    self.tried.append({"settings": settings, "failed": reason})
                    continue
                if trial.step_seconds < best.step_seconds:
                    best = trial
        return best

    def _try(self, settings: dict[str, Any], steps: int) -> Trial:
        trial = Trial(self.peer, settings, steps)
        self.trials.append(trial)
        rate = self.peer.config.batch_size / trial.step_seconds
        self.tried.append({"settings": settings, "images_per_second": round(rate)})
        return trial

    def train(self) -> tuple[int, float]:
        """One block -> (images, seconds)."""
        began = time.perf_counter()
        self.peer.train(self.train_passes)
        return self.train_rows * self.train_passes, time.perf_counter() - began

    def evaluate(self) -> tuple[int, float]:
        """One block -> (images, seconds)."""
        began = time.perf_counter()
        self.peer.evaluate(self.test_passes)
        return self.test_rows * self.test_passes, time.perf_counter() - began
