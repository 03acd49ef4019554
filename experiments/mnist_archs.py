"""MNIST, a search for the kernel size, three architectures and three variants of the second.

    flaxcnn train mnist-archs/arch1-k7
    flaxcnn search mnist-archs/grid-kernel --folds 5

Source: 003_7e63640890c9885b.txt (Keras 2.2.5 on TensorFlow 1.15, a Colab GPU by its timings).

    name                params   test     test loss   best validation
    grid-kernel              -   -        -           -   (best n_kernel 7, says a comment)
    arch1-k7           367,786   0.9951   0.0196      0.9951 @ 20
    arch2              307,306   0.9937   0.0232      0.9937 @ 20
    arch3            1,074,890   0.9938   0.0227      0.9942 @  9
    arch2-plain        306,410   0.9927   0.0346      0.9930 @ 16
    arch2-tanh-glorot  307,306   0.9903   0.0354      0.9903 @ 20
    arch2-rmsprop      307,306   0.9907   0.0466      0.9927 @ 11

Read with care:
- Validation was the test set, and the last epoch was scored on it.
- arch3's printed score, 0.9951, is arch1's: the notebook evaluated the wrong model. The row above
  is arch3's own last validation epoch, which saw the same 10,000 images.
- On 10,000 images one standard error is about 0.07 points, so most of these differences are within
  what another seed does. The text calls arch2 the best at 99.5 %: that figure is arch1's.
- The grid's scores and seconds are lost; only the winner is known.
"""

from dataclasses import replace

from flaxcnn.recipe.catalog import Candidate, Experiment
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import (
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Function,
    Init,
    Layer,
    MaxPool,
)
from flaxcnn.recipe.optimizers import Adam, RMSprop

DOCUMENT = "003_7e63640890c9885b.txt"
DOCUMENTED = {"validation": "test", "keep": "last"}
INFERRED = {
    "learning_rate": "the document names the optimizer only; 0.001 is Keras's default",
    "layers": "batch normalisation has Keras's defaults; none are shown",
}


def conv(filters: int, kernel: int) -> Conv:
    """Every convolution of the document but those of the tanh variant."""
    return Conv(filters, kernel, activation="relu", init="he_normal")


def dense(units: int) -> Dense:
    """A hidden dense layer to go with `conv`."""
    return Dense(units, activation="relu", init="he_normal")


def classifier_1(n_kernel: int) -> tuple[Layer, ...]:
    """The document's builder, the subject of its grid; arch1 is its 7x7 member."""
    return (
        conv(64, n_kernel),
        conv(32, n_kernel),
        MaxPool(2),
        BatchNorm(),
        Dropout(0.3),
        Flatten(),
        dense(128),
        BatchNorm(),
        Dropout(0.5),
        Dense(10),
    )


def arch2(activation: Function, init: Init) -> tuple[Layer, ...]:
    """Five convolutions that end in a 1x1 map, normalised after the pools, much dropout."""
    return (
        Conv(32, 3, activation=activation, init=init),
        Conv(32, 3, activation=activation, init=init),
        MaxPool(2),
        BatchNorm(),
        Dropout(0.5),
        Conv(64, 2, activation=activation, init=init),
        Conv(64, 2, activation=activation, init=init),
        MaxPool(2),
        BatchNorm(),
        Dropout(0.5),
        Conv(128, 5, activation=activation, init=init),  # (1, 1, 128)
        BatchNorm(),
        Dropout(0.4),
        Flatten(),
        Dense(256, activation=activation, init=init),
        Dropout(0.4),
        Dense(128, activation=activation, init=init),
        Dropout(0.4),
        Dense(10),
    )


ARCH2_PLAIN = (
    conv(32, 3),
    conv(32, 3),
    MaxPool(2),
    conv(64, 2),
    conv(64, 2),
    MaxPool(2),
    conv(128, 5),
    Flatten(),
    dense(256),
    dense(128),
    Dense(10),
)


def block(filters: int, kernel: int, pool: int, dropout: float) -> tuple[Layer, ...]:
    """One of arch3's six; four of them pool 1x1, which does nothing."""
    return (conv(filters, kernel), MaxPool(pool), BatchNorm(), Dropout(dropout))


ARCH3 = (
    *block(16, 3, 1, 0.5),
    *block(32, 3, 1, 0.5),
    *block(64, 3, 1, 0.5),  # (22, 22, 64)
    *block(96, 5, 1, 0.3),
    *block(128, 5, 2, 0.3),  # (7, 7, 128)
    *block(160, 5, 2, 0.3),  # (1, 1, 160)
    Flatten(),
    dense(256),
    BatchNorm(),
    Dropout(0.3),
    dense(128),
    Dropout(0.3),
    Dense(10),
)

BASE = Config(
    dataset="mnist",
    layers=classifier_1(7),
    normalize="unit",
    optimizer=Adam(),
    learning_rate=0.001,
    batch_size=100,
    epochs=20,
)
RMSPROP = replace(
    BASE,
    layers=arch2("relu", "he_normal"),
    optimizer=RMSprop(epsilon_in_sqrt=False),  # Keras 2 adds epsilon after the root
    learning_rate=0.001,
)


def model(
    name: str,
    lines: str,
    title: str,
    config: Config,
    *,
    params: int,
    test: tuple[float, float],
    best: tuple[float, int],
    val: tuple[float, float],
    train: tuple[float, float],
    seconds: int,
    notes: str = "",
) -> Experiment:
    """One trained model. Pairs are (accuracy, loss), `best` is (accuracy, epoch); `val` and
    `train` are the last epoch's, `seconds` the median epoch's."""
    return Experiment(
        name=f"mnist-archs/{name}",
        title=title,
        document=f"{DOCUMENT}, lines {lines}",
        config=config,
        documented=DOCUMENTED,
        reported={
            "test_accuracy": test[0],
            "test_loss": test[1],
            "val_accuracy": val[0],
            "val_loss": val[1],
            "best_val_accuracy": best[0],
            "best_val_epoch": best[1],
            "train_accuracy": train[0],
            "train_loss": train[1],
            "params": params,
            "epochs": 20,
            "seconds_per_epoch": seconds,
        },
        inferred=INFERRED,
        notes=notes,
    )


def kernel(n_kernel: int) -> Candidate:
    """One point of the grid."""
    return Candidate({"n_kernel": n_kernel}, replace(BASE, layers=classifier_1(n_kernel)))


EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="mnist-archs/grid-kernel",
        title="Grid over the kernel size of the two-convolution model",
        document=f"{DOCUMENT}, lines 121-196",
        kind="grid",
        incumbent="mnist-archs/arch1-k7",
        reported={"best_params": {"n_kernel": 7}, "folds": 5, "epochs": 20},
        inferred=INFERRED,
        notes="Scores and elapsed time were printed and are lost; the winner survives in a "
        "comment of the next cell.",
        refusal="it is a grid, which is searched and not trained; `flaxcnn experiments show "
        "mnist-archs/grid-kernel` lists its candidates, and mnist-archs/arch1-k7 trains the winner",
        candidates=(kernel(2), kernel(3), kernel(5), kernel(7), kernel(11)),
    ),
    model(
        "arch1-k7", "199-381", "Two 7x7 convolutions, one pool, one dense layer", BASE,
        params=367_786, test=(0.9951, 0.01964392685413427), best=(0.9951, 20),
        val=(0.9951, 0.0196), train=(0.9967, 0.01), seconds=6,
        notes="The text says 99.31 %, which is epochs 8 and 11; the output says 0.9951.",
    ),
    model(
        "arch2", "391-586", "Five convolutions, two pools, two dense layers",
        replace(BASE, layers=arch2("relu", "he_normal")),
        params=307_306, test=(0.9937, 0.023159436680417637), best=(0.9937, 20),
        val=(0.9937, 0.0232), train=(0.9867, 0.049), seconds=6,
        notes="Called the best by the text with arch1's figures; of the three it is the last.",
    ),
    model(
        "arch3", "588-837", "Six convolutions, each with pool, normalisation and dropout",
        replace(BASE, layers=ARCH3),
        params=1_074_890, test=(0.9938, 0.0227), best=(0.9942, 9),
        val=(0.9938, 0.0227), train=(0.9919, 0.0268), seconds=19,
        notes="The printed 0.9951 and 0.01964 are arch1's, evaluated by mistake; these are the "
        "last epoch's on the same images. The text counts seven convolutions; there are six, and "
        "four of the six pools are 1x1.",
    ),
    model(
        "arch2-plain", "914-1063", "arch2 without batch normalisation and dropout",
        replace(BASE, layers=ARCH2_PLAIN),
        params=306_410, test=(0.9927, 0.03456393923192763), best=(0.993, 16),
        val=(0.9927, 0.0346), train=(0.9987, 0.0045), seconds=5,
        notes="The text says 99.13 %, the table and the last epoch 0.9927.",
    ),
    model(
        "arch2-tanh-glorot", "1065-1252", "arch2 with tanh and glorot_normal",
        replace(BASE, layers=arch2("tanh", "glorot_normal")),
        params=307_306, test=(0.9903, 0.03541449715318158), best=(0.9903, 20),
        val=(0.9903, 0.0354), train=(0.9783, 0.0761), seconds=6,
        notes="The text speaks of 98 % and one point lost; it is 0.9903 and 0.34 points.",
    ),
    model(
        "arch2-rmsprop", "1254-1443", "arch2 with RMSprop", RMSPROP,
        params=307_306, test=(0.9907, 0.046560718773310396), best=(0.9927, 11),
        val=(0.9907, 0.0466), train=(0.9821, 0.0919), seconds=6,
        notes="The last epoch was scored, 0.2 points below epoch 11.",
    ),
)  # fmt: skip
