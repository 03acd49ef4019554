"""Finished runs of three kinds of networks, trained once."""

import os

import pytest

from flaxcnn import train
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool,
    MaxPool,
    Residual,
)

NETWORKS = {
    "plain": (
        Conv(4, 3, padding="same", activation="relu"), MaxPool(2), Dropout(0.2),
        Conv(6, 2, stride=2, padding="same", activation="gelu"), Flatten(),
        Dense(16, activation="silu"), Dense(10),
    ),
    "batch norm": (
        Conv(4, 3, bias=False), BatchNorm(), Activation("leaky_relu"),
        AvgPool(3, padding="same"), Flatten(), Dense(10),
    ),
    "residual": (
        Conv(4, 3, padding="same"), BatchNorm(), Activation("relu6"),
        Residual((Conv(4, 3, padding="same", activation="tanh"), Conv(4, 3, padding="same")),
                 (Conv(4, 1),), activation="relu"),
        Activation("softmax"), GlobalAvgPool(), Dense(10),
    ),
}  # fmt: skip


@pytest.fixture(scope="session", params=NETWORKS)
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLAXCNN_CACHE_DIR", str(folder / "cache"))
        patch.chdir(folder)
        config = Config("digits", NETWORKS[request.param], epochs=1, normalize="per_channel")
        result = train(config, run_dir=folder / "run", verbose=False)
        assert os.listdir(result.path)
        return result
