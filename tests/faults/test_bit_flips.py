"""One flipped bit anywhere in what a run or a study left: found and named, or without effect."""

import gc
import json
import shutil
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from flaxcnn.data import datasets
from flaxcnn.engine.digest import tree_digest
from flaxcnn.engine.saved import open_run
from flaxcnn.engine.train import fit
from flaxcnn.errors import FlaxcnnError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Conv, Dense, Flatten, MaxPool
from flaxcnn.recipe.optimizers import SGD
from flaxcnn.records.read import read_study
from flaxcnn.records.study import predictions_file
from flaxcnn.studies.study import study

TINY = Config(
    dataset="digits", layers=(Conv(2, 3, activation="relu"), MaxPool(2), Flatten(), Dense(10)),
    optimizer=SGD(), learning_rate=0.5, batch_size=500, epochs=3, keep="last",
)  # fmt: skip
# Made for people, from records that are checked; no command reads them.
PAGES = ("README.md", "curve.svg", "history.csv", "runs.csv", "run.lock")

# A read that fails inside Orbax abandons its other reads; they complain from threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. (None|<coroutine):pytest.PytestUnraisableExceptionWarning"
    ),
]


@pytest.fixture(autouse=True)
def collected(no_settings_from_outside, tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXCNN_CACHE_DIR", str(tmp_path / "cache"))
    yield
    time.sleep(0.05)  # TensorStore's threads answer last
    gc.collect()


@pytest.fixture(scope="module")
def digits():
    return datasets.load("digits")


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    return fit(TINY, digits, tmp_path_factory.mktemp("flips") / "run", name="tiny").path


@pytest.fixture(scope="module")
def seeds(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flips") / "study"
    return study(TINY, [0, 1], study_dir=folder, dataset=digits, predictions=True).path


def files(folder):
    found = [p.relative_to(folder) for p in sorted(folder.rglob("*")) if p.is_file()]
    return [path for path in found if path.name not in PAGES and (folder / path).stat().st_size]


def flip(folder, draw):
    """Flip a bit of a random file, small and large ones alike -> (file, byte, bit)."""
    chosen = files(folder)[draw.integers(len(files(folder)))]
    data = bytearray((folder / chosen).read_bytes())
    at, bit = int(draw.integers(len(data))), int(draw.integers(8))
    data[at] ^= 1 << bit
    (folder / chosen).write_bytes(data)
    return str(chosen), at, bit


def plain(value):
    return json.dumps(value, sort_keys=True, default=str)


def said_by_run(folder: Path):
    """All that a finished run says: its figures, its weights, and its predictions."""
    run = open_run(folder)
    arrays = vars(run.predictions())
    layer, kernel = run.first_filters()
    parts = (run.summary, run.environment, run.config, run.history, run.data, run.status, layer)
    weights = tree_digest({"state": jax.device_get(run.state), "arrays": arrays, "filters": kernel})
    return plain(parts), weights


def said_by_study(folder: Path):
    found = read_study(folder)
    parts = (found.summary, found.environment, found.plan, found.rows, found.histories)
    arrays = {row["run"]: found.predicted(row["run"]) for row in found.rows}
    assert all((folder / predictions_file(key)).is_file() for key in arrays)
    return plain(parts), tree_digest(arrays)


def named(error, where):
    """One sentence, and an exit code that says it: no usable checkpoint or record, or recipe."""
    assert "\n" not in str(error), where
    assert error.exit_code in (2, 5), (where, error)


def silent_flips(folder, said, place, count, seed=0):
    """How many flips were found, and those that changed what is said without a word."""
    whole, draw = said(folder), np.random.default_rng(seed)
    silent, found = [], 0
    for _ in range(count):
        copy = Path(shutil.copytree(folder, place))
        where = flip(copy, draw)
        try:
            if said(copy) != whole:
                silent.append(where)
        except FlaxcnnError as error:
            found += 1
            named(error, where)
        shutil.rmtree(place)
    return found, silent


# About 38 % of the flips are found, the others being in pages and in what nobody reads: fewer than
# `least` are once in 10,000 times.
@pytest.mark.parametrize(
    ("count", "least"), [(25, 2), pytest.param(200, 50, marks=pytest.mark.slow)]
)
def test_of_a_finished_run(run, tmp_path, count, least):
    found, silent = silent_flips(run, said_by_run, tmp_path / "copy", count, seed=count)
    assert silent == []
    assert found >= least, "or nothing was read"


def test_of_a_study(seeds, tmp_path):
    found, silent = silent_flips(seeds, said_by_study, tmp_path / "copy", 60)
    assert silent == []
    assert found > 40, "the rest are bits of digests.json that say nothing alone"


@pytest.mark.parametrize("count", [6, pytest.param(40, marks=pytest.mark.soak)])
def test_of_a_run_that_is_resumed(run, digits, tmp_path, count):
    """It ends in the same weights and lines as if nothing had been, or names what is damaged."""
    bits = ("params_digest", "test_accuracy", "test_loss", "kept_epoch", "epochs_run")
    times = ("seconds", "images_per_second")
    read = lambda folder: open_run(folder)  # noqa: E731
    lines = lambda one: [{k: v for k, v in row.items() if k not in times} for row in one.history]  # noqa: E731
    whole, draw = read(run), np.random.default_rng(count)
    for _ in range(count):
        copy = Path(shutil.copytree(run, tmp_path / "copy"))
        where = flip(copy, draw)
        try:
            fit(TINY, digits, copy, name="tiny", resume=True)
            found = read(copy)
            assert [found.summary[k] for k in bits] == [whole.summary[k] for k in bits], where
            assert lines(found) == lines(whole), where
        except FlaxcnnError as error:
            named(error, where)
        shutil.rmtree(copy)


def test_each_bit_of_the_progress_beside_the_arrays(run, tmp_path):
    """`epoch`, `best_epoch`, `wait`, `history`, `config`: all of it decides later epochs."""
    kept = open_run(run).summary["kept_epoch"]
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    file = copy / "checkpoints" / str(kept) / "progress" / "metadata"
    whole, draw = file.read_bytes(), np.random.default_rng(0)
    words = ("epoch", "best_epoch", "wait", "history", "config", "digest", "data", "learning_rate")
    places = [whole.index(f'"{word}"'.encode()) + 2 for word in words]
    digit = whole.index(b'"wait": ') + len(b'"wait": ')
    for at in (*places, digit, *draw.integers(len(whole), size=12)):
        data = bytearray(whole)
        data[at] ^= 1
        if json_equal(whole, bytes(data)):
            continue  # a space that says nothing
        file.write_bytes(data)
        with pytest.raises(FlaxcnnError, match=f"checkpoint of epoch {kept}"):
            open_run(copy)


def json_equal(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False
