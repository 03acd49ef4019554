"""Runs that start from the weights of others, and weights that are not trained."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import flaxcnn
from flaxcnn.data.datasets import load
from flaxcnn.engine.saved import evaluate_run, open_run
from flaxcnn.errors import ConfigError
from flaxcnn.export.export import export
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten
from flaxcnn.recipe.weights import Weights

BASE = Config("digits", (Flatten(), Dense(8, activation="relu"), Dense(10)), epochs=1,
              batch_size=100, learning_rate=0.01)  # fmt: skip


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLAXCNN_CACHE_DIR", str(folder / "cache"))
        return flaxcnn.train(BASE, run_dir=folder / "run", verbose=False)


def child(parent, path, **settings):
    config = dataclasses.replace(BASE, seed=1, init_from=Weights(str(parent.path)), **settings)
    return flaxcnn.train(config, run_dir=path, verbose=False)


@pytest.mark.slow
def test_a_run_goes_on_from_another_s_weights(parent, tmp_path):
    assert len(parent.history) == 1
    found = child(parent, tmp_path / "run")
    assert found.history[0]["train_loss"] < parent.history[0]["train_loss"]
    recipe = json.loads((found.path / "config.json").read_text())
    assert recipe["init_from"]["digest"] == parent.summary["params_digest"]
    export(parent.path, "safetensors", tmp_path / "parent.safetensors")
    weights = Weights(str(tmp_path / "parent.safetensors"))
    file = flaxcnn.train(dataclasses.replace(BASE, seed=1, init_from=weights),
                         run_dir=tmp_path / "file", verbose=False)  # fmt: skip
    assert file.summary["params_digest"] == found.summary["params_digest"]
    rows = flaxcnn.study(dataclasses.replace(BASE, init_from=Weights(str(parent.path)),
                                             determinism="exact"), [1, 2],
                         study_dir=tmp_path / "study", how="map").rows  # fmt: skip
    exact = child(parent, tmp_path / "exact", determinism="exact")
    assert rows[0]["params_digest"] == exact.summary["params_digest"]


def test_frozen_weights_stay_and_the_others_move(parent, tmp_path):
    found = child(parent, tmp_path / "run", freeze=("dense/*",))
    before, after = (jax.device_get(one.state.params) for one in (parent, found))
    jax.tree.map(np.testing.assert_array_equal, before["dense"], after["dense"])
    assert (before["dense_1"]["kernel"] != after["dense_1"]["kernel"]).any()


def test_a_new_head_for_other_classes(parent, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("FLAXCNN_DATA_DIR", str(tmp_path / "data"))
    digits = load("digits").train
    few = digits.label < 3
    config = dataclasses.replace(
        BASE, layers=(*BASE.layers[:2], Dense(3)), dataset="npz:later",
        init_from=Weights(str(parent.path)),
    )  # fmt: skip
    found = flaxcnn.train(config, data=(digits.image[few], digits.label[few]), verbose=False,
                          run_dir=tmp_path / "run", freeze=("dense/*",))  # fmt: skip
    assert "dense_1 stay random" in caplog.text
    kernel = found.state.params["dense"]["kernel"]
    np.testing.assert_array_equal(kernel, parent.state.params["dense"]["kernel"])


def test_a_head_is_what_has_a_value_for_each_class(tmp_path, monkeypatch, caplog):
    """Whatever it is called: dense_10, the eleventh, comes before dense_2 in the alphabet."""
    monkeypatch.setenv("FLAXCNN_DATA_DIR", str(tmp_path / "data"))
    digits = load("digits").train
    few = digits.label < 7
    deep = dataclasses.replace(BASE, layers=(Flatten(), *[Dense(8)] * 10, Dense(10)))
    parent = flaxcnn.train(deep, run_dir=tmp_path / "parent", verbose=False)
    config = dataclasses.replace(
        deep,
        layers=(*deep.layers[:-1], Dense(7)),
        dataset="npz:later",
        init_from=Weights(str(parent.path)),
    )
    data = (digits.image[few], digits.label[few])
    found = flaxcnn.train(config, data=data, verbose=False, run_dir=tmp_path / "run", epochs=1,
                          freeze=("dense/*", "dense_?/*"))  # fmt: skip
    assert "init_from: dense_10 stay random" in caplog.text
    for name in ("dense", "dense_2", "dense_9"):
        kernel = found.state.params[name]["kernel"]
        np.testing.assert_array_equal(kernel, parent.state.params[name]["kernel"])
    wider = dataclasses.replace(config, layers=(*deep.layers[:-2], Dense(9), Dense(7)))
    with pytest.raises(ConfigError, match=r"dense_10/kernel has shape \[8, 10\] there"):
        flaxcnn.train(wider, data=data, verbose=False, run_dir=tmp_path / "wider")


def test_settings_of_a_grid_start_from_the_same_weights(parent, tmp_path):
    """Each size of batch is a program of its own: the job is turned from one to the next."""
    config = dataclasses.replace(BASE, init_from=Weights(str(parent.path)), determinism="exact")
    rows = flaxcnn.study(config, [1], grid={"batch_size": [100, 60], "learning_rate": [0.01]},
                         how="map", study_dir=tmp_path / "study", verbose=False).rows  # fmt: skip
    for row in rows:
        batch = row["setting"]["batch_size"]
        alone = flaxcnn.train(config, seed=1, batch_size=batch, run_dir=tmp_path / str(batch),
                              verbose=False)  # fmt: skip
        assert row["params_digest"] == alone.summary["params_digest"]
    assert rows[0]["params_digest"] != rows[1]["params_digest"]


def test_a_run_stands_without_its_parent(parent, tmp_path):
    copy = shutil.copytree(parent.path, tmp_path / "parent")
    found = child(dataclasses.replace(parent, path=copy), tmp_path / "run")
    shutil.rmtree(copy)
    assert evaluate_run(open_run(found.path))["accuracy"] == found.summary["test_accuracy"]


def test_what_does_not_fit_is_said(parent, tmp_path):
    for make, message in (
        (lambda: Weights("runs/none"), "must be a finished run or a .safetensors file"),
        (lambda: dataclasses.replace(BASE, freeze=("conv*",)), "'conv\\*' fits no weights; they"),
        (lambda: dataclasses.replace(BASE, init_from=Weights(str(parent.path), only=("x",))),
         "no weights of .* fit"),
        (lambda: dataclasses.replace(BASE, init_from=Weights(str(parent.path)),
                                     layers=(Flatten(), Dense(9, activation="relu"), Dense(10))),
         r"dense/.* has shape .* there and .* here"),
        (lambda: dataclasses.replace(BASE, init_from=Weights(str(parent.path), digest="0" * 64)),
         "has changed since the recipe was made"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            flaxcnn.train(make(), run_dir=tmp_path / "run", verbose=False)
        assert not (tmp_path / "run").exists()
