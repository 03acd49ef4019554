"""A user's own augmentation: a function of one row, or of a row and its partner."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxcnn.augment.rows import Rows, as_float, transform, where
from flaxcnn.errors import ConfigError, first_line
from flaxcnn.model.protocol import promotion_as_usual
from flaxcnn.recipe.augment import Augment, Augmentation, each_kind
from flaxcnn.recipe.layers import Shape
from flaxcnn.recipe.references import resolve
from flaxcnn.rng import key_of, uniform

OWN = ("key", "image", "target")
PARTNER = ("partner_image", "partner_target")


def function_of(kind: Augmentation) -> Callable[..., Any]:
    """The function that a recipe names.

    Raises:
        ConfigError: it is not there, or takes other parameters.
    """
    function = resolve(kind.function, kind.source)
    if not callable(function):
        raise ConfigError(f"augment: {kind.function} must be a function (got {function!r})")
    try:
        parameters = inspect.signature(function).parameters
        inspect.signature(function).bind(**dict.fromkeys([*_called_with(parameters), *kind.named]))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"augment: {kind.function} must have the parameters {', '.join(OWN)}, for pairs also "
            f"{' and '.join(PARTNER)}, and one for each argument of the recipe "
            f"({', '.join(kind.named) or 'which has none'}): {first_line(error)}"
        ) from None
    return function


def _called_with(parameters: Iterable[str]) -> tuple[str, ...]:
    pair = any(name in parameters for name in PARTNER)
    return (*OWN, *PARTNER) if pair else OWN


def takes_partner(kind: Augmentation) -> bool:
    """Whether the function is one of pairs of rows."""
    return PARTNER[0] in _called_with(inspect.signature(function_of(kind)).parameters)


@transform.register
def _(kind: Augmentation, rows: Rows, partner: Rows | None) -> Rows:
    function, keys = function_of(kind), key_of(rows.draw(0))
    assert rows.target is not None
    given = {"key": keys, "image": as_float(rows.image), "target": rows.target}
    if takes_partner(kind):
        assert partner is not None
        assert partner.target is not None
        pair = (as_float(partner.image), partner.target)
        given |= dict(zip(PARTNER, pair, strict=True))

    def one(given: dict[str, jax.Array]) -> Any:
        with promotion_as_usual():
            return function(**given, **kind.named)

    image, target = jax.vmap(one)(given)
    new = dataclasses.replace(rows, image=image, target=target)
    return new if kind.prob == 1 else where(uniform(rows.draw(1)) < kind.prob, new, rows)


# -- tried out before the first step -------------------------------------------------------------


def check(chain: Iterable[Augment], image: np.ndarray, classes: int) -> None:
    """Whether the functions of a chain can be called, and return what they must.

    Args:
        chain: the kinds.
        image: a few training images [N, H, W, C], uint8 or float32.
        classes: K.

    Raises:
        ConfigError: another signature, an exception, another shape or type, or a value that is
            not finite.
    """
    for kind in each_kind(chain):
        if isinstance(kind, Augmentation):
            _check_one(kind, np.asarray(image, np.float32), classes)


def _check_one(kind: Augmentation, images: np.ndarray, classes: int) -> None:
    function, name = function_of(kind), f"augment: {kind.function}"
    targets = np.eye(classes, dtype=np.float32)
    for number, image in enumerate(images):
        target = targets[number % classes]
        given = {"key": jax.random.key(number), "image": jnp.asarray(image), "target": target}
        if takes_partner(kind):
            pair = (jnp.asarray(images[number - 1]), targets[(number + 1) % classes])
            given |= dict(zip(PARTNER, pair, strict=True))
        try:
            with promotion_as_usual():
                result = jax.jit(lambda given: function(**given, **kind.named))(given)
        except Exception as error:
            raise ConfigError(
                f"{name} raises {type(error).__name__}: {first_line(error)}"
            ) from error
        _check_result(name, result, image.shape, classes)


def _check_result(name: str, result: Any, shape: Shape, classes: int) -> None:
    if not (isinstance(result, tuple | list) and len(result) == 2):
        raise ConfigError(f"{name} must return (image, target) (got {type(result).__name__})")
    for what, value, wanted in zip(("image", "target"), result, (shape, (classes,)), strict=True):
        found = jnp.shape(value), jnp.result_type(value)
        if found != (wanted, jnp.dtype("float32")):
            raise ConfigError(
                f"{name} must return {what} as float32 {list(wanted)} (got {found[1]} "
                f"{list(found[0])})"
            )
        if not np.isfinite(value).all():
            raise ConfigError(f"{name} returns {what} with values that are not finite")
