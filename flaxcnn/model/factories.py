"""What the factories of a recipe return: of optax, or of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flaxcnn.errors import ConfigError, first_line
from flaxcnn.recipe.optimizers import Optax
from flaxcnn.recipe.references import resolve
from flaxcnn.recipe.schedules import OptaxSchedule


def made(spec: Optax | OptaxSchedule, where: str, call: Callable[..., Any]) -> Any:
    """What `call(factory)` returns; what it raises becomes one sentence.

    Raises:
        ConfigError: the factory cannot be imported, or refuses its arguments.
    """
    factory = resolve(spec.factory, spec.source)
    try:
        return call(factory)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {spec.factory} refuses: {first_line(error)}") from error
