"""Networks that know nothing of flaxcnn, through all that it does, in processes that are killed."""

import json
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import SAFETY_NET, Child

import flaxcnn

pytestmark = pytest.mark.slow

RECIPE = """
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.networks import NNX, Linen
from flaxcnn.recipe.optimizers import SGD
from flaxcnn.recipe.splits import Ranges

common = dict(
    dataset="npz:{data}", split=Ranges(train=200, validation=50, test=100), batch_size=40,
    optimizer=SGD(momentum=0.9), learning_rate=0.02, epochs=6,
)
linen = Config(model=Linen("mnist_nets.py:CNN"), determinism="exact", **common)
nnx = Config(model=NNX("mnist_nets.py:Modern"), determinism="exact", **common)
newest = Config(model=NNX("mnist_nets.py:Newest"), **common)
resnet = Config(model=Linen("mnist_nets.py:ResNet", widths=(8, 12)), **common)
"""
OTHERS = ("nnx", "newest", "resnet")  # `make soak` makes sure of them
NETS = ("linen", *(pytest.param(name, marks=pytest.mark.soak) for name in OTHERS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("killed")


@pytest.fixture(scope="module")
def large(folder, digits):
    """Digits of 28x28 pixels."""
    image = np.kron(digits.train.image[:400, ..., 0], np.ones((3, 3), np.uint8))
    image, label = np.pad(image, ((0, 0), (2, 2), (2, 2))), digits.train.label
    np.savez(folder / "rows.npz", image=image[:350], label=label[:350],
             test_image=image[350:], test_label=label[350:400])  # fmt: skip
    return folder / "rows.npz"


@pytest.fixture(scope="module")
def child(folder, large, compiled):
    child = Child(folder / "child", compiled, large)
    (child.folder / "recipe.py").write_text(RECIPE.format(data=large))
    shutil.copy(Path(__file__).with_name("mnist_nets.py"), child.folder)
    return child


def killed_when(child, condition, *arguments):
    """Start the command, and end it with SIGKILL as soon as the condition holds."""
    process = child.start(*arguments)
    deadline = time.monotonic() + SAFETY_NET
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.kill()
    assert child.finish(process).returncode == -signal.SIGKILL


def lines(path):
    return len(path.read_text().splitlines()) if path.is_file() else 0


def done(child, *arguments):
    found = child.run(*arguments)
    assert found.returncode == 0, found.stderr
    return found


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module", params=NETS)
def quiet(request, child):
    """(name, folder of a run that nobody touched)."""
    name = request.param
    done(child, "train", f"recipe.py:{name}", "--run-dir", f"{name}-quiet")
    return name, child.folder / f"{name}-quiet"


def test_a_killed_run_ends_in_the_bits_of_the_quiet_one(child, quiet):
    name, whole = quiet
    run = child.folder / f"{name}-killed"
    command = ("train", f"recipe.py:{name}", "--run-dir", run)
    killed_when(child, lambda: lines(run / "metrics.jsonl") >= 2, *command)
    killed_when(child, lambda: lines(run / "metrics.jsonl") >= 4, *command, "--resume")
    assert not (run / "summary.json").exists()
    done(child, *command, "--resume")
    for key in ("params_digest", "test_loss", "test_accuracy"):
        assert read(run / "summary.json")[key] == read(whole / "summary.json")[key]
    kept = (whole / "source" / "mnist_nets.py").read_text()
    assert kept == (child.folder / "mnist_nets.py").read_text()  # unchanged


def test_it_is_evaluated_used_and_exported(child, quiet, large, tmp_path):
    name, whole = quiet
    summary = read(whole / "summary.json")
    found = json.loads(done(child, "evaluate", whole, "--json").stdout)
    assert found["test_accuracy"] == summary["test_accuracy"]
    with np.load(large) as rows, np.load(whole / "predictions.npz") as file:
        image, logits = rows["image"][file["row"][:20]], file["logits"][:20]
    np.testing.assert_allclose(flaxcnn.load(whole)(image), logits, atol=1e-4)
    Image.fromarray(image[0]).save(tmp_path / "digit.png")
    said = done(child, "predict", whole, tmp_path / "digit.png").stdout
    assert str(logits[0].argmax()) in said
    for kind in ("stablehlo", "safetensors"):
        assert (
            "give the run's logits within" in done(child, "export", whole, "--format", kind).stdout
        )
    if name == "linen":
        again = json.loads(done(child, "reproduce", whole, "--json").stdout)
        assert again["same"]
        assert "is as recorded" in again["code"][0]


@pytest.mark.soak
def test_a_killed_study_has_the_rows_of_the_quiet_one(child):
    """Eight seeds; in exact runs each has the bits of a run alone."""
    options = ("recipe.py:linen", "--seeds", "8", "--how", "map", "-s", "epochs=2")
    done(child, "study", *options, "--study-dir", "study-quiet")
    study = child.folder / "study-killed"
    rows = study / "runs.jsonl"
    command = ("study", *options, "--study-dir", study)
    killed_when(child, lambda: lines(rows) >= 2, *command)
    killed_when(child, lambda: lines(rows) >= 5, *command, "--resume")
    assert lines(rows) < 8
    done(child, *command, "--resume")
    digests = {}
    for path in (study, child.folder / "study-quiet"):
        table = [json.loads(line) for line in (path / "runs.jsonl").read_text().splitlines()]
        digests[path.name] = {row["seed"]: row["params_digest"] for row in table}
        assert sorted(digests[path.name]) == list(range(8))
    assert digests["study-killed"] == digests["study-quiet"]
    done(child, "train", "recipe.py:linen", "--seed", "5", "-s", "epochs=2", "--run-dir", "five")
    assert (
        read(child.folder / "five" / "summary.json")["params_digest"] == digests["study-quiet"][5]
    )
