"""Settings that a compiled program takes as numbers: recipes that differ in them alone share one.

Everything else is compiled in. Whether such a number is 0 is compiled in too, since 0 leaves a
whole operation out; only SGD's momentum is not, for its velocity is there in any case.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flaxcnn.recipe.layers import Dropout, Layer, Residual
from flaxcnn.recipe.optimizers import SGD, Optimizer, RMSprop

SOME = 0.5  # stands for every value above 0


def compiled_layers(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The layers with every dropout rate above 0 made the same.

    >>> compiled_layers((Dropout(0.2),)) == compiled_layers((Dropout(0.3),))
    True
    """
    return tuple(_compiled_layer(layer) for layer in layers)


def _compiled_layer(layer: Layer) -> Layer:
    match layer:
        case Dropout(rate=rate) if rate:
            return Dropout(SOME)
        case Residual():
            return replace(
                layer, layers=compiled_layers(layer.layers),
                shortcut=compiled_layers(layer.shortcut),
            )  # fmt: skip
    return layer


def dropout_rates(layers: tuple[Layer, ...]) -> list[float]:
    """The rate of every dropout layer, in the order in which the network runs them."""
    rates: list[float] = []
    for layer in layers:
        match layer:
            case Dropout(rate=rate):
                rates.append(rate)
            case Residual():
                rates += dropout_rates(layer.layers) + dropout_rates(layer.shortcut)
    return rates


def compiled_optimizer(optimizer: Optimizer) -> Optimizer:
    """The optimizer with its momentum and weight decay made the same wherever they are above 0."""
    changed: dict[str, Any] = {}
    if optimizer.weight_decay:
        changed["weight_decay"] = SOME
    if isinstance(optimizer, SGD) or (isinstance(optimizer, RMSprop) and optimizer.momentum):
        changed["momentum"] = SOME
    return replace(optimizer, **changed)
