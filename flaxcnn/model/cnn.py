"""Layer specs to one linen module, the network.

Parameters carry Keras's layer names (`conv2d_1/kernel`), whatever the nesting, so the tree of a
model reads like its table.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxcnn.model.channels import channels
from flaxcnn.model.kernels import flatten
from flaxcnn.model.layout import on_cpu
from flaxcnn.model.modules import BatchNorm, Conv2D, OwnLayer, WeightedLayer
from flaxcnn.model.own_layers import own_rows
from flaxcnn.model.pooled_norm import Windows
from flaxcnn.model.pooling import avg_pool2d, blur_pool2d, max_pool2d
from flaxcnn.model.protocol import RowContext, Tree, Variables
from flaxcnn.model.regularization import dropout
from flaxcnn.recipe import layers as spec

ALIVE = "alive"  # collection of booleans: which relu units gave a value above 0
# Functions that never fall, so that the largest value of a window stays the largest under them.
MONOTONE = {"relu", "leaky_relu", "relu6", "elu", "selu", "tanh", "sigmoid", "softplus", "softsign"}
# What they give is kept where activations are computed again for the gradient.
ENDS_A_SEGMENT = (
    spec.MaxPool, spec.AvgPool, spec.GlobalAvgPool, spec.GlobalMaxPool, spec.BlurPool,
    spec.Residual, spec.Parallel,
)  # fmt: skip
OWN_STREAMS = 2**16  # above the number of any dropout layer


def _leaky_relu(x: jax.Array, slope: float | None = None) -> jax.Array:
    return jax.nn.leaky_relu(x, spec.LEAKY_RELU_SLOPE if slope is None else slope)


def _gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)  # Keras's default; jax's is the tanh form


FUNCTIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": _leaky_relu,
    "relu6": jax.nn.relu6,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "gelu": _gelu,
    "silu": jax.nn.silu,
    "mish": jax.nn.mish,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "softplus": jax.nn.softplus,
    "softsign": jax.nn.soft_sign,
    "softmax": jax.nn.softmax,
}


class CNN(nn.Module):
    """The network of a recipe: `CNN(config.layers).apply(variables, x, train=...)`.

    `dtype` is that of the computation; parameters and logits are float32 always. `axis` names the
    mesh axis over which a batch is spread, for statistics of the whole batch; None for one device.
    `platform` is that of the devices it is compiled for, None for jax's default, and `products` the
    precision of matrix products and convolutions of float32 numbers, in the words of
    `jax.default_matmul_precision`; None leaves it as it is.
    """

    layers: tuple[spec.Layer, ...]
    dtype: Any = jnp.float32
    axis: str | None = None
    remat: bool = False  # compute activations again for the gradient, segment by segment
    platform: str | None = None
    products: str | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        *,
        train: bool,
        mask: jax.Array | None = None,
        dropout_key: jax.Array | None = None,
        dropout_rate: jax.Array | None = None,
    ) -> jax.Array:
        """Images [B, H, W, C] -> logits [B, K] float32.

        Args:
            x: prepared images.
            train: batch statistics and dropout (True) or moving averages and none (False).
            mask: [B] bool, False for padding that batch statistics must not see; None for none.
            dropout_key: [B] typed keys, one an image, for training a model that has dropout.
            dropout_rate: one float32 for each dropout layer, in order; the layers' own if None.
        """
        forward = Forward(self, train, mask, dropout_key, dropout_rate)
        x = x.astype(self.dtype)
        precision = jax.default_matmul_precision(self.products) if self.products else nullcontext()
        with precision:
            if not (self.remat and train):
                return forward.layers(self.layers, x).astype(jnp.float32)
            for segment in _segments(self.layers):
                again = nn.remat(lambda _, x, segment=segment: forward.layers(segment, x))
                x = again(self, x)
            return x.astype(jnp.float32)


@dataclass(frozen=True)
class Network:
    """The network of a recipe as the engine's `Model`."""

    module: CNN

    def init(self, key: jax.Array, image: jax.Array) -> Variables:
        """Variables from a typed key, for images [1, H, W, C] float32."""
        variables = self.module.init(key, image, train=False)
        return {name: variables[name] for name in ("params", "batch_stats") if name in variables}

    def apply(
        self, variables: Variables, image: jax.Array, *, train: bool, rows: RowContext
    ) -> tuple[jax.Array, Tree]:
        """Logits [B, K] float32, and the new batch statistics."""
        if not train:
            logits: jax.Array = self.module.apply(variables, image, train=False)  # type: ignore[assignment]
            return logits, variables["batch_stats"]
        logits, changed = self.module.apply(
            variables, image, train=True, mask=rows.mask, dropout_key=rows.keys,
            dropout_rate=rows.rates, mutable=["batch_stats"],
        )  # fmt: skip
        return logits, changed.get("batch_stats", {})

    def alive(self, variables: Variables, image: jax.Array) -> dict[str, jax.Array]:
        """For each layer with relu: which units [C] bool give a value above 0 for any image."""
        _, sown = self.module.apply(variables, image, train=False, mutable=[ALIVE])
        alive = sown.get(ALIVE, {})
        return {name.removeprefix(f"{ALIVE}_"): values[0] for name, values in alive.items()}

    def for_platform(self, platform: str) -> Network:
        """The same network on one device of another kind."""
        return Network(self.module.clone(platform=platform, axis=None, remat=False))


class Forward:
    """One pass through the layers of a model, from within its call. Arguments as there."""

    def __init__(
        self, model: CNN, train: bool, mask: jax.Array | None, dropout_key: jax.Array | None,
        dropout_rate: jax.Array | None,
    ):  # fmt: skip
        self.model, self.train, self.mask = model, train, mask
        self.dropout_key, self.dropout_rate = dropout_key, dropout_rate
        self.names = spec.Names()
        self.owns = 0  # layers of one's own so far
        self.dropouts = 0  # layers so far, each with a stream of random numbers of its own
        # A unit that is alive only where no window is would be called dead.
        self.pools_early = not (on_cpu(model.platform) or model.is_mutable_collection(ALIVE))
        # On a GPU as many bytes, and a few kernels more (benchmarks/NOTES.md).
        self.norms_late = self.pools_early and model.platform == "tpu"

    def layers(self, layers: tuple[spec.Layer, ...], x: jax.Array) -> jax.Array:
        """x through one layer after the other."""
        while layers:
            early = _pooled_early(layers, self.norms_late) if self.pools_early else 1
            group = layers[:early]
            layers = layers[len(group) :]
            named = [(self.names.next(layer), layer) for layer in group]
            x = self.layer(*named[0], x) if len(group) == 1 else self.pool_early(named, x)
        return x

    def layer(self, name: str, layer: spec.Layer, x: jax.Array) -> jax.Array:
        """x [B, ...] through one layer, whose parameters are called `name`."""
        dtype, platform = self.model.dtype, self.model.platform
        match layer:
            case spec.Conv():
                conv = Conv2D(layer, dtype, platform, name=name)
                return self.activate(name, layer.activation, conv(x))
            case spec.Dense():
                init = getattr(nn.initializers, layer.init)()
                dense = nn.Dense(layer.units, layer.bias, dtype=dtype, kernel_init=init, name=name)
                return self.activate(name, layer.activation, dense(x))
            case spec.MaxPool():
                size = spec.pair(layer.size, "size")
                return max_pool2d(x, size, layer.strides, layer.padding, platform)
            case spec.AvgPool():
                size = spec.pair(layer.size, "size")
                return avg_pool2d(x, size, layer.strides, layer.padding)
            case spec.GlobalAvgPool():
                return x.mean(axis=(1, 2))
            case spec.GlobalMaxPool():
                return x.max(axis=(1, 2))
            case spec.BlurPool():
                return blur_pool2d(x, layer.size, layer.stride, platform)
            case spec.Flatten():
                return flatten(x, platform)
            case spec.Activation(function="leaky_relu"):
                return _leaky_relu(x, layer.slope)
            case spec.Activation():
                return self.activate(name, layer.function, x)
            case spec.Dropout():
                return self.dropout(layer, x)
            case spec.BatchNorm():
                norm = BatchNorm(layer, dtype, self.model.axis, platform, name=name)
                return norm(x, self.train, self.mask)
            case spec.StochasticDepth():
                # One draw an image, in the shape of a value for each.
                ones = jnp.ones((len(x), *[1] * (x.ndim - 1)), x.dtype)
                return x * self.dropout(layer, ones)
            case spec.Own():
                return OwnLayer(layer, name=name)(x, self.train, self.own_rows())
            case spec.Scale():
                return x * jnp.asarray(layer.factor, x.dtype)
            case spec.ChannelShuffle() | spec.TakeChannels() | spec.PadChannels():
                return channels(layer, x)
            case spec.Parallel():
                each = [self.layers(branch, x) for branch in layer.branches]
                if layer.join == "add":
                    return functools.reduce(jnp.add, each)
                return jnp.concatenate(each, axis=-1)
            case spec.Residual():
                total = self.layers(layer.layers, x) + self.layers(layer.shortcut, x)
                return self.activate(name, layer.activation, total)
            case _:
                y = WeightedLayer(layer, dtype, platform, name=name)(x)
                return self.activate(name, getattr(layer, "activation", None), y)

    def activate(self, name: str, function: str | None, x: jax.Array) -> jax.Array:
        """The function of x, noting which relu units are alive; None: x itself."""
        if function is None:
            return x
        x = FUNCTIONS[function](x)
        if function == "relu":
            alive = (x > 0).any(axis=tuple(range(x.ndim - 1)))
            self.model.sow(ALIVE, f"{ALIVE}_{name}", alive)
        return x

    def own_rows(self) -> RowContext:
        """What the next layer of one's own is told of the rows."""
        self.owns += 1
        keys = self.dropout_key if self.train else None
        return own_rows(self.mask, keys, OWN_STREAMS + self.owns)

    def dropout(self, layer: spec.Dropout | spec.StochasticDepth, x: jax.Array) -> jax.Array:
        """x with values dropped by the row keys, in training."""
        self.dropouts += 1
        if not self.train or not layer.rate:
            return x
        if self.dropout_key is None:
            raise ValueError("dropout_key: training a model with dropout needs one")
        rates, number = self.dropout_rate, self.dropouts
        rate = jnp.float32(layer.rate) if rates is None else rates[number - 1]
        return dropout(x, self.dropout_key, number, rate, self.model.platform)

    def pool_early(self, named: list[tuple[str, Any]], x: jax.Array) -> jax.Array:
        """A convolution or normalisation, an activation or both, and a maximum taken before it.

        That is, before bias, normalisation and activation. The result is the same, and all that
        comes after it has a fraction of the values.
        """
        (name, first), *between, (pool_name, pool) = named
        dtype, platform = self.model.dtype, self.model.platform
        take = functools.partial(self.layer, pool_name, pool)
        match first:
            case spec.Conv():
                conv = Conv2D(first, dtype, platform, name=name)
                x = self.activate(name, first.activation, conv(x, take))
            case spec.BatchNorm():
                windows = Windows(spec.pair(pool.size, "size"), pool.strides, pool.padding)
                norm = BatchNorm(first, dtype, self.model.axis, platform, name=name)
                x = norm(x, self.train, self.mask, windows)
            case _:
                x = self.layer(name, first, take(x))
        for name, layer in between:
            x = self.layer(name, layer, x)
        return x


def _pooled_early(layers: tuple[spec.Layer, ...], norms_late: bool) -> int:
    """How many of the first are [convolution or norm], [activation], maximum over windows; or 1."""
    match layers:
        case (spec.BatchNorm(), *_) if not norms_late:
            return 1
        case (
            spec.Conv(activation=None) | spec.BatchNorm(),
            spec.Activation() as own, spec.MaxPool() as pool, *_,
        ):  # fmt: skip
            count, rises = 3, _rises(own)
        case (spec.BatchNorm(), spec.MaxPool() as pool, *_):
            count, rises = 2, True
        case (spec.Conv(activation=name), spec.MaxPool() as pool, *_):
            count, rises = 2, name is None or name in MONOTONE
        case (spec.Activation() as own, spec.MaxPool() as pool, *_):
            count, rises = 2, _rises(own)
        case _:
            return 1
    return count if rises and spec.pair(pool.size, "size") != (1, 1) else 1


def _rises(layer: spec.Activation) -> bool:
    """Whether it never falls."""
    return layer.function in MONOTONE and (layer.slope is None or layer.slope >= 0)


def _segments(layers: tuple[spec.Layer, ...]) -> Iterator[tuple[spec.Layer, ...]]:
    """Runs of layers, each up to one that ENDS_A_SEGMENT."""
    first = 0
    for last, layer in enumerate(layers, start=1):
        if isinstance(layer, ENDS_A_SEGMENT) or last == len(layers):
            yield layers[first:last]
            first = last
