"""Recipes of the speed records on CIFAR-10.

    flaxcnn train cifar-speed/94
    flaxcnn bench --to-accuracy 0.94 --runs 5 cifar-speed/94
    flaxcnn bench --compile-for h200 cifar-speed/94

94 is airbench94_muon and 96 airbench96, both of Jordan 2024 (arXiv:2404.00498,
github.com/KellerJordan/cifar10-airbench), in this package's pieces. Their losses are sums over a
batch and ours means, so that rates are theirs times the batch size; their weight decay goes through
the momentum m and ours does not, so that ours is theirs over 1 - m, of the same size once the
momentum has settled.

Neither chooses an epoch: the last one counts, and `keep=last`.
"""

import math

from flaxcnn.recipe import zoo
from flaxcnn.recipe.augment import AlternatingFlip, Crop, Cutout
from flaxcnn.recipe.catalog import Experiment
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Scale
from flaxcnn.recipe.optimizers import SGD, Muon
from flaxcnn.recipe.rules import Decays, Fade, Lookahead, Rates
from flaxcnn.recipe.schedules import Polynomial, Triangular
from flaxcnn.recipe.views import Views

COMMON = {
    "dataset": "cifar10", "normalize": "per_channel", "label_smoothing": 0.2, "drop_last": True,
    "fade": Fade(**{"conv2d/bias": 3}), "tta": Views(flip=True, shift=1), "keep": "last",
}  # fmt: skip
NORM_BIAS = "batch_normalization*/bias"

# -- 94 % ----------------------------------------------------------------------------------------

BATCH, MOMENTUM = 2000, 0.85
KERNELS = 0.24  # rate of Muon
BIASES = 0.053 * BATCH  # of the biases of batch normalisation and of the whitening layer
# Its authors bring the head's weights to variance 1 and divide logits by 256, the width. Weights of
# variance 1 / 256 and logits divided by 16 are the same network, of which a step is 256 times less.
WIDTH = 256
HEAD = 0.67 * BATCH / WIDTH
DECAY = 2e-6 * BATCH / (1 - MOMENTUM)  # of an update, of all of these alike
MUON = Muon(
    momentum=0.6, nesterov=True, ns_steps=3, normalize=True, weights=("conv2d_*/kernel",),
    other=SGD(momentum=MOMENTUM, nesterov=True, weight_decay=DECAY / BIASES),
    other_rate=BIASES / KERNELS,
)  # fmt: skip

# -- 96 % ----------------------------------------------------------------------------------------

# The rate is 9 for 1,000 images of momentum 0.85, which count 1 + 1 / (1 - 0.85) times.
RATE = 9.0 / (1 + 1 / (1 - MOMENTUM))
DECAY_96 = 0.012 / (1 + 1 / (1 - MOMENTUM)) / (1 - MOMENTUM)
SCALED_BIAS = 64.0
# PyTorch's first weights of a dense layer have a third of the variance of `lecun_uniform`.
THIRD = 3.0


def experiment(name: str, title: str, **settings: object) -> Experiment:
    """A recipe of the records."""
    return Experiment(f"cifar-speed/{name}", title, "", config=Config(**{**COMMON, **settings}))  # type: ignore[arg-type]


EXPERIMENTS: tuple[Experiment, ...] = (
    experiment(
        "94", "airbench94_muon: 94 % in 8 epochs, Jordan 2024",
        layers=zoo.airbench(
            head=(Dense(10, init="lecun_uniform", bias=False), Scale(1 / math.sqrt(WIDTH)))
        ),
        augment=(AlternatingFlip(), Crop(2, "reflect")),
        optimizer=MUON, learning_rate=KERNELS, schedule=Polynomial(),
        rates=Rates(**{"dense/kernel": HEAD / BIASES}),
        decays=Decays(**{"dense/kernel": BIASES / HEAD}),
        batch_size=BATCH, epochs=8,
    ),
    experiment(
        "96", "airbench96: 96 % in 37 epochs, Jordan 2024",
        layers=zoo.airbench(
            (128, 384, 512), residual=True, momentum=0.9,
            head=(Dense(10, init="lecun_uniform", bias=False), Scale(1 / 9 / math.sqrt(THIRD))),
        ),
        augment=(AlternatingFlip(), Crop(4, "reflect"), Cutout(12)),
        optimizer=SGD(momentum=MOMENTUM, nesterov=True, weight_decay=DECAY_96 / RATE),
        learning_rate=RATE, schedule=Triangular(peak=0.1, start=0.2, end=0.0),
        rates=Rates(**{NORM_BIAS: SCALED_BIAS, "dense/kernel": THIRD}),
        decays=Decays(**{NORM_BIAS: 1 / SCALED_BIAS, "dense/kernel": 1 / THIRD}),
        lookahead=Lookahead(steps=5, alpha=1 - 0.95**5, power=3), batch_size=1024, epochs=37,
    ),
)  # fmt: skip
