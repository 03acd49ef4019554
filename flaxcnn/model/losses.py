"""Losses and metrics of rows: logits [B, K] float32 to one number each, [B] float32."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from flaxcnn.errors import ConfigError, FlaxcnnError, first_line, near_miss
from flaxcnn.model.layout import on_cpu
from flaxcnn.model.protocol import promotion_as_usual
from flaxcnn.recipe import losses as spec
from flaxcnn.recipe.references import TakesArguments, resolve

LABEL, WEIGHT = "label", "weight"  # what the parameters of a function of one's own may be called
TRIED = 3  # rows on which a function of one's own is tried out


def cross_entropy(
    logits: jax.Array, label: jax.Array, label_smoothing: jax.Array | None = None,
    platform: str | None = None, target: jax.Array | None = None,
) -> jax.Array:  # fmt: skip
    """Softmax cross-entropy of each row, [B] float32: -sum_k target_k * log softmax(logits)_k.

    `target` [B, K] float32 is a distribution over the classes; without one it is 1 for `label` [B]
    int32 and 0 elsewhere. With label smoothing s it becomes (1 - s) * target + s / K (Szegedy et
    al. 2016). `platform` is that of the devices, None for jax's default.
    """
    if target is not None:
        loss = optax.softmax_cross_entropy(logits, target)
    elif on_cpu(platform):
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    else:
        # To pick the label's logit out would make its gradient a scatter, which a GPU runs row by
        # row where results must be deterministic.
        hot = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
        loss = optax.softmax_cross_entropy(logits, hot)
    if label_smoothing is not None:
        uniform = -jax.nn.log_softmax(logits).mean(axis=-1)
        loss = (1.0 - label_smoothing) * loss + label_smoothing * uniform
    return loss


def focal(logits: jax.Array, target: jax.Array, gamma: float) -> jax.Array:
    """-sum_k target_k * (1 - p_k)^gamma * log p_k, [B] (Lin et al. 2017, over the softmax)."""
    log_p = jax.nn.log_softmax(logits)
    # Of a sure row 1 - p rounds to 0, where a power below 1 has no gradient.
    unsure = jnp.maximum(-jnp.expm1(log_p), jnp.finfo(logits.dtype).tiny)
    return -(target * unsure**gamma * log_p).sum(-1)


def poly1(logits: jax.Array, target: jax.Array, epsilon: float) -> jax.Array:
    """Cross-entropy + epsilon * (1 - sum_k target_k * p_k), [B] (Leng et al. 2022)."""
    missed = 1.0 - (target * jax.nn.softmax(logits)).sum(-1)
    return optax.softmax_cross_entropy(logits, target) + epsilon * missed


def brier(logits: jax.Array, target: jax.Array) -> jax.Array:
    """sum_k (p_k - target_k)^2, [B] (Brier 1950)."""
    return jnp.square(jax.nn.softmax(logits) - target).sum(-1)


def topk(logits: jax.Array, label: jax.Array, k: int) -> jax.Array:
    """1 where fewer than `k` other logits are as large as the label's or larger, else 0; [B]."""
    own = jnp.take_along_axis(logits, label[:, None], axis=-1)
    ahead = (logits >= own).sum(-1, dtype=jnp.int32) - 1
    return (ahead < k).astype(jnp.float32)


@dataclass(frozen=True)
class RowFunction:
    """A function of a recipe: a value, compared by what it computes, so it can be compiled in."""

    where: str  # the setting
    name: str  # of the function, in errors
    function: Callable[..., Any]
    arguments: tuple[tuple[str, Any], ...] = ()
    takes_label: bool = False  # as its second argument, in place of a distribution
    takes_weight: bool = False
    own: bool = False  # it is not of this package

    def __call__(self, logits: jax.Array, second: jax.Array, **more: jax.Array) -> jax.Array:
        """What it gives for each row, [B] float32.

        Raises:
            ConfigError: it fails, or gives something else than a number a row.
        """
        if not self.own:
            made: jax.Array = self.function(logits, second, **dict(self.arguments))
            return made
        with promotion_as_usual():
            try:
                made = jnp.asarray(self.function(logits, second, **dict(self.arguments), **more))
            except FlaxcnnError:
                raise
            except Exception as error:  # whatever it raises on such logits
                raise ConfigError(
                    f"{self.where}: {self.name} fails on {LABEL if self.takes_label else 'target'} "
                    f"{self._shape(second)} {second.dtype} and logits {self._shape(logits)}: "
                    f"{type(error).__name__}: {first_line(error)}"
                ) from error
        if self.where == "loss" and made.shape == logits.shape:
            made = made.astype(jnp.float32).sum(-1)
        if made.shape != logits.shape[:1]:
            raise ConfigError(
                f"{self.where}: {self.name} must return one number for each row, [B] (got "
                f"{self._shape(made)} for logits {self._shape(logits)})"
            )
        return made.astype(jnp.float32)

    @staticmethod
    def _shape(x: jax.Array) -> str:
        return str(list(x.shape))


def row_loss(
    function: RowFunction | None, logits: jax.Array, label: jax.Array,
    label_smoothing: jax.Array | None, weight: jax.Array | None, platform: str | None,
    target: jax.Array | None,
) -> jax.Array:  # fmt: skip
    """The loss of each row, [B] float32, times `weight` [B] where there is one.

    `function` is None for cross-entropy. The rest as `cross_entropy`.

    Raises:
        ConfigError: the function takes the class of a row, but the target is a distribution.
    """
    if function is None:
        loss = cross_entropy(logits, label, label_smoothing, platform, target)
        return loss if weight is None else loss * weight
    if function.takes_label:
        _refuse_distribution(function, target is not None or label_smoothing is not None)
        second = label
    else:
        hot = jax.nn.one_hot(label, logits.shape[-1], dtype=logits.dtype)
        second = hot if target is None else target
        if label_smoothing is not None:
            second = (1.0 - label_smoothing) * second + label_smoothing / logits.shape[-1]
    if function.takes_weight:
        ones = jnp.ones(len(logits), jnp.float32)
        return function(logits, second, **{WEIGHT: ones if weight is None else weight})
    loss = function(logits, second)
    return loss if weight is None else loss * weight


def _refuse_distribution(function: RowFunction, distribution: bool) -> None:
    if distribution:
        raise ConfigError(
            f"loss: {function.name} takes the class of a row, `{LABEL}`, but label smoothing and "
            "mixed images make distributions; have it take `target` [B, K] float32"
        )


# -- from specifications -------------------------------------------------------------------------


def build_loss(loss: spec.LossSpec) -> RowFunction | None:
    """The function of a loss; None for cross-entropy, which has a form for each back end.

    Raises:
        ConfigError: its code is not there or has changed, or it cannot take its arguments.
    """
    match loss:
        case spec.CrossEntropy():
            return None
        case spec.Focal(gamma=gamma):
            return RowFunction("loss", "focal", focal, (("gamma", gamma),))
        case spec.Poly1(epsilon=epsilon):
            return RowFunction("loss", "poly1", poly1, (("epsilon", epsilon),))
        case spec.Brier():
            return RowFunction("loss", "brier", brier)
        case spec.Loss():
            return _own("loss", loss, "logits, target")


def build_metrics(metrics: Sequence[spec.MetricSpec]) -> tuple[tuple[str, RowFunction], ...]:
    """(name, function) of each metric, in the order of names.

    Raises:
        ConfigError: as `build_loss`.
    """
    made = []
    for metric in sorted(metrics, key=lambda metric: metric.name):
        if isinstance(metric, spec.TopK):
            function = RowFunction("metrics", metric.name, topk, (("k", metric.k),))
        else:
            function = _own("metrics", metric, "logits, label")
        made.append((metric.name, function))
    return tuple(made)


@functools.lru_cache(64)
def _own(where: str, own: spec.Loss | spec.Metric, given: str) -> RowFunction:
    """A function of one's own, once it is known to take what it will be given."""
    name, source = own.code
    function = resolve(name, source)
    if not callable(function):
        raise ConfigError(f"{where}: {name} must be a function (got {type(function).__name__})")
    try:
        parameters = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # of compiled code: calling it will show
        return RowFunction(where, name, function, own.arguments, own=True)
    weighted = where == "loss" and WEIGHT in parameters
    _check_arguments(f"{where}: {name}", parameters, given, {*own.named, *[WEIGHT] * weighted})
    takes_label = where == "metrics" or list(parameters)[1:2] == [LABEL]
    return RowFunction(where, name, function, own.arguments, takes_label, weighted, True)


def _check_arguments(
    what: str, parameters: dict[str, inspect.Parameter], first: str, named: Collection[str]
) -> None:
    """ConfigError unless a function takes the two `first` by position, and `named`, and no more."""
    kinds = inspect.Parameter
    names = [p.name for p in parameters.values() if p.kind is not kinds.VAR_KEYWORD]
    free = any(p.kind is kinds.VAR_KEYWORD for p in parameters.values())
    if any(p.kind is kinds.VAR_POSITIONAL for p in parameters.values()):
        return  # it takes anything
    two = [name for name in names[:2] if parameters[name].kind is not kinds.KEYWORD_ONLY]
    if len(two) < 2:
        raise ConfigError(f"{what} must take ({first}), but it takes ({', '.join(names)})")
    for argument in named:
        if argument not in names[2:] and not free:
            raise ConfigError(
                f"{what} takes no argument {argument!r}{near_miss(argument, names[2:])}"
            )
    for argument in names[2:]:
        if parameters[argument].default is kinds.empty and argument not in named:
            raise ConfigError(f"{what} needs the argument {argument!r}; give it a value")


def check(loss: spec.LossSpec, metrics: Sequence[spec.MetricSpec], classes: int) -> None:
    """Try out functions of one's own on logits of `classes` classes, without computing.

    Raises:
        ConfigError: as `build_loss`; or one fails, or does not give a number for each row.
    """
    logits = jax.ShapeDtypeStruct((TRIED, classes), jnp.float32)
    label = jax.ShapeDtypeStruct((TRIED,), jnp.int32)
    if isinstance(loss, TakesArguments):
        made = build_loss(loss)
        jax.eval_shape(lambda x, y: row_loss(made, x, y, None, None, None, None), logits, label)
    for _, function in build_metrics(metrics):
        jax.eval_shape(function, logits, label)
