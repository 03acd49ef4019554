"""The recipes that are compared, two of them written here.

flaxcnn train benchmarks/peers/models.py:resnet18-cifar
flaxcnn train benchmarks/peers/models.py:batchnorm-cnn
"""

from pathlib import Path

from flaxcnn.errors import ConfigError, near_miss
from flaxcnn.recipe import catalog
from flaxcnn.recipe.catalog import Experiment
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import (
    Activation,
    BatchNorm,
    Conv,
    Dense,
    Flatten,
    GlobalAvgPool,
    Layer,
    MaxPool,
    Residual,
)
from flaxcnn.recipe.optimizers import SGD, Adam


def conv_norm(filters: int, kernel: int = 3, stride: int = 1) -> tuple[Layer, ...]:
    """A convolution without bias, which the normalisation after it would take away again."""
    return (
        Conv(filters, kernel, stride, padding="same", init="he_normal", bias=False),
        BatchNorm(momentum=0.9, epsilon=1e-5),
    )


def basic_block(filters: int, stride: int, projection: bool) -> Residual:
    """Two 3x3 convolutions; where the shape changes, a 1x1 convolution on the other path."""
    return Residual(
        (*conv_norm(filters, stride=stride), Activation("relu"), *conv_norm(filters)),
        shortcut=conv_norm(filters, 1, stride) if projection else (),
    )


def resnet18() -> tuple[Layer, ...]:
    """He et al. 2015, in the form for 32x32 images: a 3x3 stem and no pool before the blocks."""
    blocks: tuple[Layer, ...] = ()
    for stage, filters in enumerate((64, 128, 256, 512)):
        first = basic_block(filters, stride=2 if stage else 1, projection=stage > 0)
        blocks += (first, basic_block(filters, stride=1, projection=False))
    return (*conv_norm(64), Activation("relu"), *blocks, GlobalAvgPool(), Dense(10))


def norm_block(filters: int) -> tuple[Layer, ...]:
    """Convolution, batch normalisation, relu."""
    return (Conv(filters, 3, padding="same", bias=False), BatchNorm(), Activation("relu"))


BATCHNORM_CNN: tuple[Layer, ...] = (
    *norm_block(32),
    *norm_block(32),
    MaxPool(2),  # (14, 14, 32)
    *norm_block(64),
    *norm_block(64),
    MaxPool(2),  # (7, 7, 64)
    Flatten(),
    Dense(10),
)

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        name="resnet18-cifar",
        title="ResNet-18 for 32x32 images",
        document="",
        config=Config(
            dataset="cifar10",
            layers=resnet18(),
            normalize="per_channel",
            optimizer=SGD(momentum=0.9),
            learning_rate=0.1,
            batch_size=128,
            epochs=30,
        ),
    ),
    Experiment(
        name="batchnorm-cnn",
        title="Four convolutions, each with batch normalisation",
        document="",
        config=Config(
            dataset="mnist",
            layers=BATCHNORM_CNN,
            optimizer=Adam(),
            batch_size=128,
            epochs=10,
        ),
    ),
)
OWN = {experiment.name: experiment for experiment in EXPERIMENTS}

# In the order in which they are measured and shown.
DEFAULT = (
    "fashion-slim/final",
    "cifar-tuning/model1",
    "cifar-tuning/model3",
    "cifar-tuning/model6",
    "mnist-ladder/model1",
    "mnist-ladder/model3",
    "mnist-ladder/model4",
    "mnist-ladder/model5",
    "mnist-ladder/model8",
    "mnist-ladder/model9",
    "mnist-ladder/model10",
    "mnist-ladder/model11",
    "mnist-archs/arch1-k7",
    "mnist-archs/arch2",
    "mnist-archs/arch2-plain",
    "mnist-archs/arch3",
    "fashion-budget/final",
    "resnet18-cifar",
    "batchnorm-cnn",
)


def find(name: str) -> Config:
    """The recipe called `name`: one of this file, of the catalog, or FILE.py:NAME.

    Raises:
        ConfigError: no such recipe, or one that cannot be trained; the near miss is named.
    """
    if name in OWN:
        experiment = OWN[name]
    elif ".py:" in name or name in catalog.experiments():
        experiment = catalog.find(name)
    else:
        known = [*catalog.experiments(), *OWN]
        raise ConfigError(
            f"--models: got {name!r}; allowed are names of `flaxcnn experiments list`, "
            f"{', '.join(OWN)}, and FILE.py:NAME{near_miss(name, known)}"
        )
    # No settings from the environment: a FLAXCNN_EPOCHS of the shell must not change a benchmark.
    return catalog.resolve(experiment, environ={})[0]


def trainable_as(name: str) -> str:
    """What `flaxcnn train` calls this recipe."""
    return f"{Path(__file__)}:{name}" if name in OWN else name
