"""Flax as its own MNIST example uses it: linen's layers, optax, one jitted call per batch."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.peers.peer import Peer
from benchmarks.peers.task import momentum_of, scaled
from flaxcnn.data.arrays import Split
from flaxcnn.recipe import layers as spec
from flaxcnn.recipe import optimizers
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
        for layer in layers:
            x = self.apply_layer(layer, x, train)
        return x

    def apply_layer(self, layer: Any, x: jax.Array, train: bool) -> jax.Array:
        match layer:
            case spec.Conv():
                x = nn.Conv(
                    layer.filters, spec.pair(layer.kernel, "kernel"),
                    spec.pair(layer.stride, "stride"), layer.padding.upper(),
                    use_bias=layer.bias, dtype=self.dtype,
                    kernel_init=getattr(nn.initializers, layer.init)(),
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
                    not train, momentum=layer.momentum, epsilon=layer.epsilon, dtype=self.dtype
                )(x)
            case spec.Activation():
                return activation(layer.function, layer.slope)(x)
            case spec.Residual():
                x = self.run(layer.layers, x, train) + self.run(layer.shortcut, x, train)
        return activation(layer.activation)(x) if layer.activation else x


def make_optimizer(config: Config) -> optax.GradientTransformation:
    """optax's optimizer of the recipe's family."""
    rate, o = config.learning_rate, config.optimizer
    match o:
        case optimizers.SGD():
            return optax.sgd(rate, **momentum_of(config))
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
        found = metrics(logits, label)
        return found[0], (found, new.get("batch_stats", {}))

    grads, (found, batch_stats) = jax.grad(loss_fn, has_aux=True)(state["params"])
    change, opt_state = optimizer.update(grads, state["optimizer"], state["params"])
    params = optax.apply_updates(state["params"], change)
    new = {"params": params, "batch_stats": batch_stats, "optimizer": opt_state, "key": key}
    return new, found


class FlaxPeer(Peer):
    """`gather`: rows are picked by numpy on the host, or inside the program from data it holds."""

    alternatives: ClassVar[dict[str, tuple[Any, ...]]] = {"gather": ("host", "program")}

    def configure(self, settings: dict[str, Any]) -> None:
        self.in_program = settings["gather"] == "program"
        network = Network(self.config.layers, jnp.dtype(self.task.dtype))
        optimizer = make_optimizer(self.config)
        blank = jnp.zeros((1, *self.data.shape), jnp.float32)
        variables = jax.jit(functools.partial(network.init, train=False))(jax.random.key(0), blank)
        self.state = {
            "params": variables["params"], "batch_stats": variables.get("batch_stats", {}),
            "optimizer": optimizer.init(variables["params"]), "key": jax.random.key(1),
        }  # fmt: skip
        self.draw = np.random.default_rng(0)

        def logits(state: State, image: jax.Array) -> jax.Array:
            kept = {"params": state["params"], "batch_stats": state["batch_stats"]}
            return network.apply(kept, image, False)  # type: ignore[return-value]

        def picked(state: State, image: jax.Array, label: jax.Array, rows: jax.Array) -> Any:
            return train_step(network, optimizer, state, image[rows], label[rows])

        plain = functools.partial(train_step, network, optimizer)
        self.step = jax.jit(picked if self.in_program else plain, donate_argnums=0)
        self.logits = jax.jit(logits)
        self.score = jax.jit(lambda state, image, label: metrics(logits(state, image), label))

    def take_rows(self, train: Split, test: Split) -> None:
        hold = jnp.asarray if self.in_program else np.asarray
        image, test_image = scaled(train, test, self.config)
        self.image, self.label = hold(image), hold(train.label)
        batches = -(-len(test) // self.eval_batch)
        self.test = list(
            zip(np.split(test_image, batches), np.split(test.label, batches), strict=True)
        )

    def train(self, passes: int) -> None:
        for _ in range(passes):
            order = self.draw.permutation(len(self.label)).astype(np.int32)
            found = []
            for rows in order.reshape(-1, self.config.batch_size):
                if self.in_program:
                    self.state, one = self.step(self.state, self.image, self.label, rows)
                else:
                    self.state, one = self.step(self.state, self.image[rows], self.label[rows])
                found.append(one)
        jax.block_until_ready((self.state, found))

    def evaluate(self, passes: int) -> None:
        for _ in range(passes):
            found = [self.score(self.state, *batch) for batch in self.test]
        jax.block_until_ready(found)

    def parameters(self) -> int:
        kept = (self.state["params"], self.state["batch_stats"])
        return sum(x.size for x in jax.tree.leaves(kept))

    def device(self) -> str:
        first = jax.devices()[0]
        return "cpu" if first.platform == "cpu" else first.device_kind


PEER = FlaxPeer
