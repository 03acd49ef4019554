"""The comparison with peers: the same networks, honest failures, and figures nobody typed."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import tables
from benchmarks.peers import __main__ as command
from benchmarks.peers import record
from benchmarks.peers.models import DEFAULT, OWN, find
from benchmarks.peers.processes import PeerFailed, Worker
from benchmarks.peers.task import comparable
from flaxcnn.recipe import catalog
from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.recipe.layers import totals

ROOT = Path(__file__).resolve().parents[2]
# Dropout; even kernels with same padding; strides with same padding, normalisation and residuals.
CHECKED = ("mnist-ladder/model9", "fashion-slim/final", "resnet18-cifar")
TOLERANCE = 2e-4  # of logits of order 1: other kernels add in another order


def peers(*arguments, python=("-m", "benchmarks.peers")):
    """The command as a user starts it."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("FLAXCNN_")}
    return subprocess.run(
        [sys.executable, *python, *arguments], cwd=ROOT, capture_output=True, text=True, env=kept
    )


def one_line(done, *words):
    """The command refused with exit code 2 and one line on stderr that has all the words."""
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_an_unknown_peer_is_refused_with_the_near_miss():
    one_line(peers("--peers", "flaxcnn,torhc"), "--peers", "'torhc'", "did you mean 'torch'?")


def test_an_unknown_model_is_refused_with_the_near_miss():
    one_line(
        peers("--models", "mnist-ladder/model99", "--peers", "flaxcnn"),
        "--models", "'mnist-ladder/model99'", "did you mean 'mnist-ladder/model",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("option", "value"),
    [("--repeats", "0"), ("--threads", "0"), ("--measure", "speed"), ("--dtype", "f16")],
)
def test_other_options_are_checked(option, value):
    one_line(peers("--peers", "flaxcnn", option, value), option, value)


def test_a_missing_framework_names_the_extra():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from benchmarks.peers.__main__ import main; sys.exit(main(['--peers', 'flaxcnn,torch']))"
    )
    one_line(peers(python=("-c", code)), "torch", "pip install 'flaxcnn[peers]'")


@pytest.mark.parametrize("name", DEFAULT)
def test_default_models_exist_and_need_no_augmentation(name):
    assert comparable(find(name), "float32")[0].augment == ()


@pytest.mark.parametrize("name", OWN)
def test_own_models_can_be_trained_by_name(name):
    assert catalog.find(f"{ROOT / 'benchmarks/peers/models.py'}:{name}").config == find(name)


def test_resnet18_has_its_known_size():
    config = find("resnet18-cifar")
    assert totals(config.table(*KNOWN_DATA["cifar10"]))["trainable_params"] == 11_173_962


# Each framework runs in a process of its own, as in the comparison: TensorFlow and torch bring
# their own copies of libraries, and jax here is set up for tests.
LOGITS = """
import importlib, sys
import numpy as np
model, peer, data = sys.argv[1:]
from benchmarks.peers import task as tasks
tasks.SYNTHETIC_ROWS = (200, 100)
from benchmarks.peers.models import find
from benchmarks.peers.worker import MODULES
config, _ = tasks.comparable(find(model), "float32")
module = importlib.import_module("benchmarks.peers." + MODULES[peer])
made = module.PEER(tasks.Task(model, config, "float32", 1, True))
made.be({**made.settings(), **({"jit_compile": False} if peer.startswith("keras-t") else {})})
made.use(config.batch_size, 4)
weights = np.load(data)
image = weights["image"]
if peer == "torch":
    import torch
    from flaxcnn.recipe.layers import Flatten
    shape, flat = made.data.shape, None
    for layer in config.layers:
        if isinstance(layer, Flatten):
            flat = shape
        shape = layer.out(shape)
    for name, part in made.named.items():
        if name + "/kernel" not in weights:
            continue  # normalisation: fresh, it is the same everywhere
        kernel = torch.from_numpy(weights[name + "/kernel"])
        if kernel.ndim == 4:
            kernel = kernel.permute(3, 2, 0, 1)
        else:
            if flat:  # the first dense layer after the flatten: from HWC to CHW
                kernel = kernel.reshape(*flat, -1).permute(2, 0, 1, 3).flatten(0, 2)
                flat = None
            kernel = kernel.T
        part.weight.data.copy_(kernel)
        if part.bias is not None:
            part.bias.data.copy_(torch.from_numpy(weights[name + "/bias"]))
    made.network.eval()
    with torch.no_grad():
        logits = made.network(made.seen(made.stored(image))).numpy()
else:
    for layer in made.network.layers:
        if layer.name + "/kernel" in weights:
            kinds = ["kernel", "bias"][: len(layer.weights)]
            layer.set_weights([weights[layer.name + "/" + kind] for kind in kinds])
    logits = np.asarray(made.network.predict(image, verbose=0))
np.savez(data + ".out.npz", logits=logits, params=made.parameters())
"""


def flaxcnn_logits(name):
    """(weights by name, images [4, H, W, C] float32, logits) of flaxcnn's own network."""
    import jax

    from flaxcnn.model.cnn import CNN

    config = find(name)
    shape, _ = KNOWN_DATA[config.dataset]
    image = np.random.default_rng(0).random((4, *shape), np.float32)
    network = CNN(config.layers)
    variables = network.init(jax.random.key(0), image, train=False)
    params, logits = variables["params"], network.apply(variables, image, train=False)
    flat = {f"{name}/{kind}": np.asarray(x) for name, d in params.items() for kind, x in d.items()}
    return flat, image, np.asarray(logits)


@pytest.mark.slow
@pytest.mark.parametrize("peer", ["torch", "keras-tensorflow", "keras-jax"])
@pytest.mark.parametrize("name", CHECKED)
def test_peers_compute_the_same_function(name, peer, tmp_path):
    for package in command.NEEDS[peer]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'flaxcnn[peers]'")
    weights, image, logits = flaxcnn_logits(name)
    file = tmp_path / "weights.npz"
    np.savez(file, image=image, **weights)
    backend = {"KERAS_BACKEND": peer.removeprefix("keras-")} if peer != "torch" else {}
    subprocess.run(
        [sys.executable, "-c", LOGITS, name, peer, str(file)],
        cwd=ROOT, check=True, env={**os.environ, **backend, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )  # fmt: skip
    found = np.load(f"{file}.out.npz")
    np.testing.assert_allclose(found["logits"], logits, atol=TOLERANCE)
    assert found["params"] == totals(find(name).table(*KNOWN_DATA[find(name).dataset]))["params"]


def test_a_worker_that_dies_or_fails_says_why(tmp_path):
    with Worker("flaxcnn", 1, tmp_path, True) as worker:
        with pytest.raises(PeerFailed, match="KeyError: 'config'"):
            worker.ask("start", task={"model": "x"}, settings={})
        worker._process.kill()
        worker._process.wait()  # or the command might still fit into the pipe
        with pytest.raises(PeerFailed, match="ended with -9"):
            worker.ask("train")
    assert worker._process.stdin.closed
    assert worker._process.stdout.closed


@pytest.mark.slow
def test_a_tiny_comparison_works_end_to_end(tmp_path):
    output = tmp_path / "peers.json"
    done = peers(
        "--models", "digits/quickstart", "--peers", "flaxcnn,flax", "--repeats", "1", "--json",
        "--measure", "throughput", "--device", "cpu", "--output", str(output),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed == json.loads(output.read_text())
    rows = {row["peer"]: row for row in printed["rows"]}
    assert set(rows) == {"flaxcnn", "flax"}
    expected = totals(find("digits/quickstart").table(*KNOWN_DATA["digits"]))["params"]
    for row in rows.values():
        assert "failed" not in row, row
        assert row["params"] == expected
        assert row["train_images_per_second"]["median"] > 0
        assert row["environment"] in printed["environments"]
    assert str(ROOT) not in output.read_text()
    (model,) = printed["comparison"]["models"]
    assert model["train"]["best_peer"] == "flax"


def throughput_row(peer, rate, **more):
    rates = {f"{phase}_images_per_second": {"median": rate} for phase in ("train", "eval")}
    return {"model": "m", "peer": peer, "group": "throughput", "dtype": "float32",
            "batch_size": 32, **rates, **more}  # fmt: skip


def test_only_rows_of_one_run_are_compared_and_newer_ones_replace_older():
    results = record.empty("cpu")
    record.add(results, [throughput_row("torch", 50.0), throughput_row("flax", 10.0)], {}, "a")
    record.add(results, [throughput_row("flaxcnn", 100.0), throughput_row("flax", 20.0)], {}, "b")
    assert len(results["rows"]) == 3
    (entry,) = record.comparison(results)["models"]
    assert entry["train"]["ratios"] == {"flax": 5.0}


def test_a_failed_peer_is_reported_and_not_compared():
    results = record.empty("cpu")
    failed = {"model": "m", "peer": "torch", "group": "throughput", "dtype": "float32",
              "failed": "no compiler"}  # fmt: skip
    record.add(results, [throughput_row("flaxcnn", 6.0), throughput_row("flax", 3.0), failed],
               {}, "a")  # fmt: skip
    (entry,) = record.comparison(results)["models"]
    assert entry["failed"] == {"torch": "no compiler"}
    assert entry["train"]["ratio_to_best"] == 2.0


def test_pages_show_what_the_results_give():
    if not tables.RESULTS.is_file():
        pytest.skip("the comparison has not been run: python -m benchmarks.peers")
    pages = [page.read_text() for page in tables.PAGES]
    for name in tables.BLOCKS:
        assert any(f"<!-- {name} -->" in page for page in pages), name
    for page in pages:
        assert tables.with_blocks(page) == page
    assert tables.CHART.is_file()
