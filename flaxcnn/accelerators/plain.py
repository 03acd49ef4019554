"""The training loop as the examples of Flax write it: what the package's own is compared with.

linen's layers, optax's optimizers and integer labels, with nothing of the package's in them; in a
scan over a shuffled epoch, as the package's own, so that the two differ in the step alone. Left out
are schedules, label smoothing, weight decay and the padding of an epoch's last batch.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from flaxcnn.errors import ConfigError
from flaxcnn.model.weighted import initializer
from flaxcnn.recipe import layers as spec
from flaxcnn.recipe import optimizers
from flaxcnn.recipe.augment import Augment, Flip, Shift
from flaxcnn.recipe.config import Config

State = dict[str, Any]  # params, batch_stats, optimizer, key


def activation(name: str, slope: float | None = None) -> Any:
    """The function of that name."""
    match name:
        case "leaky_relu":
            return functools.partial(
                nn.leaky_relu, negative_slope=spec.LEAKY_RELU_SLOPE if slope is None else slope
            )
        case "gelu":
            return functools.partial(nn.gelu, approximate=False)
        case "softsign":
            return nn.soft_sign
        case "mish":
            return jax.nn.mish
        case _:
            return getattr(nn, name)


class Network(nn.Module):
    """A recipe's layers as linen has them."""

    layers: tuple[spec.Layer, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[B, H, W, C] -> logits [B, K] float32."""
        return self.run(self.layers, x, train).astype(jnp.float32)

    def run(self, layers: tuple[spec.Layer, ...], x: jax.Array, train: bool) -> jax.Array:
        """The layers one after the other."""
        for layer in layers:
            x = self.apply_layer(layer, x, train)
        return x

    def apply_layer(self, layer: Any, x: jax.Array, train: bool) -> jax.Array:
        """One layer and its activation."""
        match layer:
            case spec.Conv():
                x = nn.Conv(
                    layer.filters, spec.pair(layer.kernel, "kernel"),
                    spec.pair(layer.stride, "stride"), layer.padding.upper(),
                    use_bias=layer.bias, dtype=self.dtype, feature_group_count=layer.groups,
                    kernel_dilation=layer.dilation, kernel_init=initializer(layer.init),
                )(x)  # fmt: skip
            case spec.Dense():
                init = getattr(nn.initializers, layer.init)()
                x = nn.Dense(layer.units, layer.bias, dtype=self.dtype, kernel_init=init)(x)
            case spec.MaxPool():
                size = spec.pair(layer.size, "size")
                return nn.max_pool(x, size, layer.strides, layer.padding.upper())
            case spec.AvgPool():
                size = spec.pair(layer.size, "size")
                return nn.avg_pool(x, size, layer.strides, layer.padding.upper(), False)
            case spec.GlobalAvgPool():
                return x.mean(axis=(1, 2))
            case spec.Flatten():
                return x.reshape(x.shape[0], -1)
            case spec.Dropout():
                return nn.Dropout(layer.rate, deterministic=not train)(x)
            case spec.BatchNorm():
                return nn.BatchNorm(
                    not train, momentum=layer.momentum, epsilon=layer.epsilon, dtype=self.dtype,
                    use_scale=layer.scale, use_bias=layer.bias,
                )(x)  # fmt: skip
            case spec.Activation():
                return activation(layer.function, layer.slope)(x)
            case spec.Residual():
                x = self.run(layer.layers, x, train) + self.run(layer.shortcut, x, train)
            case _:
                raise ConfigError(f"the plain training loop has no layer {layer.label}")
        return activation(layer.activation)(x) if layer.activation else x


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """optax's optimizer of the recipe's family."""
    rate, o = config.learning_rate, config.optimizer
    match o:
        case optimizers.SGD():
            return optax.sgd(rate, momentum=o.momentum, nesterov=o.nesterov)
        case optimizers.Adam():
            return optax.adam(rate, o.beta_1, o.beta_2, o.epsilon)
        case optimizers.Nadam():
            return optax.nadam(rate, o.beta_1, o.beta_2, o.epsilon)
        case optimizers.Adamax():
            return optax.adamax(rate, o.beta_1, o.beta_2, o.epsilon)
        case optimizers.RMSprop():
            return optax.rmsprop(
                rate, o.rho, o.epsilon, centered=o.centered, momentum=o.momentum or None
            )
        case optimizers.Adadelta():
            return optax.adadelta(rate, o.rho, o.epsilon)
        case optimizers.Adagrad():
            return optax.adagrad(rate, o.initial_accumulator, o.epsilon)


def metrics(logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean loss and accuracy, [] float32 each."""
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
    return loss, jnp.mean(logits.argmax(-1) == label, dtype=jnp.float32)


def init_state(config: Config, shape: tuple[int, ...]) -> State:
    """A fresh state for images of `shape` (H, W, C)."""
    network = Network(config.layers, jnp.dtype(config.precision))
    blank = jnp.zeros((1, *shape), jnp.float32)
    variables = network.init(jax.random.key(0), blank, train=False)
    return {
        "params": variables["params"], "batch_stats": variables.get("batch_stats", {}),
        "optimizer": make_optimizer(config).init(variables["params"]), "key": jax.random.key(1),
    }  # fmt: skip


def train_step(
    network: Network, optimizer: optax.GradientTransformation, state: State, image: jax.Array,
    label: jax.Array,
) -> tuple[State, tuple[jax.Array, jax.Array]]:  # fmt: skip
    """One update -> (state, (loss, accuracy))."""
    key, dropout_key = jax.random.split(state["key"])

    def loss_fn(params: Any) -> Any:
        logits, new = network.apply(
            {"params": params, "batch_stats": state["batch_stats"]}, image, True,
            rngs={"dropout": dropout_key}, mutable=["batch_stats"],
        )  # fmt: skip
        sums = metrics(logits, label)
        return sums[0], (sums, new.get("batch_stats", {}))

    grads, (sums, batch_stats) = jax.grad(loss_fn, has_aux=True)(state["params"])
    change, opt_state = optimizer.update(grads, state["optimizer"], state["params"])
    params = optax.apply_updates(state["params"], change)
    new = {"params": params, "batch_stats": batch_stats, "optimizer": opt_state, "key": key}
    return new, sums


def augmented(key: jax.Array, image: jax.Array, steps: tuple[Augment, ...]) -> jax.Array:
    """Random variants of uint8 images [B, H, W, C], a batch's numbers drawn at once."""
    for step in steps:
        key, own = jax.random.split(key)
        match step:
            case Flip():
                mirrored = jax.random.bernoulli(own, shape=(len(image), 1, 1, 1))
                image = jnp.where(mirrored, image[:, :, ::-1], image)
            case Shift():
                shape = image.shape[1:]
                most = (int(step.height * shape[0]), int(step.width * shape[1]))
                wide = jnp.pad(image, ((0, 0), *((n, n) for n in most), (0, 0)), "edge")
                limits = 2 * jnp.array(most) + 1
                start = jax.random.randint(own, (len(image), 2), 0, limits[None])
                cut = lambda x, at, size=shape: jax.lax.dynamic_slice(x, (*at, 0), size)  # noqa: E731
                image = jax.vmap(cut)(wide, start)
            case _:
                raise ConfigError(
                    f"augment: {type(step).__name__.lower()} is not part of the plain loop, which "
                    "knows flip and shift"
                )
    return image


def train_epoch(
    config: Config, state: State, image: jax.Array, label: jax.Array, rows: jax.Array
) -> tuple[State, tuple[jax.Array, jax.Array]]:
    """One pass over `rows` [N] of uint8 `image` [M, H, W, C], shuffled; what is left over waits."""
    network = Network(config.layers, jnp.dtype(config.precision))
    optimizer = make_optimizer(config)
    key, order_key = jax.random.split(state["key"])
    steps = max(len(rows) // config.batch_size, 1)
    order = jax.random.permutation(order_key, rows)[: steps * config.batch_size]

    def body(state: State, now: jax.Array) -> tuple[State, tuple[jax.Array, jax.Array]]:
        pixels = image[now]
        if config.augment:
            own, augment_key = jax.random.split(state["key"])
            state = {**state, "key": own}
            pixels = augmented(augment_key, pixels, config.augment)
        pixels = pixels.astype(jnp.float32) / 255.0
        return train_step(network, optimizer, state, pixels, label[now])

    return jax.lax.scan(body, {**state, "key": key}, order.reshape(steps, -1))


def evaluate(
    config: Config, state: State, image: jax.Array, label: jax.Array, rows: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
    """Mean loss and accuracy [S], and logits [S, B, K], of batches of `rows` [S, B]."""
    network = Network(config.layers, jnp.dtype(config.precision))
    kept = {"params": state["params"], "batch_stats": state["batch_stats"]}

    def body(_: None, now: jax.Array) -> tuple[None, Any]:
        logits: Any = network.apply(kept, image[now].astype(jnp.float32) / 255.0, False)
        return None, (metrics(logits, label[now]), logits)

    results: tuple[tuple[jax.Array, jax.Array], jax.Array] = jax.lax.scan(body, None, rows)[1]
    return results
