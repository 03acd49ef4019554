"""The measuring: arithmetic against hand counts, blocks of the right size, failures kept apart."""

import jax
import numpy as np
import pytest

from flaxcnn import bench
from flaxcnn.data.datasets import load
from flaxcnn.engine.epoch import eval_batch
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool,
    MaxPool,
    Residual,
)

EVAL = eval_batch(devices=4)
SMALL = Config(dataset="digits", layers=(Flatten(), Dense(10)), batch_size=100)


@pytest.fixture(autouse=True)
def settings_of_jax_stay():
    """Measuring leaves jax's cache of programs out, for its process; tests share one."""
    used = jax.config.jax_enable_compilation_cache
    yield
    jax.config.update("jax_enable_compilation_cache", used)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXCNN_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def small_peak(monkeypatch):
    monkeypatch.setitem(bench.PEAK_SIZE, "cpu", 64)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


# -- arithmetic ----------------------------------------------------------------------------------


def test_flops_of_the_quickstart_by_hand():
    config = catalog.find("digits/quickstart").config
    first = 8 * 8 * 32 * 3 * 3 * 1
    others = 8 * 8 * 32 * 3 * 3 * 32 + 4 * 4 * 64 * 3 * 3 * 32 + 4 * 4 * 64 * 10
    assert bench.flops_per_image(config, (8, 8, 1), "eval") == 2 * (first + others)
    # first: forward and weights; others: forward, weights and input
    assert bench.flops_per_image(config, (8, 8, 1), "train") == 2 * (2 * first + 3 * others)


@pytest.mark.parametrize(
    ("layers", "spared"),
    [
        ((Flatten(), Dense(10)), 640),
        ((MaxPool(2), Dropout(0.1), Flatten(), Dense(10)), 160),
        # The statistics before it are of parameters: the convolution must hand a gradient down
        ((BatchNorm(), Flatten(), Dense(10)), 0),
        # Both ways of a block begin with the image
        ((Residual((Conv(4, 1), Conv(4, 1)), (Conv(4, 1),)), GlobalAvgPool(), Dense(10)), 512),
        ((Residual((MaxPool(1),)), Flatten(), Dense(10)), 640),
    ],
)
def test_layers_on_the_image_need_no_gradient_of_it(layers, spared):
    config = Config(dataset="digits", layers=layers)
    forward = bench.flops_per_image(config, (8, 8, 1), "eval")
    assert bench.flops_per_image(config, (8, 8, 1), "train") == 3 * forward - 2 * spared


# -- data ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_synthetic_data_have_the_sizes_of_the_real(name):
    made = bench.synthetic(name)
    rows, shape = {"digits": ((1437, 360), (8, 8, 1)), "cifar10": ((50000, 10000), (32, 32, 3))}[
        name
    ]
    assert ((len(made.train), len(made.test)), made.shape, made.num_classes) == (rows, shape, 10)
    assert set(np.unique(made.train.label)) == set(range(10))


def test_a_block_has_full_batches_whatever_the_data_have(digits):
    for mode, steps, batch, images in (("train", 20, 100, 2000), ("eval", 2, EVAL, 2 * EVAL)):
        program = bench.Program(bench.Case("x", mode, SMALL), digits, steps)
        assert (program.case.batch_size, program.images) == (batch, images)


# -- timing --------------------------------------------------------------------------------------


class Slow:
    """Takes what a clock of the test says: a call costs 1, and each step 0.1."""

    def __init__(self, steps=2):
        self.steps, self.runs = steps, 0

    def sized(self, steps):
        return Slow(steps)

    def run(self):
        self.runs += 1


def test_a_block_is_sized_until_it_takes_the_time(monkeypatch):
    monkeypatch.setattr(bench, "timed", lambda block: 1 + 0.1 * block.steps)
    block = bench.calibrated(Slow(), seconds=20, most=10**6)
    assert 10 <= bench.timed(block) <= 20
    assert block.runs >= 1
    assert bench.calibrated(Slow(), seconds=1, most=10**6).steps == 2
    assert bench.calibrated(Slow(), seconds=1000, most=7).steps == 7


def test_cases_and_peaks_take_turns(digits, monkeypatch, small_peak):
    order = []
    for kind in (bench.Program, bench.Peak):

        def run(self, kind=kind, real=kind.run):
            order.append(self.case.mode if kind is bench.Program else "peak")
            real(self)

        monkeypatch.setattr(kind, "run", run)  # fmt: skip
    cases = [bench.Case("x", mode, SMALL) for mode in ("train", "eval")]
    bench.measure(cases, digits, seconds=1e-6, repeats=3)
    assert order[-9:] == ["train", "eval", "peak"] * 3


def test_results_are_consistent(digits, small_peak):
    (row,), (peak,) = bench.measure(
        [bench.Case("x", "train", SMALL)], digits, seconds=0.01, repeats=3
    )
    images = row["steps"] * row["batch_size"]
    rates = sorted(images / one for one in row["block_seconds"])
    assert row["images_per_second"] == pytest.approx(rates[1])
    assert row["spread"] == pytest.approx([rates[0], rates[2]])
    assert row["flops_per_image"] == 2 * 640 * 2
    assert row["flops_per_second"] == pytest.approx(rates[1] * 2560)
    share = row["flops_per_second"] / peak["peak_flops_per_second"]
    assert row["share_of_peak"] == pytest.approx(share)
    assert (peak["size"], peak["devices"], peak["repeats"]) == (64, 4, 3)
    assert row["bytes"] > images * 64  # the pixels are arguments of the program
    assert row["peak_memory"] > row["bytes"]
    assert row["compile_seconds"] > 0


def test_a_case_that_fails_leaves_the_others(digits, monkeypatch, small_peak):
    real = bench.Program.run

    def run(self):
        if self.case.mode == "eval":
            raise RuntimeError("RESOURCE_EXHAUSTED:\n out of memory")
        real(self)

    monkeypatch.setattr(bench.Program, "run", run)
    cases = [bench.Case("x", mode, SMALL) for mode in ("eval", "train")]
    (failed, row), (peak,) = bench.measure(cases, digits, seconds=1e-6, repeats=1)
    assert failed["error"] == "RuntimeError: RESOURCE_EXHAUSTED: out of memory"
    assert set(row) <= set(failed)
    assert failed["images_per_second"] is None
    assert row["images_per_second"] > 0
    assert "error" not in row | peak


def test_a_peak_that_fails_leaves_the_cases(digits, monkeypatch):
    monkeypatch.setattr(bench.Peak, "run", lambda self: 1 / 0)
    (row,), (peak,) = bench.measure(
        [bench.Case("x", "eval", SMALL)], digits, seconds=1e-6, repeats=1
    )
    assert peak["peak_flops_per_second"] is None
    assert peak["error"].startswith("ZeroDivisionError")
    assert row["share_of_peak"] is None
    assert row["images_per_second"] > 0
