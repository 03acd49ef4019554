"""Keras 3 on TensorFlow or JAX: a functional model, compile, fit and evaluate.

KERAS_BACKEND, set for the process, decides which.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras

from benchmarks.peers.peer import Peer
from benchmarks.peers.task import Task, momentum_of, scaled
from flaxcnn.data.arrays import Split
from flaxcnn.recipe import layers as spec
from flaxcnn.recipe import optimizers
from flaxcnn.recipe.config import Config


def activation(name: str, slope: float | None = None) -> Any:
    """A layer of that function."""
    if name == "leaky_relu":
        used = spec.LEAKY_RELU_SLOPE if slope is None else slope
        return keras.layers.LeakyReLU(negative_slope=used)
    return keras.layers.Activation(name)


def run(layers: tuple[spec.Layer, ...], x: Any, names: spec.Names) -> Any:
    """The layers applied to a symbolic tensor; each carries its name of the recipe's table."""
    for layer in layers:
        x = apply_layer(layer, names.next(layer), x, names)
    return x


def apply_layer(layer: Any, name: str, x: Any, names: spec.Names) -> Any:
    L = keras.layers
    match layer:
        case spec.Conv():
            x = L.Conv2D(
                layer.filters, layer.kernel, layer.stride, layer.padding, use_bias=layer.bias,
                kernel_initializer=layer.init, name=name,
            )(x)  # fmt: skip
        case spec.Dense():
            x = L.Dense(layer.units, use_bias=layer.bias, kernel_initializer=layer.init, name=name)(
                x
            )
        case spec.MaxPool():
            return L.MaxPooling2D(layer.size, layer.strides, layer.padding)(x)
        case spec.AvgPool():
            return L.AveragePooling2D(layer.size, layer.strides, layer.padding)(x)
        case spec.GlobalAvgPool():
            return L.GlobalAveragePooling2D()(x)
        case spec.Flatten():
            return L.Flatten()(x)
        case spec.Dropout():
            return L.Dropout(layer.rate)(x)
        case spec.BatchNorm():
            return L.BatchNormalization(
                momentum=layer.momentum, epsilon=layer.epsilon, name=name
            )(x)  # fmt: skip
        case spec.Activation():
            return activation(layer.function, layer.slope)(x)
        case spec.Residual():
            x = L.Add()([run(layer.layers, x, names), run(layer.shortcut, x, names)])
    return activation(layer.activation)(x) if layer.activation else x


def make_optimizer(config: Config) -> Any:
    """Keras's optimizer of the recipe's family."""
    rate, o = config.learning_rate, config.optimizer
    match o:
        case optimizers.SGD():
            return keras.optimizers.SGD(rate, **momentum_of(config))
        case optimizers.Adam() | optimizers.Nadam() | optimizers.Adamax():
            family = getattr(keras.optimizers, type(o).__name__)
            return family(rate, o.beta_1, o.beta_2, o.epsilon)
        case optimizers.RMSprop():
            return keras.optimizers.RMSprop(rate, o.rho, o.momentum, o.epsilon, o.centered)
        case optimizers.Adadelta():
            return keras.optimizers.Adadelta(rate, o.rho, o.epsilon)
        case optimizers.Adagrad():
            return keras.optimizers.Adagrad(rate, o.initial_accumulator, o.epsilon)


def compiled(
    config: Config, shape: tuple[int, ...], settings: dict[str, Any], dtype: str = "float32"
) -> keras.Model:
    """The recipe's network, ready to be trained in the way that `settings` say."""
    image = keras.Input(shape)
    logits = run(config.layers, image, spec.Names())
    if dtype == "bfloat16":
        logits = keras.layers.Activation("linear", dtype="float32")(logits)
    network = keras.Model(image, logits)
    network.compile(
        optimizer=make_optimizer(config),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=settings["jit_compile"],
        steps_per_execution=settings["steps_per_execution"],
    )
    return network


def fit_arguments(image: Any, label: Any, batch: int, settings: dict[str, Any]) -> dict[str, Any]:
    """The rows as fit is given them: arrays, or what tf.data's performance guide recommends."""
    if settings.get("data") != "tf.data":
        return {"x": image, "y": label, "batch_size": batch}
    import tensorflow as tf

    rows = tf.data.Dataset.from_tensor_slices((image, label))
    batches = rows.cache().shuffle(len(label)).batch(batch)
    return {"x": batches.prefetch(tf.data.AUTOTUNE)}


class KerasPeer(Peer):
    """`data` is what fit is given: arrays, or a cached and prefetched tf.data pipeline."""

    def __init__(self, task: Task):
        super().__init__(task)
        keras.utils.set_random_seed(0)
        if task.dtype == "bfloat16":
            keras.config.set_dtype_policy("mixed_bfloat16")

    def configure(self, settings: dict[str, Any]) -> None:
        keras.backend.clear_session()
        self.way = settings
        self.network = compiled(self.config, self.data.shape, settings, self.task.dtype)

    def take_rows(self, train: Split, test: Split) -> None:
        image, self.test_image = scaled(train, test, self.config)
        self.test_label = test.label
        self.arguments = fit_arguments(image, train.label, self.config.batch_size, self.way)

    def train(self, passes: int) -> None:
        self.network.fit(**self.arguments, epochs=passes, verbose=0)

    def evaluate(self, passes: int) -> None:
        for _ in range(passes):
            self.network.evaluate(
                self.test_image, self.test_label, batch_size=self.eval_batch, verbose=0
            )

    def parameters(self) -> int:
        return sum(math.prod(weight.shape) for weight in self.network.weights)


class KerasTensorFlowPeer(KerasPeer):
    """Keras on TensorFlow, by XLA or without."""

    alternatives: ClassVar[dict[str, tuple[Any, ...]]] = {
        "jit_compile": (True, False),
        "steps_per_execution": (1, 16),
        "data": ("arrays", "tf.data"),
    }

    def __init__(self, task: Task):
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(task.threads)
        tf.config.threading.set_inter_op_parallelism_threads(task.threads)
        super().__init__(task)

    def device(self) -> str:
        import tensorflow as tf

        found = tf.config.list_physical_devices("GPU")
        return (
            tf.config.experimental.get_device_details(found[0])["device_name"] if found else "cpu"
        )


class KerasJaxPeer(KerasPeer):
    """Keras on JAX, always by XLA: without it every operation is a program of its own."""

    alternatives: ClassVar[dict[str, tuple[Any, ...]]] = {
        "jit_compile": (True,),
        "steps_per_execution": (1, 16),
    }

    def device(self) -> str:
        import jax

        first = jax.devices()[0]
        return "cpu" if first.platform == "cpu" else first.device_kind


PEER = KerasTensorFlowPeer if keras.backend.backend() == "tensorflow" else KerasJaxPeer
