"""Config: everything that decides what a run computes. Plain frozen values, no jax."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from flaxcnn.errors import ConfigError, near_miss
from flaxcnn.recipe.codec import decode, encode, hints, parse_text, set_at
from flaxcnn.recipe.layers import Layer, Row, Shape, check_model
from flaxcnn.recipe.optimizers import Adam, Constant, Optimizer, Schedule
from flaxcnn.recipe.resize import Resize

MAX_SEED = 2**32 - 1
STREAMS = ("init_seed", "order_seed", "augment_seed", "dropout_seed")  # by flaxcnn.rng.Purpose
SUSPICIOUS_EPSILON = 1e-2
MAX_WORKERS = 256
# How rows come to the device, never which or in what order: streamed and resident runs have the
# same rows, draws and steps. So these are no part of a recipe's name.
DELIVERY = frozenset({"input", "workers", "data_memory"})


class DataFacts(NamedTuple):
    """What is known of a built-in data set before it is read."""

    shape: Shape  # (H, W, C)
    classes: int


KNOWN_DATA = {
    "digits": DataFacts((8, 8, 1), 10),
    "mnist": DataFacts((28, 28, 1), 10),
    "fashion_mnist": DataFacts((28, 28, 1), 10),
    "cifar10": DataFacts((32, 32, 3), 10),
}
DATA_SCHEMES = ("folder:", "npz:", "tfds:")


@dataclass(frozen=True)
class Archive:
    """Train and test rows as the data set divides them."""


@dataclass(frozen=True)
class Permuted:
    """Rows of the train archive only, shuffled once by `numpy.random.RandomState(seed)`.

    `p = RandomState(seed).permutation(rows)`; test is `p[:test]`, validation the last
    `validation` of the rest, train what lies between (document 004, lines 51-56).
    """

    rows: int
    seed: int
    test: int
    validation: int

    def __post_init__(self) -> None:
        if not 0 < self.test + self.validation < self.rows:
            raise ConfigError(
                f"split: got test={self.test}, validation={self.validation} of rows={self.rows}; "
                "allowed are sums that leave training rows"
            )


@dataclass(frozen=True)
class Ranges:
    """Consecutive rows of the train archive: `train` first, then `validation`, then `test`."""

    train: int
    validation: int
    test: int

    def __post_init__(self) -> None:
        if min(self.train, self.validation, self.test) < 1:
            raise ConfigError(f"split: got {self}; allowed are positive sizes")


Split = Archive | Permuted | Ranges


@dataclass(frozen=True)
class Shift:
    """Move by up to `height` and `width`, fractions of the image; whole pixels, edges repeated."""

    height: float = 0.1
    width: float = 0.1

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(
                    f"augment.{name}: got {getattr(self, name)!r}; allowed 0 <= x < 1"
                )


@dataclass(frozen=True)
class Flip:
    """Mirror left and right with probability 1/2."""


Augment = Shift | Flip


@dataclass(frozen=True)
class Config:
    """One training run. Two equal configs on equal data and software give equal bits.

    Raises:
        ConfigError: a value out of range, or a model that cannot be built on the data's shape.
    """

    dataset: str
    layers: tuple[Layer, ...]
    normalize: Literal["unit", "per_pixel", "per_channel"] = "unit"
    augment: tuple[Augment, ...] = ()
    optimizer: Optimizer = Adam()
    learning_rate: float | None = None  # None: the optimizer's default
    schedule: Schedule = Constant()
    label_smoothing: float = 0.0
    batch_size: int = 32
    drop_last: bool = False  # True: leave the incomplete last batch of an epoch out
    epochs: int = 10
    seed: int = 0
    init_seed: int | None = None  # this one, order_seed, augment_seed, dropout_seed: None is `seed`
    order_seed: int | None = None
    augment_seed: int | None = None
    dropout_seed: int | None = None
    protocol: Literal["honest", "document"] = "honest"
    split: Split = Archive()
    validation: float | int | Literal["test"] = 0.1  # fraction or rows held out of train
    split_seed: int = 0
    monitor: Literal["val_accuracy", "val_loss"] = "val_accuracy"
    patience: int | None = None  # epochs without improvement before stopping; None: never stop
    min_delta: float = 0.0
    keep: Literal["best", "last"] = "best"
    precision: Literal["float32", "bfloat16"] = "float32"
    determinism: Literal["fast", "exact"] = "fast"  # exact: one device a run, bits as in any study
    evaluate_train: bool = False  # True: clean training accuracy every epoch, not only at the end
    save_every: int = 1  # epochs between checkpoints; the best and the last are always kept
    resize: Resize | None = None  # None: images have one size and keep it
    input: Literal["auto", "resident", "stream"] = "auto"  # auto: stream what data_memory is for
    workers: int | None = None  # processes that decode streamed images; None: one a core
    data_memory: int = 4 * 2**30  # bytes of pixels that may be held at once

    def __post_init__(self) -> None:
        for name, hint in hints(Config).items():  # as strict in Python as from a file
            object.__setattr__(self, name, decode(hint, encode(getattr(self, name)), name))
        if self.learning_rate is None:
            object.__setattr__(self, "learning_rate", self.optimizer.default_learning_rate)
        self._check_ranges()
        self._check_data()
        self._check_resize()
        if facts := KNOWN_DATA.get(self.dataset):
            self.table(*facts)

    def _check_ranges(self) -> None:
        rate, validation = self.learning_rate, self.validation
        whole = isinstance(validation, int)
        allowed = {
            "learning_rate": (rate is not None and rate > 0, "x > 0"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "0 <= x < 1"),
            "batch_size": (self.batch_size >= 1, "an integer of at least 1"),
            "epochs": (self.epochs >= 1, "an integer of at least 1"),
            **{
                name: (
                    0 <= (getattr(self, name) or 0) <= MAX_SEED,
                    f"an integer from 0 to {MAX_SEED}",
                )
                for name in ("seed", "split_seed", *STREAMS)
            },
            "patience": (self.patience is None or self.patience >= 1, "an integer of at least 1"),
            "min_delta": (self.min_delta >= 0, "x >= 0"),
            "save_every": (self.save_every >= 1, "an integer of at least 1"),
            "workers": (
                self.workers is None or 0 <= self.workers <= MAX_WORKERS,
                f"an integer from 0 (read in this process) to {MAX_WORKERS}, or none",
            ),
            "data_memory": (self.data_memory >= 1, "a number of bytes of at least 1"),
            "validation": (
                validation == "test" or (validation >= 1 if whole else 0 < float(validation) < 1),
                "a fraction between 0 and 1, a number of rows, or 'test'",
            ),
        }
        for name, (fits, what) in allowed.items():
            if not fits:
                raise ConfigError(f"{name}: got {getattr(self, name)!r}; allowed is {what}")
        if validation == "test" and self.protocol != "document":
            raise ConfigError(
                "validation: 'test' chooses the epoch on the test split; "
                "allowed only with protocol=document, which flags the result"
            )

    def _check_data(self) -> None:
        if self.dataset in KNOWN_DATA:
            return
        if not any(self.dataset.startswith(s) and self.dataset != s for s in DATA_SCHEMES):
            schemes = ", ".join(f"{s}{'NAME' if s == 'tfds:' else 'PATH'}" for s in DATA_SCHEMES)
            raise ConfigError(
                f"dataset: got {self.dataset!r}; allowed are {', '.join(KNOWN_DATA)}, {schemes}"
                f"{near_miss(self.dataset, [*KNOWN_DATA, *DATA_SCHEMES])}"
            )

    def _check_resize(self) -> None:
        if self.resize is None:
            return
        if not self.dataset.startswith(("folder:", "tfds:")):
            raise ConfigError(
                f"resize: got {self.dataset}, whose images have one size; allowed is a resize of "
                "folder:PATH and tfds:NAME"
            )
        if self.input == "resident" and self.resize.train != self.resize.evaluate:
            raise ConfigError(
                f"resize.train: got {self.resize.train!r} with input=resident and resize.evaluate="
                f"{self.resize.evaluate!r}; allowed are equal ones, or input=stream"
            )

    def table(self, shape: Shape, classes: int) -> list[Row]:
        """The model's table on images of `shape`; ConfigError if it cannot be built."""
        try:
            return check_model(self.layers, shape, classes)
        except ConfigError as error:
            size = "x".join(map(str, shape))
            raise ConfigError(
                f"{error} (data: {self.dataset}, {size}, {classes} classes)"
            ) from None

    def seeds(self) -> list[int]:
        """The seed of each stream of random numbers, in the order of `flaxcnn.rng.Purpose`."""
        own = (getattr(self, name) for name in STREAMS)
        return [self.seed if seed is None else seed for seed in own]

    def warnings(self) -> list[str]:
        """Legal values that seldom mean what they say."""
        found = []
        if getattr(self.optimizer, "epsilon", 0.0) >= SUSPICIOUS_EPSILON:
            name = type(self.optimizer).__name__
            found.append(
                f"optimizer.epsilon={self.optimizer.epsilon:g}: so large an epsilon "  # type: ignore[union-attr]
                f"all but stops {name}; the usual value is 1e-7"
            )
        if self.patience is not None and self.patience >= self.epochs:
            found.append(
                f"patience={self.patience} with epochs={self.epochs}: stopping early cannot happen"
            )
        if self.protocol == "document" and self.validation == "test":
            found.append("protocol=document: the validation rows are the test rows, "
                         "so every accuracy of this run is optimistic")  # fmt: skip
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON value; `Config.from_dict` reverses it."""
        plain = encode(self)
        del plain["type"]
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Config:
        """The Config of what `to_dict` gave; ConfigError for anything else."""
        return decode(cls, dict(plain), "")

    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON: names the recipe and seed."""
        # Read back first: a rate written 1 in Python and 1.0 in a file are one recipe.
        plain = Config.from_dict(self.to_dict()).to_dict()
        for name in DELIVERY:
            del plain[name]
        if plain["resize"] is None:  # a recipe of before there was one keeps its name
            del plain["resize"]
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Source(NamedTuple):
    """One layer of settings: where it comes from, and its dotted keys."""

    origin: str
    settings: Mapping[str, Any]


def layered(base: Config, sources: Sequence[Source]) -> tuple[Config, dict[str, str]]:
    """Apply the sources in order, the last one wins -> (config, origin of each changed key).

    Changing the kind of optimizer without a learning rate takes that optimizer's default.

    Raises:
        ConfigError: unknown key (near miss named), wrong type, value out of range.
    """
    plain, origins = base.to_dict(), dict.fromkeys(hints(Config), "experiment")
    for origin, settings in sources:
        for key, value in settings.items():
            path = key.removesuffix(".type")  # optimizer.type=sgd is optimizer=sgd
            new_kind = path == "optimizer" and _kind(value) != _kind(plain["optimizer"])
            if new_kind and "learning_rate" not in settings:
                plain["learning_rate"] = None
                origins["learning_rate"] = f"default of {_kind(value)}"
            set_at(plain, path, value)
            origins[path] = origin
    return Config.from_dict(plain), origins


def _kind(optimizer: Any) -> str:
    return str(optimizer.get("type") if isinstance(optimizer, dict) else optimizer).lower()


def from_assignments(texts: Sequence[str]) -> dict[str, Any]:
    """`["epochs=3", "optimizer.momentum=0.9"]` -> settings."""
    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"-s {text}: allowed is KEY=VALUE, such as -s epochs=3")
        settings[key.strip()] = parse_text(value.strip())
    return settings


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """`FLAXCNN_EPOCHS=3`, `FLAXCNN_OPTIMIZER__MOMENTUM=0.9` -> settings, Config's fields only."""
    settings = {}
    for field in fields(Config):
        prefix = f"FLAXCNN_{field.name.upper()}"
        for name, text in sorted(environ.items()):  # FLAXCNN_OPTIMIZER before its __MOMENTUM
            if name == prefix or name.startswith(f"{prefix}__"):
                settings[name.removeprefix("FLAXCNN_").lower().replace("__", ".")] = parse_text(
                    text
                )
    return settings


def from_file(path: Path) -> dict[str, Any]:
    """Settings of a TOML or JSON file; nested tables are merged key by key.

    Raises:
        ConfigError: the file is missing, not text, or not valid TOML or JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
        plain = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"--config {path}: {error}") from None
    if not isinstance(plain, dict):
        raise ConfigError(f"--config {path}: allowed is a table of settings")
    return dict(_flat(plain, ""))


def _flat(plain: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in plain.items():
        if isinstance(value, dict) and "type" not in value:
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs
