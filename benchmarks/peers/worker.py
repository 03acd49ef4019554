"""One peer in a process of its own: commands as JSON lines in, answers as JSON lines out.

    python -m benchmarks.peers.worker PEER THREADS

    {"do": "build", "task": {...}}    ready, with its settings and the sizes of its blocks
    {"do": "train"}                   one block -> images, seconds
    {"do": "evaluate"}                one block -> images, seconds
    {"do": "start", "task": {...}}    to the end of the first training step
    {"do": "whole", "task": {...}}    one epoch, validation and test as a user's script has them
    {"do": "quit"}

Every answer is one line, `{"failed": reason}` where it did not work. Frameworks print what they
like: their stdout is the stderr of this process, and the pipe is out of their reach.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from typing import IO, Any

MODULES = {
    "flaxcnn": "with_flaxcnn",
    "keras-tensorflow": "with_keras",
    "keras-jax": "with_keras",
    "torch": "with_torch",
    "torch-compile": "with_torch_compile",
    "flax": "with_flax",
}


def pin(threads: int) -> None:
    """Run on the first `threads` of the cores that this process may use, before any import."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def take_pipes() -> tuple[IO[str], IO[str]]:
    """(commands, answers); afterwards stdin is empty and stdout is stderr, for C code as well."""
    commands = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return commands, answers


class Session:
    """What one worker holds between commands."""

    def __init__(self, peer: str):
        self.name = peer
        self.blocks: Any = None

    def make(self, plain: dict[str, Any]) -> Any:
        """Import the framework and give it the task."""
        from benchmarks.peers.task import Task

        module = importlib.import_module(f"benchmarks.peers.{MODULES[self.name]}")
        return module.PEER(Task.from_dict(plain))

    def build(self, task: dict[str, Any]) -> dict[str, Any]:
        from benchmarks.peers.peer import Blocks

        peer = self.make(task)
        self.blocks = Blocks(peer)
        return {
            "device": peer.device(), "params": peer.parameters(), "pixels": peer.pixels,
            "settings": self.blocks.settings, "tried": self.blocks.tried,
            "build_seconds": self.blocks.ready, "batch_size": peer.config.batch_size,
            "train_rows": self.blocks.train_rows, "train_passes": self.blocks.train_passes,
            "eval_batch": peer.eval_batch,
            "test_rows": self.blocks.test_rows, "test_passes": self.blocks.test_passes,
        }  # fmt: skip

    def train(self) -> dict[str, Any]:
        images, seconds = self.blocks.train()
        return {"images": images, "seconds": seconds, "peak_bytes": peak_bytes()}

    def evaluate(self) -> dict[str, Any]:
        images, seconds = self.blocks.evaluate()
        return {"images": images, "seconds": seconds, "peak_bytes": peak_bytes()}

    def start(self, task: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        peer = self.make(task)
        peer.be({**peer.settings(), **settings})
        peer.use(peer.config.batch_size, peer.eval_batch)
        peer.train(1)
        return {"device": peer.device(), "pixels": peer.pixels}

    def whole(self, task: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        from benchmarks.peers.task import epoch_rows, whole_batches

        peer = self.make(task)
        peer.be({**peer.settings(), **settings})
        train, held = epoch_rows(peer.config, peer.data)
        # Whole batches only: a shorter one at the end would be compiled anew by some.
        train = whole_batches(train, peer.config.batch_size)
        peer.use(train, whole_batches(held, peer.eval_batch))
        peer.train(1)
        peer.evaluate(1)
        return {"device": peer.device(), "pixels": peer.pixels, "train_rows": train}


def peak_bytes() -> int:
    """The most memory that this process has held."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def answer(session: Session, command: dict[str, Any]) -> dict[str, Any]:
    """What a command gives, or why it gives nothing."""
    arguments = {key: value for key, value in command.items() if key != "do"}
    action: Callable[..., dict[str, Any]] = getattr(session, command["do"])
    try:
        return action(**arguments)
    except Exception as error:
        traceback.print_exc()
        text = " ".join(str(error).split())
        return {"failed": f"{type(error).__name__}: {text}"[:300]}


def main() -> None:
    """Serve commands until `quit`, or until nobody is there to give any."""
    peer, threads = sys.argv[1], int(sys.argv[2])
    pin(threads)
    commands, answers = take_pipes()
    session = Session(peer)
    for line in commands:
        command = json.loads(line)
        if command["do"] == "quit":
            break
        print(json.dumps(answer(session, command)), file=answers, flush=True)
    os._exit(0)  # some frameworks' threads would hold the process up for seconds


if __name__ == "__main__":
    main()
