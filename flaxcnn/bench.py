"""How fast recipes train and evaluate here, beside what the machine can do at most.

Only the engine's own programs are timed: those that `flaxcnn train` runs, over as many full batches
as take about the seconds asked for. Compilation is apart, a first call warms up, and the cases of
one experiment take turns, so that whatever else the machine does meanwhile touches all of them.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn import backend
from flaxcnn.activity import doing
from flaxcnn.data.arrays import Dataset, Split, repeated
from flaxcnn.data.datasets import listing
from flaxcnn.engine.epoch import eval_batch
from flaxcnn.engine.job import COMPUTED_IN, products
from flaxcnn.engine.make_job import make_job
from flaxcnn.engine.sharding import choose_sharding, platform
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.execution import PRECISIONS
from flaxcnn.recipe.layers import Layer, Shape, branches_of, table, totals
from flaxcnn.recipe.splits import Archive

DTYPES = {precision: short for short, precision in PRECISIONS.items()}
MIN_STEPS = 2  # of one block
CALIBRATIONS = 3  # times that a block is resized, until it takes about the seconds asked for
MAX_IMAGE_BYTES = 2**30  # of one case on the device; a block of tiny images stays shorter then
OTHER_ROWS = 1000  # kept of the split that a case does not run
# Large enough for the full rate of a matrix product, small enough for any memory
PEAK_SIZE = {"cpu": 1024}
PEAK_SIZE_ACCELERATOR = 8192


@dataclass(frozen=True)
class Case:
    """One thing to time; `config` has the batch size and the precision of this case."""

    experiment: str
    mode: str  # "train" or "eval"
    config: Config

    @property
    def dtype(self) -> str:
        """Precision of the computation, as results name it."""
        return DTYPES[self.config.precision]

    @property
    def batch_size(self) -> int:
        """Rows of one step; evaluation has a batch of its own, whatever the recipe says."""
        if self.mode == "train":
            return self.config.batch_size
        return eval_batch(choose_sharding(self.config).devices)

    @property
    def folder(self) -> str:
        """A name for files."""
        name = self.experiment.replace("/", "-")
        return f"{name}-{self.mode}-{self.batch_size}-{self.dtype}"


# -- arithmetic ----------------------------------------------------------------------------------


def flops_per_image(config: Config, shape: Shape, mode: str, classes: int = 0) -> int:
    """Floating-point operations of one image of `shape` (H, W, C), from the recipe alone.

    A multiply-add counts as 2; only convolutions and dense layers count. Training takes three times
    the forward pass (the pass, the gradient of the weights, the gradient of the input), less the
    gradient of the images, which nobody needs.
    """
    if config.model is not None:  # whose parts are not known one by one
        forward = 2 * totals(config.table(shape, classes))["macs"]
        return forward if mode == "eval" else 3 * forward
    forward = 2 * totals(table(config.layers, shape))["macs"]
    return forward if mode == "eval" else 3 * forward - 2 * _macs_on_images(config.layers, shape)


def _macs_on_images(layers: Sequence[Layer], shape: Shape) -> int:
    """Multiply-adds of the layers with no parameters before them, on any way through a block."""
    for layer in layers:
        inside = totals(table((layer,), shape))
        if inside["trainable_params"] and (ways := branches_of(layer)):
            return sum(_macs_on_images(way, shape) for way in ways)
        if inside["trainable_params"]:
            return inside["macs"]
        shape = layer.out(shape)
    return 0


# -- data ----------------------------------------------------------------------------------------


def synthetic(name: str) -> Dataset:
    """Random pixels and labels in the sizes of the built-in data set `name`, always the same."""
    (facts,) = [entry for entry in listing() if entry["name"] == name]
    random = np.random.default_rng(0)
    splits = [
        Split(
            random.integers(0, 256, (rows, *facts["shape"]), np.uint8),
            random.integers(0, facts["classes"], rows, np.int32),
        )
        for rows in (facts["train"], facts["test"])
    ]
    classes = tuple(str(label) for label in range(facts["classes"]))
    return Dataset(f"synthetic {name}", splits[0], splits[1], classes, digest="")


def all_rows_train(config: Config) -> Config:
    """The recipe with no row of the train split held out, so that its epoch is as long as that."""
    return dataclasses.replace(config, split=Archive(), protocol="document", validation="test")


# -- what is timed -------------------------------------------------------------------------------


class Program:
    """`steps` training or evaluation steps of a case as the one program that `train` runs too."""

    def __init__(self, case: Case, data: Dataset, steps: int = MIN_STEPS, state: Any = None):
        self.case, self.data, self.steps = case, data, steps
        rows = steps * case.batch_size
        train, test = (rows, 1) if case.mode == "train" else (OTHER_ROWS, rows)
        sized = dataclasses.replace(
            data, train=repeated(data.train, train), test=repeated(data.test, test)
        )
        self.job = make_job(all_rows_train(case.config), sized)
        self.state = self.job.init() if state is None else state
        if case.mode == "train":
            self.images, compiled = len(self.job.rows.train), self.job.train_program(self.state)
        else:
            self.images = len(self.job.rows.test)
            compiled = self.job.eval_program(self.state, "test")
        self.bytes = _bytes(compiled.memory_analysis())

    def sized(self, steps: int) -> Program:
        """The same over another number of steps: another program, going on from this state."""
        return Program(self.case, self.data, steps, self.state)

    def run(self) -> None:
        """One call; training goes on from where the last call ended."""
        if self.case.mode == "train":
            self.state, sums = self.job.train_epoch(self.state)  # donates the state that went in
        else:
            sums = self.job.evaluate(self.state, "test")
        jax.block_until_ready((self.state, sums))


def _bytes(memory: Any) -> int | None:
    """What a program holds on each device: arguments, outputs, temporaries; None if untold."""
    if memory is None:
        return None
    held = memory.argument_size_in_bytes + memory.output_size_in_bytes
    return int(held + memory.temp_size_in_bytes - memory.alias_size_in_bytes)


class Peak:
    """`steps` matrix products on every device at once, at the precision that layers have too."""

    def __init__(self, precision: str):
        self.steps = MIN_STEPS
        self.devices = jax.devices()
        self.size = PEAK_SIZE.get(jax.default_backend(), PEAK_SIZE_ACCELERATOR)
        one = np.random.default_rng(0).normal(size=(self.size, self.size)) / np.sqrt(self.size)
        self.products = products(precision, platform())
        matrix = jnp.asarray(one, COMPUTED_IN[precision])
        self.matrix = [jax.device_put(matrix, device) for device in self.devices]

    def sized(self, steps: int) -> Peak:
        """The same with another number of products, which is an argument of the program."""
        self.steps = steps
        return self

    def run(self) -> None:
        """Start the products on all devices, then wait for all."""
        # The count goes where the matrix is: what is on no device in particular follows the rest
        steps = np.int32(self.steps)
        jax.block_until_ready([_products(one, steps, self.products) for one in self.matrix])


@functools.partial(jax.jit, static_argnums=2)
def _products(matrix: jax.Array, count: jax.Array, precision: str | None) -> jax.Array:
    """[n, n] times itself, `count` times; entries of variance 1/n keep the values in range."""
    times = lambda _, x: jnp.matmul(x, matrix, precision=precision)  # noqa: E731
    return jax.lax.fori_loop(0, count, times, matrix)


# -- timing --------------------------------------------------------------------------------------


def timed(block: Program | Peak) -> float:
    """Seconds of one run."""
    began = time.perf_counter()
    block.run()
    return time.perf_counter() - began


def calibrated(block: Any, seconds: float, most: int) -> Any:
    """`block` with 2 to `most` steps, such that it takes about `seconds`, half of it at the least.

    Few steps tell the time of one badly where a call costs much, hence a second guess.
    """
    for _ in range(CALIBRATIONS):
        block.run()  # warm
        took = min(timed(block) for _ in range(3))
        if took >= seconds / 2 or block.steps >= most:
            return block
        steps = round(block.steps * seconds / took)
        block = block.sized(min(most, max(block.steps + 1, steps)))
    block.run()
    return block


@dataclass
class Timing:
    """A block with its times so far, or with what went wrong."""

    make: Callable[[], Any]
    what: str = "a block"
    block: Any = None
    seconds: list[float] = field(default_factory=list)
    error: str = ""

    def attempt(self, what: Callable[[], Any]) -> None:
        """Do it unless something went wrong before; whatever does is kept, not raised."""
        if self.error:
            return
        try:
            what()
        except Exception as error:  # one case must not take the others with it
            self.error = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self.block = None

    def prepare(self) -> None:
        """Compile, calibrate and warm up."""
        self.block = self.make()

    def once(self) -> None:
        """One more timed run."""
        self.seconds.append(timed(self.block))

    def rate(self, amount: float) -> tuple[float, list[float]]:
        """Median and [lowest, highest] of `amount` per second, over the runs."""
        rates = [amount / one for one in self.seconds]
        return statistics.median(rates), [min(rates), max(rates)]


def measure(
    cases: Sequence[Case],
    data: Dataset,
    seconds: float = 1.0,
    repeats: int = 5,
    profile: Path | None = None,
    on_turn: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Time the cases of one experiment in turns -> (a result for each case, a peak for each dtype).

    Round r runs every case once and a matrix product of every dtype once; `on_turn` hears how many
    turns are done, of how many. A case that fails has an `error` and takes no other with it. With
    `profile`, a trace of one more block of each case is in a folder of its own there.
    """
    backend.prepare(cache=False)  # a program out of the cache has no compile time
    timings = [Timing(_maker(case, data, seconds), case.folder) for case in cases]
    peaks = {each: Timing(_peak_maker(each, seconds), f"matrix products in {DTYPES[each]}")
             for each in dict.fromkeys(case.config.precision for case in cases)}  # fmt: skip
    turns = [*timings, *peaks.values()]
    steps = [(one, one.prepare) for one in turns] + [(one, one.once) for one in turns * repeats]
    for number, (one, step) in enumerate(steps):
        on_turn(number, len(steps))
        with doing(f"timing {one.what}"):
            one.attempt(step)
    peak_rows = {precision: _peak(cases[0].experiment, precision, one)
             for precision, one in peaks.items()}  # fmt: skip
    results = []
    for case, one in zip(cases, timings, strict=True):
        best = peak_rows[case.config.precision]["peak_flops_per_second"]
        results.append(_result(case, data, one, best))
        if profile is not None:
            _trace(one, profile / case.folder, results[-1])
    return results, list(peak_rows.values())


def _maker(case: Case, data: Dataset, seconds: float) -> Callable[[], Program]:
    most = max(MIN_STEPS, MAX_IMAGE_BYTES // (case.batch_size * math.prod(data.shape)))
    return lambda: calibrated(Program(case, data), seconds, most)


def _peak_maker(precision: str, seconds: float) -> Callable[[], Peak]:
    return lambda: calibrated(Peak(precision), seconds, sys.maxsize)


# -- results -------------------------------------------------------------------------------------


def _result(case: Case, data: Dataset, timing: Timing, peak: float | None) -> dict[str, Any]:
    """One entry of `results`; what a failed case does not have is None."""
    flops = flops_per_image(case.config, data.shape, case.mode, data.num_classes)
    row: dict[str, Any] = {
        "experiment": case.experiment, "mode": case.mode, "batch_size": case.batch_size,
        "dtype": case.dtype, "images_per_second": None, "spread": None, "compile_seconds": None,
        "flops_per_image": flops, "flops_per_second": None, "share_of_peak": None, "bytes": None,
        "peak_memory": peak_memory(), "steps": None, "repeats": len(timing.seconds),
        "block_seconds": timing.seconds,
    }  # fmt: skip
    if timing.error:
        return row | {"error": timing.error}
    program: Program = timing.block
    rate, spread = timing.rate(program.images)
    return row | {
        "images_per_second": rate,
        "spread": spread,
        "compile_seconds": program.job.programs.seconds,
        "flops_per_second": rate * flops,
        "share_of_peak": rate * flops / peak if peak else None,
        "bytes": program.bytes,
        "steps": program.steps,
    }


def _peak(experiment: str, precision: str, timing: Timing) -> dict[str, Any]:
    """One entry of `peak`: the rate of matrix products while this experiment was timed."""
    row: dict[str, Any] = {"experiment": experiment, "dtype": DTYPES[precision]}
    if timing.error:
        return row | {"peak_flops_per_second": None, "error": timing.error}
    block: Peak = timing.block
    rate, spread = timing.rate(2 * block.size**3 * block.steps * len(block.devices))
    return row | {
        "peak_flops_per_second": rate,
        "spread": spread,
        "size": block.size,
        "devices": len(block.devices),
        "steps": block.steps,
        "repeats": len(timing.seconds),
    }


def peak_memory() -> int | None:
    """Most bytes held at once so far: by this process on CPU, else on the fullest device."""
    if jax.default_backend() == "cpu":
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.devices()]
    return max((int(one) for one in peaks if one is not None), default=None)


def _trace(timing: Timing, folder: Path, row: dict[str, Any]) -> None:
    """Profile one more block; the entry says where, or what went wrong."""

    def traced() -> None:
        with jax.profiler.trace(str(folder), create_perfetto_trace=True):
            timing.block.run()
        row["profile"] = str(folder)

    timing.attempt(traced)
    if timing.error:
        row["error"] = timing.error
