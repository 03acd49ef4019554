"""What each kind of augmentation costs: its share of a training step, and images/s beside others.

    python -m benchmarks.augment [--model NAME] [--kinds a,b] [--steps N] [--repeats N]
                                 [--peers PYTHON] [--output FILE]

The share is that of an epoch's program with the kind over the one without; both take turns, so that
what else the machine does falls on both alike. Alone, a kind is applied to a batch of 256 images of
32x32x3: here as one program, by torchvision's transforms v2 one image after the other with a draw
for each, on one core, and by Keras's layers on TensorFlow as a function of the batch. `--peers` is
a Python that has keras, tensorflow and torchvision; without it, others are left out. Results are
merged by kind.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH, SHAPE = 256, (32, 32, 3)
SECONDS = 1.0  # that a kind is repeated for, alone
# Kind -> torchvision's transform and Keras's layer with the same strength, where they have one.
PEERS = {
    "flip": ("RandomHorizontalFlip()", "RandomFlip('horizontal')"),
    "crop": ("RandomCrop(32, 4, padding_mode='reflect')", None),
    "rotate": ("RandomRotation(15, interpolation=BILINEAR)", "RandomRotation(15 / 360)"),
    "zoom": ("RandomAffine(0, scale=(0.9, 1.1), interpolation=BILINEAR)", "RandomZoom(0.1)"),
    "shear": ("RandomAffine(0, shear=10, interpolation=BILINEAR)", "RandomShear(0.1)"),
    "translate": (
        "RandomAffine(0, translate=(0.1, 0.1), interpolation=BILINEAR)",
        "RandomTranslation(0.1, 0.1)",
    ),
    "randomresizedcrop": ("RandomResizedCrop(32)", None),
    "elastic": ("ElasticTransform(68.0, 4.0)", "RandomElasticTransform()"),
    "randomerasing": ("RandomErasing()", "RandomErasing()"),
    "brightness": ("ColorJitter(brightness=0.2)", "RandomBrightness(0.2)"),
    "contrast": ("ColorJitter(contrast=0.2)", "RandomContrast(0.2)"),
    "saturation": ("ColorJitter(saturation=0.2)", "RandomSaturation(0.2)"),
    "hue": ("ColorJitter(hue=0.05)", "RandomHue(0.05)"),
    "grayscale": ("RandomGrayscale()", "RandomGrayscale()"),
    "blur": ("GaussianBlur(3)", "RandomGaussianBlur()"),
    "noise": ("Compose([ToDtype(torch.float32, scale=True), GaussianNoise()])", None),
    "randaugment": ("RandAugment(interpolation=BILINEAR)", "RandAugment()"),
    "trivialaugment": ("TrivialAugmentWide(interpolation=BILINEAR)", None),
    "augmix": ("AugMix(all_ops=False)", "AugMix()"),
}


def rate(once: Callable[[], Any]) -> float:
    """Images per second of a function that treats BATCH of them: the best of a second of calls."""
    once(), once()
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        began = time.perf_counter()
        once()
        best = min(best, time.perf_counter() - began)
    return BATCH / best


def pixels() -> np.ndarray:
    """Random images, uint8 [BATCH, *SHAPE]."""
    return np.random.default_rng(0).integers(0, 256, (BATCH, *SHAPE), np.uint8)


# -- in a Python of the peers' -------------------------------------------------------------------


def peer_rates(kinds: list[str]) -> dict[str, dict[str, float]]:
    """Kind -> images per second of each peer that has it."""
    import keras
    import tensorflow as tf
    import torch

    torch.set_num_threads(1)  # of tiny images more take longer; a loader would have two processes
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):  # a wheel for CUDA beside a torch without it misses them
        with contextlib.suppress(RuntimeError):
            library.define(f"{name}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    from torchvision.transforms import v2

    names = {**vars(v2), "torch": torch, "BILINEAR": v2.InterpolationMode.BILINEAR}
    images = torch.from_numpy(pixels()).movedim(-1, 1).contiguous()
    batch = tf.constant(pixels().astype(np.float32))
    found: dict[str, dict[str, float]] = {}
    for kind in kinds:
        with_torch, with_keras = PEERS.get(kind, (None, None))
        found[kind] = {}
        if with_torch:
            transform = eval(with_torch, dict(names))  # of the table above
            found[kind]["torchvision"] = rate(lambda f=transform: [f(x) for x in images])
        with contextlib.suppress(AttributeError):  # of an older Keras
            if with_keras:
                layer = eval(f"keras.layers.{with_keras}", {"keras": keras})
                apply = tf.function(lambda x, f=layer: f(x, training=True), autograph=False)
                found[kind]["keras"] = rate(lambda f=apply: f(batch).numpy())
    return found


# -- here ----------------------------------------------------------------------------------------


def every_kind() -> dict[str, Any]:
    """Name -> the kind with its defaults, of all that need no arguments."""
    import typing

    from flaxcnn.recipe import augment

    kinds = typing.get_args(augment.Augment)
    left_out = (augment.Policy, augment.Augmentation)
    return {kind.__name__.lower(): kind() for kind in kinds if kind not in left_out}


def own_rate(kind: Any) -> float:
    """Images per second of one kind alone, as one program."""
    import jax
    import jax.numpy as jnp

    from flaxcnn.augment.chain import augment, mixes, softens
    from flaxcnn.data.batches import Batch

    row = jnp.arange(BATCH, dtype=jnp.int32)
    batch = Batch(jnp.asarray(pixels()), row % 10, row, row >= 0)
    if mixes((kind,)):
        batch = dataclasses.replace(batch, partner=batch)
    apply = jax.jit(augment, static_argnums=(0, 5))
    given = jnp.zeros(4, jnp.uint32), jnp.int32(0), batch, jnp.zeros((1, 1, 1))
    classes = 10 if softens((kind,)) else 0
    return rate(lambda: jax.block_until_ready(apply((kind,), *given, classes)))


def shares(model: str, kinds: dict[str, Any], steps: int, repeats: int) -> dict[str, Any]:
    """Kind -> seconds of a step without and with it, each the quickest of its turns, and the share.

    The quickest, since whatever else the machine does only makes a step slower.
    """
    from benchmarks.parallel import Case
    from flaxcnn.bench import synthetic
    from flaxcnn.recipe.catalog import find

    config = find(model).config
    assert config is not None
    data = synthetic(config.dataset)
    without = Case(dataclasses.replace(config, augment=()), data, steps, True)
    without.step_seconds()
    found = {}
    for name, kind in kinds.items():
        case = Case(dataclasses.replace(config, augment=(kind,)), data, steps, True)
        case.step_seconds()
        turns = [(without.step_seconds(), case.step_seconds()) for _ in range(repeats)]
        before, after = (min(each) for each in zip(*turns, strict=True))
        found[name] = {
            "share": 1 - before / after, "step_seconds": after, "without_seconds": before,
            "compile_seconds": case.job.programs.seconds,
        }  # fmt: skip
        print(f"{name:20} {1e3 * after:8.2f} ms a step, {1 - before / after:6.1%}", flush=True)
    return found


def main() -> None:
    """Measure what is asked for, and merge it into the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.augment")
    parser.add_argument("--model", default="cifar-tuning/model1")
    parser.add_argument("--kinds", default="")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", default="")
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--peer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        print(json.dumps(peer_rates(options.kinds.split(","))))
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when jaxlib is imported
    from benchmarks.peers import record
    from flaxcnn import backend
    from flaxcnn.records.environment import source_revision
    from flaxcnn.records.files import plain, write_atomic

    backend.prepare()
    known = every_kind()
    kinds = {name: known[name] for name in options.kinds.split(",")} if options.kinds else known
    output = options.output or record.FOLDER / "augment-cpu.json"
    document: dict[str, Any] = {"kinds": {}}
    with contextlib.suppress(FileNotFoundError):
        document = json.loads(output.read_text())
    others: dict[str, dict[str, float]] = {}
    if options.peers:
        command = [options.peers, __file__, "--peer", "--kinds", ",".join(kinds)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        others = json.loads(done.stdout.splitlines()[-1])
    for name, found in shares(options.model, kinds, options.steps, options.repeats).items():
        alone = {"flaxcnn": own_rate(kinds[name]), **others.get(name, {})}
        kept = document["kinds"].get(name, {}).get("images_per_second", {})
        document["kinds"][name] = plain({**found, "images_per_second": {**kept, **alone}})
    document |= {
        "model": options.model, "steps": options.steps, "repeats": options.repeats,
        "batch": BATCH, "load": os.getloadavg()[0], "source_revision": source_revision(),
        "environment": record.environment(backend.cores(), "cpu"),
    }  # fmt: skip
    write_atomic(output, json.dumps(document, indent=1).encode() + b"\n")


if __name__ == "__main__":
    sys.exit(main())
