"""Config: everything that decides what a run computes. Plain frozen values, no jax."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from flaxcnn.errors import ConfigError
from flaxcnn.limits import DEPTH, too_deep
from flaxcnn.recipe import networks
from flaxcnn.recipe.augment import check_chain
from flaxcnn.recipe.codec import decode, encode, hints
from flaxcnn.recipe.data import KNOWN_DATA, Data
from flaxcnn.recipe.evaluation import Evaluation
from flaxcnn.recipe.execution import Execution
from flaxcnn.recipe.fields import Role, check_bounds, names, settings
from flaxcnn.recipe.layers import Row, Shape, check_model, layers_of
from flaxcnn.recipe.losses import check_functions, loss_of, metrics_of
from flaxcnn.recipe.model import Model
from flaxcnn.recipe.optimisation import Optimisation
from flaxcnn.recipe.optimizers import has_momentum
from flaxcnn.recipe.schedules import spans_run

GROUPS = (Data, Model, Optimisation, Evaluation, Execution)
# Settings that may be given as Python objects, and what makes specifications of them.
GIVEN: dict[str, Callable[[Any], Any]] = {
    "layers": layers_of, "loss": loss_of, "metrics": metrics_of,
}  # fmt: skip
SUSPICIOUS_EPSILON = 1e-2


# A dataclass takes the fields of its bases from the last to the first.
@dataclass(frozen=True)
class Config(Execution, Evaluation, Optimisation, Model, Data):
    """One training run. Two equal configs on equal data and software give equal bits.

    Its fields are those of the five groups, and are given by keyword, after `dataset` and `layers`:

    >>> from flaxcnn.recipe.layers import Dense, Flatten
    >>> config = Config("digits", (Flatten(), Dense(10)), epochs=3)
    >>> config.learning_rate, config.optimizer
    (0.001, Adam(beta_1=0.9, beta_2=0.999, epsilon=1e-07, weight_decay=0.0))

    Raises:
        ConfigError: a value out of range, or a model that cannot be built on the data's shape.
    """

    def __post_init__(self) -> None:
        if self.model is not None:
            object.__setattr__(self, "layers", ())  # it stands in their place
        for name, spec_of in GIVEN.items():
            object.__setattr__(self, name, spec_of(getattr(self, name)))
        for name, hint in hints(Config).items():  # as strict in Python as from a file
            object.__setattr__(self, name, decode(hint, encode(getattr(self, name)), name))
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", self.optimizer.default_learning_rate)
        check_bounds(self)
        self._check_data()
        self._check_optimisation()
        self._check_evaluation()
        self._check_execution()
        self._check_together()
        if not self.layers and self.model is None:
            raise ConfigError("layers is empty; give layers, or a model of your own")
        if self.model is None and (facts := KNOWN_DATA.get(self.dataset)):
            self.table(*facts)

    def _check_together(self) -> None:
        """What settings of two groups ask of each other."""
        if self.accumulate > self.batch_size:
            raise ConfigError(
                f"accumulate must be at most batch_size={self.batch_size} (got {self.accumulate})"
            )
        if self.validation == "test" and self.protocol != "document":
            raise ConfigError(
                "validation='test' chooses the epoch on the test split and needs "
                "protocol=document, which flags the result"
            )
        if self.calibrate and self.validation == "test":
            raise ConfigError(
                "calibrate=true fits the temperature to validation rows, which are the test rows "
                "with validation='test'; use other validation rows"
            )
        if self.has_batch_norm and self.virtual_shards > 1 and self.batch_norm == "global":
            raise ConfigError(
                f"batch_norm=global does not work with virtual_shards={self.virtual_shards}; use "
                "batch_norm=per_shard, the statistics of each virtual shard"
            )
        if self.has_batch_norm and self.parallel == "jit" and self.batch_norm == "per_shard":
            raise ConfigError(
                "batch_norm=per_shard does not work with parallel=jit, whose program sees the "
                "whole batch; use batch_norm=global or parallel=shard_map"
            )
        if getattr(self.schedule, "cycle_momentum", False) and not has_momentum(self.optimizer):
            raise ConfigError(
                f"schedule.cycle_momentum=true needs an optimizer with momentum or beta_1, such as "
                f"sgd or adam (got optimizer={type(self.optimizer).__name__.lower()}"
                f"{' without momentum' if hasattr(self.optimizer, 'momentum') else ''})"
            )
        resize = self.resize
        if resize and self.input == "resident" and resize.train != resize.evaluate:
            raise ConfigError(
                f"input=resident holds one form of each image, but resize.train={resize.train} "
                f"and resize.evaluate={resize.evaluate} need two; use equal ones or input=stream"
            )

    def check_on(self, shape: Shape, classes: int) -> None:
        """Refuse a recipe that cannot be trained on images of `shape`, (H, W, C).

        Raises:
            ConfigError: as `table`; a loss or metric of one's own does not fit `classes` logits; or
                `tta` does not fit the images.
        """
        self.table(shape, classes)
        if self.tta:
            self.tta.check_on(shape)
        check_functions(self.loss, self.metrics, classes)

    def table(self, shape: Shape, classes: int) -> list[Row]:
        """The model's table on images of `shape`, (H, W, C).

        Raises:
            ConfigError: the model cannot be built on them, or does not end in `classes` logits.
        """
        check_chain(self.augment, shape)
        if self.model is not None:
            return networks.table(self.model, shape, classes)
        try:
            return check_model(self.layers, shape, classes)
        except ConfigError as error:
            size = "x".join(map(str, shape))
            raise ConfigError(
                f"{error} (data: {self.dataset}, {size}, {classes} classes)"
            ) from None

    def warnings(self) -> list[str]:
        """Legal values that are seldom meant."""
        texts = []
        epsilon = getattr(self.optimizer, "epsilon", 0.0)
        if epsilon >= SUSPICIOUS_EPSILON:
            texts.append(
                f"optimizer.epsilon={epsilon:g} is so large that {type(self.optimizer).__name__} "
                "hardly moves; the usual value is 1e-7"
            )
        if self.patience is not None and self.patience >= self.epochs:
            texts.append(f"patience={self.patience} never stops a run of epochs={self.epochs}")
        if self.protocol == "document" and self.validation == "test":
            texts.append("protocol=document: the validation rows are the test rows, "
                         "so every accuracy of this run is optimistic")  # fmt: skip
        return texts

    @property
    def monitored(self) -> str:
        """The metric that decides: `monitor`, of the average where that is kept."""
        kept = self.average and self.average.keep
        return f"{self.average.name}_{self.monitor}" if self.average and kept else self.monitor

    @property
    def spans_run(self) -> bool:
        """Whether an update depends on how many there are in all."""
        return spans_run(self.schedule) or bool(self.lookahead and self.lookahead.power)

    def values(self, role: Role) -> tuple[Any, ...]:
        """The values of all settings that have one of the roles joined in `role`.

        >>> from flaxcnn.recipe.catalog import find
        >>> find("digits/quickstart").config.values(Role.SEED)
        (0,)
        """
        return tuple(getattr(self, name) for name in names(Config, role))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON value; `Config.from_dict` reverses it."""
        return {field.name: encode(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Config:
        """The Config that `to_dict` described.

        Raises:
            ConfigError: an unknown key, a wrong type, or a value out of range.
        """
        if too_deep(dict(plain)):
            raise ConfigError(f"a recipe has more than {DEPTH} levels of tables and lists")
        if "type" in plain:
            raise ConfigError("unknown setting type; a recipe is no choice of several classes")
        return decode(cls, dict(plain), "")

    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON: names the recipe and seed.

        Delivery settings are left out, and so is a field that older records lack where its value
        is the one that they imply.
        """
        # Read back first: a rate written 1 in Python and 1.0 in a file are one recipe.
        plain = Config.from_dict(self.to_dict()).to_dict()
        for name, declared in settings(Config):
            if declared.role & Role.DELIVERY or plain[name] == declared.before:
                del plain[name]
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def decisive(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a recorded recipe that its result may depend on: all but delivery.

    >>> decisive({"epochs": 3, "workers": 2})
    {'epochs': 3}
    """
    left_out = names(Config, Role.DELIVERY)
    return {key: value for key, value in plain.items() if key not in left_out}
