"""Champions: the best networks we know at the sizes of the documents, and at smaller ones.

    flaxcnn train best/mnist-2k
    flaxcnn experiments run best --seeds 5

Names give the budget: `mnist-2k` has at most 2,000 parameters, moving statistics included (`budget`
of each, which a test holds). `aim` is the test accuracy that we want of it. What was tried, what it
gave and what it cost is in LOG.md; which of them have been trained, in RESULTS.md.

The recipes were chosen on held-out rows. The last epoch is kept, so that no epoch is chosen, and
the schedules end near 0.
"""

from flaxcnn.recipe import zoo
from flaxcnn.recipe.augment import (
    Augment,
    Crop,
    Cutout,
    Elastic,
    Flip,
    RandomErasing,
    Rotate,
    Translate,
    Zoom,
)
from flaxcnn.recipe.averages import EMA
from flaxcnn.recipe.catalog import Experiment
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import (
    Activation,
    BatchNorm,
    Conv,
    Dense,
    DepthwiseConv,
    GlobalAvgPool,
    Layer,
    MaxPool,
    Residual,
)
from flaxcnn.recipe.optimizers import SGD, Adam
from flaxcnn.recipe.schedules import Cosine, OneCycle
from flaxcnn.recipe.views import Views

Layers = tuple[Layer, ...]

# -- small networks for 28 pixels ------------------------------------------------------------------
# Relu passes positive factors on, so the next convolution can be the norm's factor: no `scale`.
NORM = BatchNorm(momentum=0.9, epsilon=1e-5, scale=False)
RELU = Activation("relu")
HEAD: Layers = (GlobalAvgPool(), Dense(10))


def convolution(filters: int, kernel: int = 3, stride: int = 1) -> Layers:
    """A convolution, batch normalisation and relu."""
    return Conv(filters, kernel, stride, "same", init="he_normal", bias=False), NORM, RELU


def separable(filters: int, kernel: int = 3) -> Layers:
    """A depthwise and a 1x1 convolution, batch normalisation and relu."""
    return DepthwiseConv(kernel, 1, "same", bias=False), *convolution(filters, 1)


def block(layers: Layers) -> Residual:
    """A residual block of layers that end in relu."""
    return Residual(layers[:-1])


# 5x5 at every second pixel: a quarter of the work of 3x3 at every pixel, and a sixth of what a 3x3
# at every pixel costs in memory traffic. A 5x5 depthwise kernel at 7x7 sees the whole digit.
MNIST_2K: Layers = (
    *convolution(8, 5, stride=2),  # (14, 14, 8)
    *separable(16),
    *separable(16),
    MaxPool(2),  # (7, 7, 16)
    *separable(20, 5),
    *HEAD,
)
MNIST_8K: Layers = (
    *convolution(20, 5, stride=2),  # (14, 14, 20)
    *separable(32),
    MaxPool(2),  # (7, 7, 32)
    *separable(36),
    block(separable(36, 5)),
    block(separable(36)),
    *HEAD,
)
MNIST_35K: Layers = (
    *convolution(16, 5, stride=2),  # (14, 14, 16)
    *convolution(32),
    block(convolution(32)),
    MaxPool(2),  # (7, 7, 32)
    *convolution(64),
    *HEAD,
)
FASHION_48K: Layers = (
    *convolution(24),  # (28, 28, 24)
    MaxPool(2),
    *separable(48),  # (14, 14, 48)
    block(separable(48)),
    block(separable(48)),
    MaxPool(2),
    *separable(96),  # (7, 7, 96)
    block(separable(96, 5)),
    block(separable(96)),
    block(separable(96)),
    *HEAD,
)


def moved(degrees: float, zoom: float, shift: float) -> tuple[Augment, ...]:
    """Turned, zoomed and moved on black, resampled once."""
    return (
        Rotate(degrees, "constant"), Zoom(zoom, "constant"), Translate(shift, shift, "constant"),
    )  # fmt: skip


SMALL = {
    "optimizer": Adam(), "learning_rate": 0.01, "schedule": OneCycle(pct_start=0.2),
    "batch_size": 128, "keep": "last",
}  # fmt: skip
DIGITS = {**SMALL, "dataset": "mnist", "tta": Views(flip=False, shift=1)}
CLOTHES = {**SMALL, "dataset": "fashion_mnist", "tta": Views(flip=True)}
# Large ones as their papers train them, and with what has become known since: a cosine, an average
# of the weights, smoothed labels, and two views of a test image.
LARGE = {
    "optimizer": SGD(momentum=0.9, nesterov=True, weight_decay=5e-4), "learning_rate": 0.1,
    "schedule": Cosine(warmup_epochs=5), "batch_size": 128, "drop_last": True, "keep": "last",
    "normalize": "per_channel", "label_smoothing": 0.1, "no_decay": ("*/bias", "*/scale"),
    "average": EMA(decay=0.999), "tta": Views(flip=True),
}  # fmt: skip


def champion(
    name: str, budget: int, aim: float, title: str, layers: Layers, **settings: object
) -> Experiment:
    """An experiment of `best/`."""
    config = Config(**{"layers": layers, **settings})  # type: ignore[arg-type]
    return Experiment(f"best/{name}", title, "", config=config, budget=budget, aim=aim)


EXPERIMENTS: tuple[Experiment, ...] = (
    champion(
        "mnist-2k", 2_000, 0.992, "Separable convolutions, 5x5 at the end", MNIST_2K,
        **DIGITS, epochs=20, augment=moved(10, 0.1, 0.07),
    ),
    champion(
        "mnist-8k", 8_000, 0.9955, "Separable residual blocks", MNIST_8K,
        **DIGITS, epochs=15, augment=moved(12, 0.12, 0.08),
    ),
    champion(
        "mnist-35k", 35_030, 0.997, "3x3 convolutions, elastic distortions", MNIST_35K,
        **DIGITS, epochs=40, augment=(*moved(15, 0.15, 0.1), Elastic(20.0, 5.0, "constant")),
        label_smoothing=0.05,
    ),
    champion(
        "fashion-48k", 47_582, 0.935, "Separable residual blocks", FASHION_48K,
        **CLOTHES, epochs=40, augment=(Crop(2), Flip(), RandomErasing(0.3)), label_smoothing=0.05,
    ),
    champion(
        "fashion-800k", 800_000, 0.954, "DenseNet-BC-100-12", zoo.densenet_bc(100, 12),
        **LARGE, dataset="fashion_mnist", epochs=100,
        augment=(Crop(2), Flip(), RandomErasing(0.5)),
    ),
    champion(
        "cifar10-300k", 300_000, 0.93, "DenseNet-BC-52-12", zoo.densenet_bc(52, 12),
        **LARGE, dataset="cifar10", epochs=200, augment=(Crop(4), Flip()),
    ),
    champion(
        "cifar10-1.25m", 1_250_858, 0.945, "DenseNet-BC-100-15", zoo.densenet_bc(100, 15),
        **LARGE, dataset="cifar10", epochs=200, augment=(Crop(4), Flip(), Cutout(8)),
    ),
    champion(
        "cifar10-2.4m", 2_395_562, 0.95, "PyramidNet-164 with bottlenecks",
        zoo.pyramidnet(164, 60, bottleneck=True),
        **LARGE, dataset="cifar10", epochs=200, augment=(Crop(4), Flip(), Cutout(12)),
    ),
)  # fmt: skip
