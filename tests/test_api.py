"""The functions of `flaxcnn`: what their arguments mean, and the loop in the user's hands."""

import dataclasses
import gc
import json
import linecache
import signal
import subprocess
import sys
import types

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest

import flaxcnn
from flaxcnn.api.arguments import asked, seed_list
from flaxcnn.engine.digest import tree_digest
from flaxcnn.errors import ConfigError, FolderInUseError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten

LINEAR = Config(
    "digits", (Flatten(), Dense(10)), epochs=3, batch_size=256, learning_rate=0.05
)  # three epochs of a few milliseconds
PATIENCE = 120  # seconds, after which a program that does not end is taken to hang
STEADY = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "best")


@pytest.fixture(autouse=True)
def places(no_settings_from_outside, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLAXCNN_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """LINEAR as `flaxcnn.train` trains it."""
    return flaxcnn.train(LINEAR, run_dir=tmp_path_factory.mktemp("quiet") / "run", verbose=False)


def steady(history):
    return [tuple(row[key] for key in STEADY) for row in history]


def status(path):
    return json.loads((path / "status.json").read_text())


def test_a_transformation_of_optax_that_is_made_already_is_told_how_to_be_given():
    with pytest.raises(ConfigError, match=r'flaxcnn\.Optax\("optax\.adamw"'):
        flaxcnn.train(LINEAR, optimizer=optax.adamw(1e-3), run_dir="run")


# -- the loop in the user's hands ----------------------------------------------------------------

LEFT_OPEN = """
import flaxcnn
from flaxcnn.recipe.layers import Dense, Flatten

config = flaxcnn.Config("digits", (Flatten(), Dense(10)), epochs=3)
loop = flaxcnn.epochs(config, run_dir="run")
next(loop)
"""


def test_a_loop_that_is_open_when_the_program_ends_is_closed(tmp_path):
    """Orbax's threads end with the program: a checkpoint under way must be finished before."""
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert status(tmp_path / "run")["status"] == "interrupted"
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["1"]


def test_a_loop_is_the_run_of_train(quiet, tmp_path):
    loop = flaxcnn.epochs(LINEAR, run_dir="run")
    assert not (tmp_path / "run").exists()  # nothing is trained before the first is asked for
    found = []
    for epoch in loop:
        found.append(epoch.metrics)
        params = jax.device_get(epoch.state.params)
        assert epoch.number == len(found)
        assert int(epoch.state.step) == epoch.number * quiet.plan.steps_per_epoch
    assert steady(found) == steady(quiet.history)
    assert tree_digest(params) == quiet.summary["params_digest"]  # the last is the best here
    assert loop.result.summary["test_loss"] == quiet.summary["test_loss"]
    assert loop.result.path == loop.path == tmp_path / "run"
    assert status(loop.path) == status(quiet.path)
    assert list(loop) == []


def test_a_loop_that_is_left_can_go_on(quiet):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for epoch in flaxcnn.epochs(LINEAR, run_dir="run"):
        inside = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        assert inside == handlers  # the body is the user's: Ctrl-C stops it
        path = epoch.model.path
        if epoch.number == 1:
            break
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert status(path) == {"status": "interrupted", "reason": "left before its last epoch"}
    with pytest.raises(ConfigError, match="holds a run already"):
        next(flaxcnn.epochs(LINEAR, run_dir="run"))
    loop = flaxcnn.epochs(LINEAR, run_dir="run", resume=True)
    assert [epoch.number for epoch in loop] == [2, 3]
    assert loop.result.summary["params_digest"] == quiet.summary["params_digest"]
    assert steady(loop.result.history) == steady(quiet.history)
    again = flaxcnn.train(LINEAR, run_dir="run", resume=True, verbose=False)
    assert again.summary["params_digest"] == quiet.summary["params_digest"]


def test_a_loop_that_an_error_leaves_is_closed_by_the_next(quiet):
    loop = flaxcnn.epochs(LINEAR, run_dir="run")

    def body():
        for _ in loop:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        body()
    gc.collect()  # `loop` is still referred to, as by the traceback that a notebook keeps
    with pytest.raises(FolderInUseError):
        flaxcnn.train(LINEAR, run_dir="run", resume=True, verbose=False)
    with flaxcnn.epochs(LINEAR, run_dir="run", resume=True) as going_on:
        assert next(going_on).number == 2
    assert status(loop.path)["status"] == "interrupted"
    rest = [epoch.number for epoch in flaxcnn.epochs(LINEAR, run_dir="run", resume=True)]
    assert rest == [3]


def test_an_epoch_is_looked_at_while_training_goes_on(quiet):
    from flaxcnn.data.datasets import load

    images = load("digits").test.image[:20]
    models = []
    for epoch in flaxcnn.epochs(LINEAR, run_dir="run"):
        models.append(epoch.model)
        seen = epoch.evaluate("validation")
        np.testing.assert_allclose(seen["loss"], epoch.metrics["val_loss"], rtol=1e-6)
        assert epoch.predict(images) == epoch.model.predict(images)
        with pytest.raises(ConfigError, match="split must be train or validation"):
            epoch.evaluate("test")
    first, last = models[0](images), models[2](images)
    assert np.abs(first - last).max() > 0  # the first is as it was
    expected = flaxcnn.load(quiet.path)(images)
    np.testing.assert_array_equal(last, expected)


# -- arguments -----------------------------------------------------------------------------------


def test_seeds_are_a_number_or_numbers():
    assert seed_list(3, first=5) == [5, 6, 7]
    assert seed_list(range(2), 5) == [0, 1]
    assert seed_list(np.arange(2), 5) == [0, 1]
    assert seed_list([7, 3], 0) == [7, 3]
    for wrong in (0, True, "8", 2.0, [0.5], None):
        with pytest.raises(ConfigError, match=r"^seeds must be "):
            seed_list(wrong, 0)


def test_a_recipe_by_name_takes_settings_and_its_document_s_protocol():
    found = asked("mnist-ladder/model10", "", None, None, None, {"epochs": 3, "optimizer": "sgd"})
    assert (found.name, found.config.epochs) == ("mnist-ladder/model10", 3)
    assert found.config.learning_rate == found.config.optimizer.default_learning_rate
    document = asked("mnist-ladder/model10", "", None, None, None, {"protocol": "document"})
    assert document.config.validation == "test"
    with pytest.raises(ConfigError, match="dataset and data are two data sets"):
        asked(LINEAR, "", None, "digits", ([], []), {})
    with pytest.raises(ConfigError, match="unknown setting epoch; did you mean 'epochs'"):
        asked(LINEAR, "", None, None, None, {"epoch": 3})


def test_a_study_and_what_is_made_of_it(capsys, tmp_path):
    found = flaxcnn.study(
        LINEAR, seeds=2, epochs=1, grid={"learning_rate": [0.05, 0.001]}, seed=4, how="map"
    )
    assert [row["seed"] for row in found.rows] == [4, 5, 4, 5]
    assert found.path.parent == tmp_path / "runs" / "unnamed"
    assert capsys.readouterr().out.count("run ") == 4
    compared = flaxcnn.compare(found, metric="val_accuracy", paired=True)
    assert [side.values.keys() for side in compared.sides] == [{4, 5}, {4, 5}]
    assert json.loads(json.dumps(compared.to_dict()))["comparisons"][0]["verdict"]
    assert compared.sentences()[0] in str(compared)
    assert "| verdict |" in compared._repr_markdown_()
    page = flaxcnn.report(found, output=tmp_path / "page.html")
    assert page.read_text().startswith("<!doctype html>") or "<html" in page.read_text()[:200]


@pytest.mark.slow
def test_a_search_on_a_grid_or_in_a_space(tmp_path):
    found = flaxcnn.search(
        LINEAR, {"learning_rate": [0.001]}, folds=2, epochs=1, refit=False, verbose=False, how="map"
    )
    assert found.summary["incumbent"] == "unchanged"
    assert found.path.parent == tmp_path / "runs" / "unnamed"
    drawn = flaxcnn.search(
        LINEAR, space={"learning_rate": [0.001, 0.01]}, trials=1, sampler="random", folds=2,
        pruner="none", how="map", epochs=1, refit=False, verbose=False, search_dir="drawn",
    )  # fmt: skip
    assert len(drawn.summary["candidates"]) == 2
    for wrong in ({}, {"grid": {"epochs": [1]}, "space": {"epochs": [1]}}):
        with pytest.raises(ConfigError, match="search needs either grid"):
            flaxcnn.search(LINEAR, **wrong)
    with pytest.raises(ConfigError, match="all candidates of the grid fashion-slim/grid are tried"):
        flaxcnn.search("fashion-slim/grid", space={"epochs": [1]})


def test_a_result_is_a_table_a_picture_and_a_classifier(quiet):
    table = quiet.to_dict()
    assert table["epoch"] == [1, 2, 3]
    assert quiet.plot("loss")._repr_svg_().startswith("<")
    images = np.zeros((3, 8, 8), np.uint8)
    assert quiet.predict(images) == flaxcnn.load(quiet).predict(images)


# -- notebooks -----------------------------------------------------------------------------------

CELL = """
import flax.linen as nn

class Cell(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.relu(nn.Dense(self.width)(x.reshape((x.shape[0], -1)))))
"""


def run_cell(text, name="/tmp/ipykernel_1/123.py"):
    """As a kernel does it: compiled under a name that is no file, its lines kept in linecache."""
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    space = types.ModuleType("__main__").__dict__
    exec(compile(text, name, "exec"), space)
    return space


def test_a_class_of_a_notebook_cell_works_in_its_process(tmp_path, caplog):
    cell = run_cell(CELL)["Cell"]
    result = flaxcnn.train(LINEAR, model=cell(width=3), run_dir="run", verbose=False)
    assert caplog.text.count("Cell was defined in a notebook, so only this process can") == 1
    assert json.loads((result.path / "model.json").read_text())["elsewhere"] is False
    assert (result.path / "source" / "Cell.py").read_text() == CELL
    loop = flaxcnn.epochs(LINEAR, model=cell(width=3), epochs=4, run_dir="run", resume=True)
    assert [epoch.number for epoch in loop] == [4]
    assert flaxcnn.load(result.path)(np.zeros((2, 8, 8, 1))).shape == (2, 10)
    plain = json.loads((result.path / "config.json").read_text())
    plain["model"]["source"] = "0" * 64  # another process has never seen the cell
    with pytest.raises(ConfigError, match="was defined in a notebook; run the cell that defines"):
        flaxcnn.train(Config.from_dict(plain), run_dir="other", verbose=False)
    namespace = types.ModuleType("__main__").__dict__
    exec(compile(CELL, "<string>", "exec"), namespace)  # as typed at a prompt
    with pytest.raises(ConfigError, match=r"Cell is not known; write it to a file.*%%writefile"):
        flaxcnn.train(LINEAR, model=namespace["Cell"](), run_dir="other", verbose=False)
    assert not (tmp_path / "other").exists()


class Here(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(x.reshape((x.shape[0], -1)))


def test_a_module_of_a_file_is_named_by_it():
    spec = asked(LINEAR, "", Here(), None, None, {}).config.model
    assert spec.target == f"{__file__}:Here"
    assert dataclasses.replace(LINEAR, model=spec).layers == ()
