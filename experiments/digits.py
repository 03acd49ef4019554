"""Handwritten digits, 8x8: flaxcnn's own first run, with nothing to download.

    flaxcnn train
    flaxcnn train digits/quickstart -s epochs=5

The data are the 1,797 images inside scikit-learn. There is no source document.
"""

from flaxcnn.recipe.augment import Shift
from flaxcnn.recipe.catalog import Experiment
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import BatchNorm, Conv, Dense, Dropout, Flatten, MaxPool
from flaxcnn.recipe.optimizers import Adam, Cosine

QUICKSTART = Config(
    dataset="digits",
    layers=(
        Conv(32, 3, padding="same", activation="relu"),  # (8, 8, 32)
        BatchNorm(momentum=0.9),
        Conv(32, 3, padding="same", activation="relu"),
        BatchNorm(momentum=0.9),
        MaxPool(2),  # (4, 4, 32)
        Conv(64, 3, padding="same", activation="relu"),
        BatchNorm(momentum=0.9),
        Flatten(),
        Dropout(0.4),
        Dense(10),
    ),
    augment=(Shift(0.13, 0.13),),  # one pixel
    optimizer=Adam(),
    learning_rate=2e-3,
    schedule=Cosine(),
    batch_size=32,
    epochs=20,
    monitor="val_loss",  # 144 validation rows: too few for accuracy to tell epochs apart
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
