"""What jax hands to the compilers of GPUs and TPUs, counted: no accelerator, no extra wheel."""

import dataclasses
import functools
import json
import math
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks.peers import models
from flaxcnn import speedrun
from flaxcnn.accelerators import programs
from flaxcnn.augment.chain import augment, mixes, softens
from flaxcnn.data.batches import Batch
from flaxcnn.engine import sharding
from flaxcnn.engine.whole import whole_run
from flaxcnn.recipe import augment as augmentation
from flaxcnn.recipe import catalog
from flaxcnn.recipe.layers import BatchNorm, Conv, Dense, Flatten, Residual
from flaxcnn.recipe.views import Views

PLATFORMS = {"cuda": "gpu", "tpu": "tpu"}  # jax's name of a platform -> BatchSharding.platform
TRAINABLE = sorted(name for name, one in catalog.experiments().items() if one.config is not None)
OWN = sorted(models.OWN)
# Every recipe for one of the two, and these for both
BOTH = ["digits/quickstart", "mnist-ladder/model10", "cifar-tuning/model1", "mnist-archs/arch1-k7"]
CASES = [(name, ("cuda", "tpu")[i % 2]) for i, name in enumerate([*TRAINABLE, *OWN])]
CASES += [(name, p) for name in BOTH for p in PLATFORMS if (name, p) not in CASES]


def lowered(monkeypatch, config, platform, program="train_epoch", width=0):
    """StableHLO of a program for `platform`, whatever the devices of this process are."""
    monkeypatch.setattr(sharding, "platform", lambda: PLATFORMS[platform])
    job, state = programs.abstract_job(config, 1, width, steps=2)
    return (
        job.traced(programs.PROGRAMS[program], state)
        .lower(lowering_platforms=(platform,))
        .as_text()
    )


def count(text, op):
    return len(re.findall(rf'"?stablehlo\.{op}"?[ (<]', text))


def convolutions(layers):
    return sum(
        isinstance(one, Conv)
        + (convolutions((*one.layers, *one.shortcut)) if isinstance(one, Residual) else 0)
        for one in layers
    )


def check(text):
    """What holds of every program."""
    assert count(text, "scatter") == 0  # one row after the other where it must be deterministic
    assert count(text, "select_and_scatter") == 0  # likewise
    assert count(text, "optimization_barrier") == 0  # each a round trip through memory
    assert count(text, "custom_call") == 0  # no call back to the host, none for a CPU alone
    assert count(text, "while") == 1
    assert "f64" not in text


@pytest.mark.parametrize(("name", "platform"), CASES)
def test_a_training_program_of_every_recipe(monkeypatch, name, platform):
    config = models.find(name)
    text = lowered(monkeypatch, config, platform)
    check(text)
    # Each layer forward, its weights' and its input's gradient; nobody needs the images' gradient
    assert count(text, "convolution") == max(3 * convolutions(config.layers) - 1, 0)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("program", ["evaluate", "alive_units"])
@pytest.mark.parametrize("name", ["mnist-ladder/model10", "batchnorm-cnn"])
def test_the_other_programs(monkeypatch, name, program, platform):
    config = models.find(name)
    text = lowered(monkeypatch, config, platform, program)
    check(text)
    assert count(text, "convolution") == convolutions(config.layers)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_bfloat16_products_take_bfloat16(monkeypatch, platform):
    config = catalog.resolve(
        catalog.find("mnist-ladder/model10"), assignments=["precision=bfloat16"], environ={}
    )[0]
    text = lowered(monkeypatch, config, platform)
    check(text)
    found = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert all("bf16" in line for line in found)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_study_stacked(monkeypatch, platform):
    config = models.find("mnist-ladder/model10")
    check(lowered(monkeypatch, config, platform, width=8))


# Every kind of augmentation for one of the two, and some that they do in their own ways for both
AUGMENT = {name: getattr(augmentation, name)() for name in augmentation.__all__
           if name not in ("Augment", "Augmentation", "Policy")}  # fmt: skip
AUGMENT["Policy"] = augmentation.Policy((augmentation.Blur(), augmentation.CutMix()))
AUGMENTED = [(name, ("cuda", "tpu")[i % 2]) for i, name in enumerate(AUGMENT)]
AUGMENTED += [(name, p) for name in ("Rotate", "TrivialAugment") for p in PLATFORMS
              if (name, p) not in AUGMENTED]  # fmt: skip


@pytest.mark.parametrize(("name", "platform"), AUGMENTED)
def test_augmentation_of_every_kind(name, platform):
    """No scatter, loop or sort; and on a TPU no gather of single pixels, one after the other."""
    chain, shape = (AUGMENT[name],), (16, 16, 3)
    like = lambda dtype, *shape: jax.ShapeDtypeStruct(shape, dtype)  # noqa: E731
    rows = (like("uint8", 8, *shape), like("int32", 8), like("int32", 8), like("bool", 8))
    batch = Batch(*rows, partner=Batch(*rows) if mixes(chain) else None)
    classes = 10 if softens(chain) else 0
    text = (
        jax.jit(lambda *given: augment(chain, *given, classes, PLATFORMS[platform]))
        .trace(like("uint32", 4), like("int32"), batch, like("float32", 1, 1, 3))
        .lower(lowering_platforms=(platform,))
        .as_text()
    )
    for op in ("scatter", "while", "sort", "custom_call"):
        assert count(text, op) == 0, op
    assert "f64" not in text
    if platform == "tpu":
        # Rows of pixels, or a number for each image of the batch; never pixels one by one
        sizes = re.findall(r'"stablehlo.gather".*slice_sizes = array<i64: ([\d, ]+)>.*-> '
                           r"tensor<([\dx]+)x\w+>", text)  # fmt: skip
        assert len(sizes) == text.count('"stablehlo.gather"(')
        for taken, result in sizes:
            number = math.prod(map(int, result.split("x"))) // math.prod(map(int, taken.split(",")))
            assert number <= 8 * shape[0], (taken, result)


def test_exact_mode_keeps_its_shards_apart(monkeypatch):
    """Barriers are what it is made of: the check above would see them."""
    config = catalog.resolve(
        catalog.find("digits/quickstart"), environ={},
        assignments=["determinism=exact", "virtual_shards=4", "batch_norm=per_shard"],
    )[0]  # fmt: skip
    text = lowered(monkeypatch, config, "cuda")
    assert count(text, "optimization_barrier") > 0
    assert count(text, "scatter") == count(text, "custom_call") == 0


SHARED = """
import json, re, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
from benchmarks.peers import models
from flaxcnn.accelerators import programs
from flaxcnn.engine import sharding
found = {}
for name in sys.argv[1:]:
    for platform, own in {"cuda": "gpu", "tpu": "tpu"}.items():
        sharding.platform = lambda: own
        job, state = programs.abstract_job(models.find(name), 8, steps=2)
        traced = job.traced(programs.PROGRAMS["train_epoch"], state)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        found[f"{name} {platform}"] = len(re.findall('"?stablehlo.all_reduce"?[ (<]', text))
print(json.dumps(found))
"""


def test_exchanges_of_eight_devices():
    """One a step without batch normalisation, and at most one more for each layer that has it."""
    names = ["mnist-ladder/model10", "batchnorm-cnn"]
    done = subprocess.run(
        [sys.executable, "-c", SHARED, *names], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    norms = sum(isinstance(one, BatchNorm) for one in models.find("batchnorm-cnn").layers)
    for platform in PLATFORMS:
        assert found[f"mnist-ladder/model10 {platform}"] == 1
        # Forward and backward exchange at different times, so each layer has two
        assert found[f"batchnorm-cnn {platform}"] <= 2 * norms + 1


def test_shapes_are_those_of_a_run(digits_job):
    """The programs counted here are those that a run compiles, argument by argument."""
    job, state = digits_job
    abstract, shapes = programs.abstract_job(job.config, job.plan.sharding.devices, steps=10**6)
    like = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert like(shapes) == like(state)
    assert like(abstract.hypers) == like(job.hypers)
    assert like(abstract.data) == like(job.data)
    lengths = lambda rows: {name: len(part) for name, part in vars(rows).items()}  # noqa: E731
    assert lengths(abstract.rows) == lengths(job.rows)
    assert abstract.plan == job.plan


@pytest.fixture(scope="module")
def digits_job():
    from flaxcnn.data.datasets import load
    from flaxcnn.engine.make_job import make_job

    job = make_job(models.find("digits/quickstart"), load("digits"))
    return job, job.init()


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_whole_run_is_one_program_without_the_host(monkeypatch, platform):
    """Of a small recipe with all that cifar-speed/94 has: its one call is for the eigenvectors."""
    record = catalog.find("cifar-speed/94").config
    layers = (
        Conv(4, 2, init="whiten"),
        Conv(4, 3, init="dirac"),
        BatchNorm(),
        Flatten(),
        Dense(10),
    )
    config = dataclasses.replace(
        record, dataset="digits", layers=layers, batch_size=500, epochs=3,
        tta=Views(False, 1, share=0.25),
    )  # fmt: skip
    monkeypatch.setattr(sharding, "platform", lambda: PLATFORMS[platform])
    job, _ = programs.abstract_job(speedrun.whole_recipe(config), 1, 0)
    of = lambda shape, kind: jax.ShapeDtypeStruct(shape, kind, sharding=job.placement)  # noqa: E731
    test = (of((1, 360), np.int32), of((1, 360), bool))
    run = functools.partial(whole_run, job.plan, job.config, job.dataset.shape)
    traced = jax.jit(run).trace(
        of((4,), np.uint32), job.hypers, job.data, of((len(job.rows.train),), np.int32), test
    )
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    called = set(re.findall(r"custom_call @(\w+)", text))
    assert called <= {"cusolver_syevd_ffi", "Eigh", "mhlo.topk"}, called
    assert len(called) == 1
    assert "callback" not in text
    assert "f64" not in text
