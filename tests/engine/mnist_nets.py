"""Networks as users write them: that of Flax's MNIST examples in its three forms, and a ResNet.

Nothing here knows of flaxcnn.
"""

import functools

import flax.linen as nn
from flax import nnx

pooled = functools.partial(nn.avg_pool, window_shape=(2, 2), strides=(2, 2))


class CNN(nn.Module):
    """Two convolutions of 32 and 64 filters, average pooling, 256 units."""

    @nn.compact
    def __call__(self, x):
        for features in (32, 64):
            x = pooled(nn.relu(nn.Conv(features, kernel_size=(3, 3))(x)))
        x = nn.relu(nn.Dense(256)(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


class Modern(nnx.Module):
    """The same in NNX, for images of 28x28."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 32, kernel_size=(3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(32, 64, kernel_size=(3, 3), rngs=rngs)
        self.linear1 = nnx.Linear(7 * 7 * 64, 256, rngs=rngs)
        self.linear2 = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x):
        x = pooled(nnx.relu(self.conv1(x)))
        x = pooled(nnx.relu(self.conv2(x)))
        return self.linear2(nnx.relu(self.linear1(x.reshape(len(x), -1))))


class Newest(nnx.Module):
    """With batch normalisation and dropout, whose keys are given with each call."""

    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 32, kernel_size=(3, 3), rngs=rngs)
        self.norm1 = nnx.BatchNorm(32, rngs=rngs)
        self.dropout1 = nnx.Dropout(rate=0.025)
        self.conv2 = nnx.Conv(32, 64, kernel_size=(3, 3), rngs=rngs)
        self.norm2 = nnx.BatchNorm(64, rngs=rngs)
        self.linear1 = nnx.Linear(7 * 7 * 64, 256, rngs=rngs)
        self.dropout2 = nnx.Dropout(rate=0.025)
        self.linear2 = nnx.Linear(256, 10, rngs=rngs)

    def __call__(self, x, rngs: nnx.Rngs):
        x = self.dropout1(self.conv1(x), rngs=rngs)
        x = pooled(nnx.relu(self.norm1(x)))
        x = pooled(nnx.relu(self.norm2(self.conv2(x))))
        x = self.dropout2(self.linear1(x.reshape(len(x), -1)), rngs=rngs)
        return self.linear2(nnx.relu(x))


class Block(nn.Module):
    """Two convolutions beside a shortcut, which is a projection where sizes differ."""

    features: int
    strides: int

    @nn.compact
    def __call__(self, x, train: bool):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9)
        y = nn.Conv(self.features, (3, 3), strides=self.strides, use_bias=False)(x)
        y = nn.Conv(self.features, (3, 3), use_bias=False)(nn.relu(norm()(y)))
        y = norm(scale_init=nn.initializers.zeros)(y)
        if x.shape != y.shape:
            x = norm()(nn.Conv(self.features, (1, 1), strides=self.strides, use_bias=False)(x))
        return nn.relu(x + y)


class ResNet(nn.Module):
    """A small residual network."""

    widths: tuple[int, ...] = (8, 16)

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Conv(self.widths[0], (3, 3), strides=2, use_bias=False)(x)
        for number, width in enumerate(self.widths):
            x = Block(width, 1 + (number > 0))(x, train)
        return nn.Dense(10)(x.mean(axis=(1, 2)))
