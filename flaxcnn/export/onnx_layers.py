"""Layers that ONNX has no operator for, or none of these bits, as nodes of a graph."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from flaxcnn.recipe import layers as spec


class Nodes(Protocol):
    """What adds nodes and constants: `flaxcnn.export.onnx_graph.Graph`."""

    params: Any

    def add(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str] = (), **more: Any
    ) -> str:
        """Add a node; the name of its output."""

    def constant(self, name: str, value: Any) -> str:
        """Add an array; its name."""


def layer(graph: Nodes, name: str, layer: spec.Layer, x: str, shape: spec.Shape) -> str:
    """The output of one layer of x [N, C, H, W] or [N, C]; `shape` has the channels last."""
    channels = shape[-1]
    match layer:
        case spec.GlobalMaxPool():
            return graph.add("Flatten", [graph.add("GlobalMaxPool", [x])])
        case spec.BlurPool():
            return _blurred(graph, layer, x, channels)
        case spec.Scale(factor=factor):
            return graph.add("Mul", [x, graph.constant("factor", factor)])
        case spec.LayerScale():
            return graph.add("Mul", [x, _along(graph, name, "scale", shape)])
        case spec.GroupNorm() | spec.InstanceNorm() | spec.LayerNorm() | spec.RMSNorm():
            return _normalized(graph, name, layer, x, shape)
        case spec.SqueezeExcitation() | spec.EfficientChannelAttention():
            return _attended(graph, name, layer, x, channels)
        case spec.ChannelShuffle(groups=groups):
            rest, own = shape[:-1], [0, groups, channels // groups]
            x = _shaped(graph, x, [*own, *rest])
            x = graph.add("Transpose", [x], perm=[0, 2, 1, *range(3, 3 + len(rest))])
            return _shaped(graph, x, [0, channels, *rest])
        case spec.TakeChannels(first=first, count=count):
            ends = [[first], [first + count], [1]]
            return graph.add("Slice", [x, *(graph.constant("slice", np.array(e)) for e in ends)])
        case spec.PadChannels():
            axes = len(shape) + 1
            widths = np.zeros((2, axes), int)
            widths[1, 1] = layer.channels - channels
            return graph.add("Pad", [x, graph.constant("pads", widths.ravel())])
    raise AssertionError(layer)  # the other layers are in `onnx_graph`


def _shaped(graph: Nodes, x: str, shape: Sequence[int]) -> str:
    """x in another shape; 0 keeps a length."""
    return graph.add("Reshape", [x, graph.constant("shape", np.array(shape))])


def _along(graph: Nodes, name: str, weight: str, shape: spec.Shape) -> str:
    """A weight [C] as it is multiplied with a map or with flat features."""
    value = np.asarray(graph.params[name][weight])
    return graph.constant(name, value.reshape(-1, *[1] * (len(shape) - 1)))


def _blurred(graph: Nodes, layer: spec.BlurPool, x: str, channels: int) -> str:
    size = layer.size
    row = np.array([math.comb(size - 1, i) for i in range(size)]) / 2.0 ** (size - 1)
    kernel = np.broadcast_to(np.outer(row, row), (channels, 1, size, size))
    before, after = (size - 1) // 2, size // 2
    widths = np.array([0, 0, before, before, 0, 0, after, after])
    x = graph.add("Pad", [x, graph.constant("pads", widths)], mode="reflect")
    return graph.add(
        "Conv", [x, graph.constant("blur", kernel)], kernel_shape=[size] * 2, group=channels,
        strides=[layer.stride] * 2,
    )  # fmt: skip


def _normalized(
    graph: Nodes, name: str,
    layer: spec.GroupNorm | spec.InstanceNorm | spec.LayerNorm | spec.RMSNorm,
    x: str, shape: spec.Shape,
) -> str:  # fmt: skip
    """Mean and variance over axis 1, or over groups made rows."""
    channels, epsilon = shape[-1], graph.constant("epsilon", layer.epsilon)
    by_group = isinstance(layer, spec.GroupNorm | spec.InstanceNorm)
    groups = layer.groups if isinstance(layer, spec.GroupNorm) else channels
    if by_group:
        x = _shaped(graph, x, [0, groups, -1])
    axis = graph.constant("axis", np.array([2 if by_group else 1]))
    if not isinstance(layer, spec.RMSNorm):
        x = graph.add("Sub", [x, graph.add("ReduceMean", [x, axis])])
    square = graph.add("ReduceMean", [graph.add("Mul", [x, x]), axis])
    x = graph.add("Div", [x, graph.add("Sqrt", [graph.add("Add", [square, epsilon])])])
    if by_group:
        x = _shaped(graph, x, [0, channels, *shape[:-1]])
    x = graph.add("Mul", [x, _along(graph, name, "scale", shape)])
    if isinstance(layer, spec.RMSNorm):
        return x
    return graph.add("Add", [x, _along(graph, name, "bias", shape)])


def _attended(
    graph: Nodes, name: str, layer: spec.SqueezeExcitation | spec.EfficientChannelAttention,
    x: str, channels: int,
) -> str:  # fmt: skip
    """x times a gate for each channel, of their means."""
    own, mean = graph.params[name], graph.add("GlobalAveragePool", [x])
    if isinstance(layer, spec.SqueezeExcitation):
        value = graph.add("Flatten", [mean])
        for step, then in (("squeeze", "Relu"), ("excite", "Sigmoid")):
            weights = [graph.constant(name, own[f"{step}_{kind}"]) for kind in ("kernel", "bias")]
            value = graph.add(then, [graph.add("Gemm", [value, *weights])])
    else:
        kernel = np.asarray(own["kernel"]).reshape(1, 1, -1)
        half = kernel.size // 2
        value = _shaped(graph, mean, [0, 1, channels])
        value = graph.add("Conv", [value, graph.constant(name, kernel)], pads=[half, half])
        value = graph.add("Sigmoid", [value])
    return graph.add("Mul", [x, _shaped(graph, value, [0, channels, 1, 1])])
