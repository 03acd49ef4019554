"""A streamed run has the rows, the bits and the records of the run whose data fits."""

import dataclasses
import json
import multiprocessing
import os
import signal

import jax
import numpy as np
import pytest
from PIL import Image
from small_runs import TINY

from flaxcnn.data import datasets
from flaxcnn.engine.job import Job
from flaxcnn.engine.make_job import make_job
from flaxcnn.engine.train import fit
from flaxcnn.errors import ConfigError, InterruptedRun, ReaderError
from flaxcnn.recipe.augment import Flip
from flaxcnn.recipe.layers import BatchNorm, Conv, Dense, Flatten, MaxPool
from flaxcnn.recipe.resize import Resize
from flaxcnn.studies.study import study

pytestmark = pytest.mark.usefixtures("compile_once")

TIMES = ("seconds", "images_per_second", "stall")
SAME = ("params_digest", "train_loss", "val_loss", "test_loss", "test_accuracy", "dead_units",
        "dead_units_init", "kept_epoch", "fingerprint", "split_digest")  # fmt: skip
# Eight chunks are to fit this: two batches of 100 digits, and none of 1000, which make one anyway
LITTLE = 8 * 64 * 250
PICTURES = dataclasses.replace(
    TINY, dataset="folder:to be said",
    layers=(Conv(4, 3, activation="relu"), BatchNorm(), MaxPool(2), Flatten(), Dense(3)),
    resize=Resize(12, 10), augment=(Flip(),), batch_size=16, epochs=3, learning_rate=0.01,
    workers=2,
)  # fmt: skip


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """folder: of three classes of 30 images of differing size."""
    root, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number, name in enumerate("abc"):
        (root / name).mkdir()
        for i in range(30):
            coarse = random.integers(80 * number, 80 * number + 96, (3, 3, 3), np.uint8)
            size = tuple(random.integers(10, 20, 2))
            Image.fromarray(coarse).resize(size).save(root / name / f"{i}.png")
    return f"folder:{root}"


def run(path, recipe, **options):
    result = fit(recipe, datasets.load_for(recipe), path, **options)
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    return {key: result.summary[key] for key in SAME}, kept, lines


def logits(path):
    return np.load(path / "predictions.npz")["logits"]


@pytest.mark.parametrize("determinism", ["fast", "exact"])
@pytest.mark.parametrize("drop_last", [pytest.param(False, marks=pytest.mark.slow), True])
def test_streamed_digits_have_the_bits_of_resident_ones(tmp_path, determinism, drop_last):
    recipe = dataclasses.replace(
        TINY, epochs=3, determinism=determinism, drop_last=drop_last, augment=(Flip(),)
    )
    held = run(tmp_path / "held", recipe)
    streamed = run(
        tmp_path / "streamed", dataclasses.replace(recipe, input="stream", data_memory=LITTLE)
    )
    assert held[:2] == streamed[:2]
    np.testing.assert_array_equal(logits(tmp_path / "held"), logits(tmp_path / "streamed"))
    assert all("stall" not in line for line in held[2])
    assert all(0 <= line["stall"] <= 1 for line in streamed[2])


@pytest.mark.slow
def test_streamed_files_have_the_bits_of_resident_ones(tmp_path, pictures):
    recipe = dataclasses.replace(PICTURES, dataset=pictures, normalize="per_channel")
    held = run(tmp_path / "held", recipe)
    streamed = run(
        tmp_path / "streamed", dataclasses.replace(recipe, input="stream", data_memory=20_000)
    )
    assert held[:2] == streamed[:2]
    np.testing.assert_array_equal(logits(tmp_path / "held"), logits(tmp_path / "streamed"))


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_and_the_run_resumes(tmp_path, pictures):
    recipe = dataclasses.replace(
        PICTURES, dataset=pictures, resize=Resize(12, 10, "random_crop", "center_crop")
    )
    whole = run(tmp_path / "whole", dataclasses.replace(recipe, workers=0))

    def kill(metrics):
        if metrics["epoch"] == 1:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    path = tmp_path / "killed"
    with pytest.raises(ReaderError, match="one of 2 processes"):
        run(path, recipe, on_epoch=kill)
    assert json.loads((path / "status.json").read_text())["status"] == "failed"
    assert not multiprocessing.active_children()
    again = run(path, dataclasses.replace(recipe, workers=1), resume=True)
    assert again[:2] == whole[:2]


@pytest.mark.slow
def test_a_signal_is_heard_between_chunks_and_the_run_resumes(tmp_path):
    recipe = dataclasses.replace(TINY, epochs=3, input="stream", data_memory=LITTLE)
    whole = run(tmp_path / "whole", recipe)

    def stop(metrics):
        if metrics["epoch"] == 2:
            signal.raise_signal(signal.SIGTERM)

    path = tmp_path / "stopped"
    with pytest.raises(InterruptedRun) as error:
        run(path, recipe, on_epoch=stop)
    assert error.value.exit_code == 75
    assert run(path, recipe, resume=True)[:2] == whole[:2]


def test_a_pass_may_be_stopped_between_chunks_and_done_again(digits):
    recipe = dataclasses.replace(TINY, input="stream", data_memory=LITTLE)
    job = make_job(recipe, digits)
    held = make_job(dataclasses.replace(TINY, input="resident"), digits)
    calls = []

    def stop():
        calls.append(None)
        if len(calls) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        job.evaluate(job.init(), "train", stop)
    calls.clear()
    with pytest.raises(InterruptedError):  # with the validation rows on their way
        job.train_epoch(job.init(), stop)
    state = job.init()
    for program, split in ((Job.evaluate, "train"), (Job.predict, "test"),
                           (Job.evaluate, "validation")):  # fmt: skip
        found, expected = program(job, state, split), program(held, state, split)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_array_equal(a, b)
    job.close()


def test_chunks_fit_the_memory_that_is_given(digits):
    for memory, chunk in ((1, 1), (8 * 64 * 450, 4), (2**30, 13)):  # 13 batches make an epoch
        job = make_job(dataclasses.replace(TINY, input="stream", data_memory=memory), digits)
        assert job.stream.chunk_shape("train", training=True) == (chunk, 100)
        job.close()


def test_a_study_refuses_what_would_be_streamed(tmp_path, digits):
    with pytest.raises(ConfigError, match="a study holds its data on the device"):
        study(dataclasses.replace(TINY, input="stream"), range(2), study_dir=tmp_path / "study",
              dataset=digits)  # fmt: skip
    assert not (tmp_path / "study").exists()
