"""PyTorch, eager or compiled: nn modules in NCHW, data in one tensor, batches by row numbers."""

from __future__ import annotations

import contextlib
import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.peers.peer import Peer
from benchmarks.peers.task import Task, momentum_of, scaled
from flaxcnn.data.arrays import Split
from flaxcnn.recipe import layers as spec
from flaxcnn.recipe import optimizers
from flaxcnn.recipe.config import Config


def same_padding(shape: spec.Shape, size: Any, stride: Any) -> tuple[int, int, int, int]:
    """What `same` adds left, right, above and below: the odd pixel comes after."""
    found: list[int] = []
    for n, k, s in zip(shape[:2], spec.pair(size, "size"), spec.pair(stride, "stride")):
        total = max((math.ceil(n / s) - 1) * s + k - n, 0)
        found = [total // 2, total - total // 2, *found]
    return found[0], found[1], found[2], found[3]


class AvgPoolSame(nn.Module):
    """Mean of the pixels that are there; padding counts for nothing."""

    def __init__(self, size: Any, stride: Any, padding: tuple[int, int, int, int]):
        super().__init__()
        self.size, self.stride, self.padding = size, stride, padding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = F.avg_pool2d(F.pad(x, self.padding), self.size, self.stride)
        there = F.avg_pool2d(F.pad(torch.ones_like(x[:1]), self.padding), self.size, self.stride)
        return total / there


class Residual(nn.Module):
    """activation(main(x) + side(x))."""

    def __init__(self, main: nn.Module, side: nn.Module, after: nn.Module):
        super().__init__()
        self.main, self.side, self.after = main, side, after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.main(x) + self.side(x))


class GlobalAvgPool(nn.Module):
    """[B, C, H, W] -> [B, C]."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def activation(name: str | None, slope: float | None = None) -> nn.Module:
    """The module of that name."""
    plain = {
        "relu": nn.ReLU, "relu6": nn.ReLU6, "elu": nn.ELU, "selu": nn.SELU, "gelu": nn.GELU,
        "silu": nn.SiLU, "mish": nn.Mish, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid,
        "softplus": nn.Softplus, "softsign": nn.Softsign,
    }  # fmt: skip
    if name is None:
        return nn.Identity()
    if name == "leaky_relu":
        return nn.LeakyReLU(spec.LEAKY_RELU_SLOPE if slope is None else slope)
    return nn.Softmax(1) if name == "softmax" else plain[name]()


class Builder:
    """Modules of a recipe; those with parameters are kept under Keras's layer names too."""

    def __init__(self) -> None:
        self.names = spec.Names()
        self.named: dict[str, nn.Module] = {}

    def sequence(self, layers: tuple[spec.Layer, ...], shape: spec.Shape) -> nn.Sequential:
        """The layers one after another for an input of `shape` (H, W, C) or (F,)."""
        modules: list[nn.Module] = []
        for layer in layers:
            name = self.names.next(layer)
            parts = self.modules(layer, name, shape)
            modules += [part for part in parts if not isinstance(part, nn.Identity)]
            shape = layer.out(shape)
        return nn.Sequential(*modules)

    def modules(self, layer: Any, name: str, shape: spec.Shape) -> list[nn.Module]:
        match layer:
            case spec.Conv():
                return self.conv(layer, name, shape)
            case spec.Dense():
                self.named[name] = nn.Linear(shape[0], layer.units, layer.bias)
                return [self.named[name], activation(layer.activation)]
            case spec.MaxPool() | spec.AvgPool():
                return self.pool(layer, shape)
            case spec.GlobalAvgPool():
                return [GlobalAvgPool()]
            case spec.Flatten():
                return [nn.Flatten()]
            case spec.Dropout():
                return [nn.Dropout(layer.rate)]
            case spec.BatchNorm():
                norm = nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d
                self.named[name] = norm(shape[-1], layer.epsilon, 1 - layer.momentum)
                return [self.named[name]]
            case spec.Activation():
                return [activation(layer.function, layer.slope)]
            case spec.Residual():
                main = self.sequence(layer.layers, shape)
                side = self.sequence(layer.shortcut, shape)
                return [Residual(main, side, activation(layer.activation))]
        raise TypeError(f"{type(layer).__name__} has no torch module here")

    def conv(self, layer: spec.Conv, name: str, shape: spec.Shape) -> list[nn.Module]:
        kernel, stride = spec.pair(layer.kernel, "kernel"), spec.pair(layer.stride, "stride")
        pad = (0, 0, 0, 0)
        if layer.padding == "same":
            pad = same_padding(shape, kernel, stride)
        even = pad[0] == pad[1] and pad[2] == pad[3]
        own = (pad[2], pad[0]) if even else 0
        conv = nn.Conv2d(shape[-1], layer.filters, kernel, stride, own, bias=layer.bias)
        self.named[name] = conv
        before = nn.Identity() if even else nn.ZeroPad2d(pad)
        return [before, conv, activation(layer.activation)]

    @staticmethod
    def pool(layer: Any, shape: spec.Shape) -> list[nn.Module]:
        size, stride = spec.pair(layer.size, "size"), layer.strides
        pad = (0, 0, 0, 0)
        if layer.padding == "same":
            pad = same_padding(shape, size, stride)
        if isinstance(layer, spec.AvgPool):
            return [AvgPoolSame(size, stride, pad) if any(pad) else nn.AvgPool2d(size, stride)]
        before = nn.ConstantPad2d(pad, -math.inf) if any(pad) else nn.Identity()
        return [before, nn.MaxPool2d(size, stride)]


def make_optimizer(config: Config, parameters: Any, how: str) -> torch.optim.Optimizer:
    """torch's optimizer of the recipe's family; `how` is loop, foreach or fused."""
    rate, o = config.learning_rate, config.optimizer
    form: dict[str, Any] = {"foreach": how == "foreach"}
    if how == "fused":
        form = {"fused": True}  # a TypeError where the family has none
    match o:
        case optimizers.SGD():
            return torch.optim.SGD(parameters, rate, **momentum_of(config), **form)
        case optimizers.Adam():
            return torch.optim.Adam(parameters, rate, (o.beta_1, o.beta_2), o.epsilon, **form)
        case optimizers.Nadam():
            return torch.optim.NAdam(
                parameters, rate, (o.beta_1, o.beta_2), o.epsilon,
                momentum_decay=o.schedule_decay, **form,
            )  # fmt: skip
        case optimizers.Adamax():
            return torch.optim.Adamax(parameters, rate, (o.beta_1, o.beta_2), o.epsilon, **form)
        case optimizers.RMSprop():
            return torch.optim.RMSprop(
                parameters, rate, o.rho, o.epsilon, momentum=o.momentum, centered=o.centered, **form
            )
        case optimizers.Adadelta():
            return torch.optim.Adadelta(parameters, rate, o.rho, o.epsilon, **form)
        case optimizers.Adagrad():
            return torch.optim.Adagrad(
                parameters, rate, initial_accumulator_value=o.initial_accumulator, eps=o.epsilon,
                **form,
            )  # fmt: skip


class TorchPeer(Peer):
    """The eager loop. Images lie in memory as their `format` wants, so a batch needs no copy."""

    compiled = False
    alternatives: ClassVar[dict[str, tuple[Any, ...]]] = {
        "format": ("contiguous", "channels_last"),
        "optimizer": ("foreach", "loop", "fused"),
    }
    not_compiled = ("optimizer",)

    def __init__(self, task: Task):
        super().__init__(task)
        self.format = ""
        torch.set_num_threads(task.threads)
        torch.manual_seed(0)
        self.where = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def configure(self, settings: dict[str, Any]) -> None:
        if settings["format"] != self.format:
            self.build(settings["format"])
        self.optimizer = make_optimizer(
            self.config, self.network.parameters(), settings["optimizer"]
        )

    def build(self, form: str) -> None:
        """The network and the function of loss and right answers, with weights in `form`."""
        self.format, self.last = form, form == "channels_last"
        builder = Builder()
        network = builder.sequence(self.config.layers, self.data.shape).to(self.where)
        if self.last:
            network = network.to(memory_format=torch.channels_last)
        self.network, self.named = network, builder.named

        def score(image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            with self.half():
                logits = network(image).float()
            right = (logits.argmax(1) == label).sum()
            return F.cross_entropy(logits, label), right

        if self.compiled:
            torch.compiler.reset()
        self.score = torch.compile(score) if self.compiled else score

    def half(self) -> Any:
        """Autocast to bfloat16 where the task says so."""
        if self.task.dtype == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.where.type, torch.bfloat16)

    def take_rows(self, train: Split, test: Split) -> None:
        image, test_image = scaled(train, test, self.config)
        self.image, self.test_image = self.stored(image), self.stored(test_image)
        self.label, self.test_label = (
            torch.from_numpy(split.label).long().to(self.where) for split in (train, test)
        )

    def stored(self, image: Any) -> torch.Tensor:
        """[N, H, W, C] as it is for channels_last, else [N, C, H, W]."""
        pixels = torch.from_numpy(image).to(self.where)
        return pixels if self.last else pixels.permute(0, 3, 1, 2).contiguous()

    def seen(self, image: torch.Tensor) -> torch.Tensor:
        """A stored batch as [B, C, H, W], without a copy."""
        return image.permute(0, 3, 1, 2) if self.last else image

    def train(self, passes: int) -> None:
        self.network.train()
        size = self.config.batch_size
        for _ in range(passes):
            order = torch.randperm(len(self.label), device=self.where)
            total, right = (torch.zeros((), device=self.where) for _ in range(2))
            for rows in order.split(size):
                image = self.seen(self.image.index_select(0, rows))
                loss, correct = self.score(image, self.label.index_select(0, rows))
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                self.optimizer.step()
                total += loss.detach()
                right += correct
        self.wait(total, right)

    def evaluate(self, passes: int) -> None:
        self.network.eval()
        total, right = (torch.zeros((), device=self.where) for _ in range(2))
        with torch.no_grad():
            for _ in range(passes):
                batches = zip(self.test_image.split(self.eval_batch),
                              self.test_label.split(self.eval_batch))  # fmt: skip
                for image, label in batches:
                    loss, correct = self.score(self.seen(image), label)
                    total += loss
                    right += correct
        self.wait(total, right)

    @staticmethod
    def wait(*sums: torch.Tensor) -> None:
        """Until the device is done: reading a number needs it."""
        for one in sums:
            one.item()

    def parameters(self) -> int:
        moving = sum(
            x.numel() for name, x in self.network.named_buffers() if "num_batches" not in name
        )
        return moving + sum(x.numel() for x in self.network.parameters())

    def device(self) -> str:
        return "cpu" if self.where.type == "cpu" else torch.cuda.get_device_name()


class CompiledTorchPeer(TorchPeer):
    """The same loop around `torch.compile` of model and loss."""

    compiled = True


PEER = TorchPeer
