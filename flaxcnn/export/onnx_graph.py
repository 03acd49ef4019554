"""A recipe's layers as an ONNX graph.

flaxcnn has channels last and ONNX has them second, so images are transposed once at the start, and
once more before a flatten, whose weights expect rows, columns, channels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxcnn.errors import ConfigError
from flaxcnn.export import onnx_layers
from flaxcnn.model.kernels import pads
from flaxcnn.recipe import layers as spec
from flaxcnn.recipe.convolutions import Convolution, reach
from flaxcnn.trained import TrainedModel

OPSET = 20  # the first with Gelu
FIRST, LAST = [0, 3, 1, 2], [0, 2, 3, 1]  # where channels go
OPERATORS = {
    "relu": "Relu", "elu": "Elu", "selu": "Selu", "gelu": "Gelu", "mish": "Mish", "tanh": "Tanh",
    "sigmoid": "Sigmoid", "softplus": "Softplus", "softsign": "Softsign",
}  # fmt: skip


def onnx_model(model: TrainedModel, raw: bool) -> Any:
    """The `onnx.ModelProto`: `images` [N, H, W, C] -> `logits` [N, K] float32.

    Args:
        model: of a recipe with layers.
        raw: `images` are float32 and scaled already; otherwise uint8 pixels.
    """
    from onnx import TensorProto, checker, helper

    graph = Graph(model)
    kind = TensorProto.FLOAT if raw else TensorProto.UINT8
    x = "images"
    if not raw:
        x = graph.add("Cast", [x], to=TensorProto.FLOAT)
        x = graph.add("Sub", [x, graph.constant("mean", model.mean)])
        x = graph.add("Div", [x, graph.constant("scale", model.scale)])
    x = graph.add("Transpose", [x], perm=FIRST)
    x, _ = graph.layers(model.config.layers, x, model.shape)
    graph.add("Identity", [x], outputs=["logits"])
    classes = len(model.classes)
    made = helper.make_graph(
        graph.nodes, "flaxcnn",
        [helper.make_tensor_value_info("images", kind, ["N", *model.shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])],
        graph.constants,
    )  # fmt: skip
    proto = helper.make_model(
        made, producer_name="flaxcnn", opset_imports=[helper.make_opsetid("", OPSET)]
    )
    proto.ir_version = min(proto.ir_version, 10)  # that of the operator set; runtimes lag behind
    checker.check_model(proto, full_check=True)
    return proto


class Graph:
    """Nodes and constants, added layer by layer as `flaxcnn.model.cnn.Forward` runs them."""

    def __init__(self, model: TrainedModel):
        self.params = model.variables["params"]
        self.stats = model.variables["batch_stats"]
        self.names = spec.Names()
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str] = (), **more: Any
    ) -> str:
        """Add a node; the name of its (first) output."""
        from onnx import helper

        names = list(outputs) or [f"{operator.lower()}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(operator, list(inputs), names, **more))
        return names[0]

    def constant(self, name: str, value: Any) -> str:
        """Add an array, float32 or int64; its name."""
        from onnx import numpy_helper

        array = np.asarray(value)
        array = array.astype(np.int64 if array.dtype.kind in "iu" else np.float32)
        unique = f"{name}_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), unique))
        return unique

    def layers(
        self, layers: Sequence[spec.Layer], x: str, shape: spec.Shape
    ) -> tuple[str, spec.Shape]:
        """(output, its shape without the batch, channels last) of one layer after the other."""
        for layer in layers:
            name = self.names.next(layer)
            x = self.layer(name, layer, x, shape)
            shape = layer.out(shape)
        return x, shape

    def layer(self, name: str, layer: spec.Layer, x: str, shape: spec.Shape) -> str:
        """The output of one layer."""
        match layer:
            case spec.Conv():
                return self.activate(layer.activation, self.convolution(name, layer, x, shape))
            case spec.Dense():
                return self.activate(layer.activation, self.dense(name, layer, x))
            case spec.MaxPool():
                return self.add("MaxPool", [x], **_windows(layer, shape))
            case spec.AvgPool():
                return self.add("AveragePool", [x], count_include_pad=0, **_windows(layer, shape))
            case spec.GlobalAvgPool():
                return self.add("Flatten", [self.add("GlobalAveragePool", [x])])
            case spec.Flatten():
                last = self.add("Transpose", [x], perm=LAST) if len(shape) == 3 else x
                return self.add("Flatten", [last])
            case spec.Activation(function="leaky_relu"):
                slope = spec.LEAKY_RELU_SLOPE if layer.slope is None else layer.slope
                return self.add("LeakyRelu", [x], alpha=slope)
            case spec.Activation():
                return self.activate(layer.function, x)
            case spec.Dropout():
                return x
            case spec.BatchNorm():
                return self.batch_norm(name, layer, x, shape)
            case spec.Residual():
                main, _ = self.layers(layer.layers, x, shape)
                short, _ = self.layers(layer.shortcut, x, shape)
                return self.activate(layer.activation, self.add("Add", [main, short]))
            case spec.Parallel():
                each = [self.layers(branch, x, shape)[0] for branch in layer.branches]
                if layer.join == "concat":
                    return self.add("Concat", each, axis=1)
                return functools.reduce(lambda a, b: self.add("Add", [a, b]), each)
            case spec.StochasticDepth():
                return x
            case spec.DepthwiseConv() | spec.SeparableConv():
                return self.activate(layer.activation, self.depthwise(name, layer, x, shape))
            case spec.Own():
                raise ConfigError(
                    f"--format onnx cannot write {layer.target}, a layer of your own; use stablehlo"
                )
            case _:
                return onnx_layers.layer(self, name, layer, x, shape)

    def batch_norm(self, name: str, layer: spec.BatchNorm, x: str, shape: spec.Shape) -> str:
        """Normalisation by the moving averages."""
        own, moving, channels = self.params.get(name, {}), self.stats[name], shape[-1]
        scale, bias = own.get("scale", np.ones(channels)), own.get("bias", np.zeros(channels))
        values = (scale, bias, moving["mean"], moving["var"])
        inputs = [x, *(self.constant(name, value) for value in values)]
        return self.add("BatchNormalization", inputs, epsilon=layer.epsilon)

    def convolution(self, name: str, layer: spec.Conv, x: str, shape: spec.Shape) -> str:
        """A convolution with its bias."""
        own = self.params[name]
        inputs = [x, self.constant(name, np.transpose(own["kernel"], (3, 2, 0, 1)))]
        if layer.bias:
            inputs.append(self.constant(name, own["bias"]))
        return self.add("Conv", inputs, group=layer.groups, **_places(layer, shape))

    def depthwise(
        self, name: str, layer: spec.DepthwiseConv | spec.SeparableConv, x: str, shape: spec.Shape
    ) -> str:
        """A convolution of each channel by itself, and for a separable one that of the pixels."""
        own, separable = self.params[name], isinstance(layer, spec.SeparableConv)
        kernel = np.asarray(own["depthwise_kernel" if separable else "kernel"])
        kernel = kernel.reshape(*kernel.shape[:2], 1, -1)
        bias = [self.constant(name, own["bias"])] if layer.bias else []
        inputs = [x, self.constant(name, np.transpose(kernel, (3, 2, 0, 1)))]
        more = {"group": shape[-1], **_places(layer, shape)}
        if not separable:
            return self.add("Conv", [*inputs, *bias], **more)
        pixels = np.transpose(own["pointwise_kernel"], (3, 2, 0, 1))
        x = self.add("Conv", inputs, **more)
        return self.add("Conv", [x, self.constant(name, pixels), *bias], kernel_shape=(1, 1))

    def dense(self, name: str, layer: spec.Dense, x: str) -> str:
        """A matrix product with its bias."""
        own = self.params[name]
        inputs = [x, self.constant(name, own["kernel"])]
        if layer.bias:
            inputs.append(self.constant(name, own["bias"]))
        return self.add("Gemm", inputs)

    def activate(self, function: str | None, x: str) -> str:
        """The function of x; None: x itself."""
        match function:
            case None:
                return x
            case "relu6":
                return self.add("Clip", [x, self.constant("low", 0.0), self.constant("high", 6.0)])
            case "silu":
                return self.add("Mul", [x, self.add("Sigmoid", [x])])
            case "leaky_relu":
                return self.add("LeakyRelu", [x], alpha=spec.LEAKY_RELU_SLOPE)
            case "softmax":
                return self.add("Softmax", [x], axis=1)  # the channels
        return self.add(OPERATORS[function], [x])


def _places(layer: Convolution, shape: spec.Shape) -> dict[str, Any]:
    """Attributes of a convolution."""
    kernel, stride = spec.pair(layer.kernel, "kernel"), spec.pair(layer.stride, "stride")
    return {"kernel_shape": kernel, "strides": stride, "dilations": [layer.dilation] * 2,
            "pads": _pads(shape, reach(layer), stride, layer.padding)}  # fmt: skip


def _windows(layer: spec.MaxPool | spec.AvgPool, shape: spec.Shape) -> dict[str, Any]:
    """Attributes of a pooling."""
    size = spec.pair(layer.size, "size")
    return {"kernel_shape": size, "strides": layer.strides,
            "pads": _pads(shape, size, layer.strides, layer.padding)}  # fmt: skip


def _pads(
    shape: spec.Shape, window: tuple[int, int], stride: tuple[int, int], padding: spec.Padding
) -> list[int]:
    """[top, left, bottom, right]."""
    (top, bottom), (left, right) = pads((shape[0], shape[1]), window, stride, padding)
    return [top, left, bottom, right]
