"""Specifications of losses and metrics; `flaxcnn.model.losses` computes them."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.fields import check_bounds, setting
from flaxcnn.recipe.references import Json, TakesArguments, name_of, remember

TAKEN = ("loss", "accuracy", "rows")  # names that an epoch or a summary has in any case


class _Checked:
    def __post_init__(self) -> None:
        check_bounds(self, "loss.")


@dataclass(frozen=True)
class CrossEntropy(_Checked):
    """Softmax cross-entropy, -sum_k target_k * log p_k."""


@dataclass(frozen=True)
class Focal(_Checked):
    """Lin et al. 2017 over the softmax: -sum_k target_k * (1 - p_k)^gamma * log p_k."""

    gamma: float = setting(2.0, "how much less sure rows count", at_least=0)


@dataclass(frozen=True)
class Poly1(_Checked):
    """Leng et al. 2022: cross-entropy + epsilon * (1 - sum_k target_k * p_k)."""

    epsilon: float = setting(1.0, "weight of the first power", at_least=-1)


@dataclass(frozen=True)
class Brier(_Checked):
    """Brier 1950: sum_k (p_k - target_k)^2."""


@dataclass(frozen=True, init=False)
class Loss(TakesArguments):
    """A loss of one's own, or of optax: `function(logits, target, **arguments)`, one number a row.

    Logits are [B, K] float32. The second argument is a distribution over the classes, [B, K]
    float32; if the function calls it `label`, it is the classes, [B] int32. The result is [B], or
    [B, K], which is summed over the classes. A function that takes `weight` gets the weights of the
    rows, [B] float32, and applies them itself; otherwise its result is multiplied by them.

    `Loss("my_file.py:hinge", margin=1.0)`, `Loss("optax.sigmoid_focal_loss", gamma=2.0)`.
    """

    function: str
    source: str = ""  # SHA-256 of the file that has the function; empty for a library's
    arguments: tuple[tuple[str, Json], ...] = ()

    def __init__(self, function: str | Callable[..., Any], *, source: str = "", **arguments: Any):
        name, source = name_of(function, source, "loss")
        self._set("loss", {"function": name, "source": source}, arguments)


LossSpec = CrossEntropy | Focal | Poly1 | Brier | Loss


@dataclass(frozen=True)
class TopK:
    """Share of rows whose class is among the `k` largest logits; called `topK`, such as `top5`."""

    k: int = setting(5, "logits that are looked at", at_least=1, whole=True)

    better = "higher"

    def __post_init__(self) -> None:
        check_bounds(self, "metrics.")

    @property
    def name(self) -> str:
        """As it is recorded."""
        return f"top{self.k}"


@dataclass(frozen=True, init=False)
class Metric(TakesArguments):
    """A metric of one's own: `function(logits, label, **arguments)`, one number a row, [B].

    Logits are [B, K] float32, `label` [B] int32. Its mean over the rows of a split is recorded as
    `val_NAME` for each epoch and `test_NAME` in the summary; NAME is that of the function, unless
    `name` says otherwise.

    `Metric("my_file.py:margin", better="higher")`
    """

    function: str
    name: str = ""
    better: Literal["higher", "lower"] = "higher"  # for `monitor`
    source: str = ""  # as of Loss
    arguments: tuple[tuple[str, Json], ...] = ()

    def __init__(
        self, function: str | Callable[..., Any], *, name: str = "",
        better: Literal["higher", "lower"] = "higher", source: str = "", **arguments: Any,
    ):  # fmt: skip
        function, source = name_of(function, source, "metrics")
        name = name or function.rpartition(":" if ":" in function else ".")[2]
        fields = {"function": function, "name": name, "better": better}
        self._set("metrics", {**fields, "source": source}, arguments)


MetricSpec = TopK | Metric


def loss_of(given: Any) -> Any:
    """The specification of a loss given in Python as a function, or a partial of one.

    Raises:
        ConfigError: its source is not known, or an argument is none that JSON can hold.
    """
    named = _function("loss", given)
    return given if named is None else Loss(named[0], source=named[1], **named[2])


def metrics_of(given: Any) -> Any:
    """The specifications of metrics, of which any may be a function, or a partial of one.

    Raises:
        ConfigError: as `loss_of`.
    """
    if not isinstance(given, list | tuple):
        return given
    named = [_function("metrics", one) for one in given]
    return tuple(
        one if name is None else Metric(name[0], source=name[1], **name[2])
        for one, name in zip(given, named, strict=True)
    )


def _function(where: str, given: Any) -> tuple[str, str, dict[str, Any]] | None:
    """(name, SHA-256 of its source, arguments) of a function; None for anything else."""
    arguments: dict[str, Any] = {}
    if isinstance(given, functools.partial):
        if given.args:
            raise ConfigError(f"{where}: give a partial's arguments by name (got {given!r})")
        given, arguments = given.func, given.keywords
    if not inspect.isfunction(given):
        return None
    return *remember(given, where), arguments


def check_names(metrics: Sequence[MetricSpec]) -> None:
    """ConfigError unless each metric has a name that no other column of the records has."""
    seen: set[str] = set()
    for metric in metrics:
        if not metric.name.isidentifier() or metric.name in TAKEN or metric.name in seen:
            raise ConfigError(
                f"metrics: {metric.name!r} cannot be a metric's name, which must be a word that no "
                f"other has, and none of {', '.join(TAKEN)}; give name="
            )
        seen.add(metric.name)


def check_functions(loss: LossSpec, metrics: Sequence[MetricSpec], classes: int) -> None:
    """Try out functions of one's own on logits of `classes` classes; jax is imported.

    Raises:
        ConfigError: one cannot be called as a recipe has it, or returns something else.
    """
    own = [spec for spec in (loss, *metrics) if isinstance(spec, TakesArguments)]
    if own:
        check: Callable[..., None] = importlib.import_module("flaxcnn.model.losses").check
        check(loss, tuple(metrics), classes)
