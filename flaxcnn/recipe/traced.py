"""Settings that a compiled program takes as numbers: recipes that differ in them alone share one.

Everything else is compiled in. Whether such a number is 0 is compiled in too, since 0 leaves a
whole operation out; only SGD's momentum is not, for its velocity is there in any case.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flaxcnn.recipe.averages import EMA, Average
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import (
    Dropout,
    Layer,
    StochasticDepth,
    branches_of,
    every,
    with_branches,
)
from flaxcnn.recipe.optimizers import SGD, Muon, Optax, Optimizer
from flaxcnn.recipe.rules import Rules

NONZERO = 0.5  # stands for every value above 0


def compiled_layers(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """The layers with every dropout rate above 0 made the same.

    >>> compiled_layers((Dropout(0.2),)) == compiled_layers((Dropout(0.3),))
    True
    """
    return tuple(_compiled_layer(layer) for layer in layers)


def _compiled_layer(layer: Layer) -> Layer:
    if isinstance(layer, Dropout | StochasticDepth):
        return replace(layer, rate=NONZERO) if layer.rate else layer
    return with_branches(layer, tuple(map(compiled_layers, branches_of(layer))))


def dropout_rates(layers: tuple[Layer, ...]) -> list[float]:
    """The rate of every dropout layer, in the order in which the network runs them."""
    return [layer.rate for layer in every(layers) if isinstance(layer, Dropout | StochasticDepth)]


def compiled_optimizer(optimizer: Optimizer) -> Optimizer:
    """The optimizer with its traced numbers made the same wherever they are above 0."""
    if isinstance(optimizer, Optax):
        given = {**optimizer.named, **dict.fromkeys(optimizer.traced, NONZERO)}
        return Optax(optimizer.factory, traced=optimizer.traced, source=optimizer.source, **given)
    there = ("momentum",) if isinstance(optimizer, SGD | Muon) else ()
    changed: dict[str, Any] = {
        name: NONZERO for name in optimizer.traced if name in there or getattr(optimizer, name)
    }
    return replace(optimizer, **changed)


def optimizer_numbers(optimizer: Optimizer) -> dict[str, float]:
    """The traced numbers of an optimizer by name."""
    if isinstance(optimizer, Optax):
        return {name: float(optimizer.named[name]) for name in optimizer.traced}
    return {name: getattr(optimizer, name) for name in optimizer.traced}


def compiled_rules(config: Config) -> Rules:
    """What an update does beside the optimizer, its numbers made the same."""
    return Rules(
        freeze=config.frozen,
        no_decay=config.no_decay,
        rates=tuple(config.rates.named) if config.rates else (),
        decays=tuple(config.decays.named) if config.decays else (),
        fade=tuple(config.fade.named) if config.fade else (),
        clip=replace(config.clip, value=NONZERO) if config.clip else None,
        sam=config.sam > 0,
        lookahead=replace(config.lookahead, alpha=NONZERO) if config.lookahead else None,
        average=_compiled_average(config.average),
        distill=config.distill and replace(config.distill, temperature=NONZERO, weight=NONZERO),
    )


def _compiled_average(average: Average | None) -> Average | None:
    """The average with its numbers made the same; what is kept at the end is compiled nowhere."""
    if isinstance(average, EMA):
        return replace(average, keep=True, decay=NONZERO)
    return replace(average, keep=True) if average else None


def rule_numbers(config: Config) -> dict[str, float]:
    """The numbers of these rules by name."""
    numbers: dict[str, float] = {}
    for given in filter(None, (config.rates, config.decays, config.fade)):
        numbers |= {f"{given.setting}.{name}": float(n) for name, n in given.named.items()}
    if config.clip:
        numbers["clip"] = config.clip.value
    if config.sam:
        numbers["sam"] = config.sam
    if config.lookahead:
        numbers["lookahead"] = config.lookahead.alpha
    if isinstance(config.average, EMA):
        numbers["average"] = config.average.decay
    if config.distill:
        numbers["distill.temperature"] = config.distill.temperature
        numbers["distill.weight"] = config.distill.weight
    return numbers
