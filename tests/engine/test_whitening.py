"""A first layer that whitens: what comes out of it, and that training leaves it as it is."""

import dataclasses

import jax
import numpy as np
import pytest

import flaxcnn
from flaxcnn.data.datasets import load
from flaxcnn.engine.job import choose_rows
from flaxcnn.engine.whitening import FLOOR, whitening
from flaxcnn.errors import ConfigError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Conv, Dense, Flatten

LAYERS = (Conv(8, 2, init="whiten", activation="relu"), Flatten(), Dense(10))
SMALL = Config("digits", LAYERS, epochs=2, batch_size=200, learning_rate=0.01)


def test_its_outputs_are_uncorrelated():
    """The second moments of the first half of the outputs are e / (e + FLOOR) of each direction."""
    data = load("digits")
    rows, scaling = choose_rows(SMALL, data)
    (kernel,) = whitening(SMALL, data, rows, scaling).values()
    image = (data.train.image[rows.train] - scaling.mean) / scaling.scale
    views = np.lib.stride_tricks.sliding_window_view(image, (2, 2), (1, 2))
    patches = np.moveaxis(views, 3, -1).reshape(-1, 4).astype(np.float64)
    out = patches @ kernel.reshape(4, 8)
    moments = out.T @ out / len(out)
    values = np.linalg.eigvalsh(patches.T @ patches / len(patches))[::-1]
    # float32 kernels
    np.testing.assert_allclose(moments[:4, :4], np.diag(values / (values + FLOOR)), atol=1e-5)
    np.testing.assert_array_equal(kernel[..., 4:], -kernel[..., :4])


@pytest.mark.slow
def test_a_run_a_resumed_one_and_a_study_of_it(tmp_path):
    whole = flaxcnn.train(SMALL, run_dir=tmp_path / "whole", verbose=False)
    data = load("digits")
    (kernel,) = whitening(SMALL, data, *choose_rows(SMALL, data)).values()
    params = jax.device_get(whole.state.params)
    np.testing.assert_array_equal(params["conv2d"]["kernel"], kernel)
    assert np.abs(params["conv2d"]["bias"]).max() > 0
    assert whole.summary["params"] - whole.summary["trainable_params"] == kernel.size
    half = dataclasses.replace(SMALL, epochs=1)
    flaxcnn.train(half, run_dir=tmp_path / "half", verbose=False)
    resumed = flaxcnn.train(SMALL, run_dir=tmp_path / "half", resume=True, verbose=False)
    exact = dataclasses.replace(SMALL, determinism="exact")
    alone = flaxcnn.train(exact, run_dir=tmp_path / "alone", verbose=False)
    study = flaxcnn.study(exact, range(2), study_dir=tmp_path / "study")
    assert resumed.summary["params_digest"] == whole.summary["params_digest"]
    assert study.rows[0]["params_digest"] == alone.summary["params_digest"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((Conv(10, 2, init="whiten"), *LAYERS[1:]), "at most 8 filters, two for each number"),
        ((Conv(4), Conv(8, 2, init="whiten"), *LAYERS[1:]), "init=whiten is for the first layer"),
    ],
)
def test_layers_that_cannot_whiten(layers, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(SMALL, layers=layers)


def test_an_odd_number_of_filters_cannot_whiten():
    with pytest.raises(ConfigError, match="needs an even number of filters"):
        Conv(7, 2, init="whiten")
