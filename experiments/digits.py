"""Handwritten digits, 8x8: flaxcnn's own first run, with nothing to download.

    flaxcnn train
    flaxcnn train digits/quickstart -s epochs=5

The data are the 1,797 images inside scikit-learn. There is no source document.
"""

from flaxcnn.recipe.catalog import Experiment
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Conv, Dense, Dropout, Flatten, MaxPool
from flaxcnn.recipe.optimizers import Adam

QUICKSTART = Config(
    dataset="digits",
    layers=(
        Conv(32, 3, padding="same", activation="relu"),  # (8, 8, 32)
        Conv(32, 3, padding="same", activation="relu"),
        MaxPool(2),  # (4, 4, 32)
        Conv(64, 3, padding="same", activation="relu"),
        Flatten(),
        Dense(64, activation="relu"),
        Dropout(0.25),
        Dense(10),
    ),
    optimizer=Adam(),
    learning_rate=1e-3,
    batch_size=32,
    epochs=20,
)

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="digits/quickstart",
        title="Three convolutions on scikit-learn's 8x8 digits",
        document="",
        config=QUICKSTART,
        notes="Small on purpose: seconds on two CPU cores, so that every command can be tried.",
    ),
)
