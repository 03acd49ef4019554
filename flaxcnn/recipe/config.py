"""Config: everything that decides what a run computes. Plain frozen values, no jax."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from flaxcnn.errors import ConfigError, near_miss
from flaxcnn.recipe.codec import decode, encode, hints
from flaxcnn.recipe.layers import BatchNorm, Layer, Row, Shape, check_model, contains
from flaxcnn.recipe.optimizers import Adam, Constant, Optimizer, Schedule
from flaxcnn.recipe.resize import Resize

MAX_SEED = 2**32 - 1
STREAMS = ("init_seed", "order_seed", "augment_seed", "dropout_seed")  # by flaxcnn.rng.Purpose
SUSPICIOUS_EPSILON = 1e-2
# Fields that recipes had not from the start, with what was done then.
NEWER = {
    "virtual_shards": 1, "parallel": "auto", "batch_norm": "global", "accumulate": 1,
    "remat": False, "shard_optimizer": False, "learning_rate_scaling": "none",
    "base_batch_size": None, "resize": None,
}  # fmt: skip
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


@dataclass(frozen=True)
class Fold:
    """Fold `index` of `folds` takes the place of the test rows; the test rows of `of` stay unseen.

    The training and validation rows of `of` are dealt into folds in proportion to the classes,
    drawn by `seed`. Validation rows are held out of the other folds, so that no choice is made on
    the rows that score it; `validation="test"` makes it on them, as many notebooks do.
    """

    index: int
    folds: int = 5
    seed: int = 0
    of: Archive | Permuted | Ranges = Archive()

    def __post_init__(self) -> None:
        if self.folds < 2 or not 0 <= self.index < self.folds:
            raise ConfigError(
                f"split: got fold {self.index} of {self.folds}; allowed are 2 or more folds, "
                "numbered from 0"
            )


Split = Archive | Permuted | Ranges | Fold


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
    precision: Literal["float32", "tensorfloat32", "bfloat16"] = "float32"
    determinism: Literal["fast", "exact"] = "fast"  # exact: one device a run, bits as in any study
    evaluate_train: bool = False  # True: clean training accuracy every epoch, not only at the end
    virtual_shards: int = 1  # of exact: parts of a batch that any divisor of devices may share
    parallel: Literal["auto", "jit", "pmap", "shard_map"] = "auto"
    batch_norm: Literal["global", "per_shard"] = "global"  # whose rows its statistics are taken of
    accumulate: int = 1  # parts of a batch, one after the other: less memory, the same update
    remat: bool = False  # True: compute activations again for the gradient instead of keeping them
    shard_optimizer: bool = False  # True: each device holds a part of the optimizer's state
    learning_rate_scaling: Literal["none", "linear", "sqrt"] = "none"  # with the batch size
    base_batch_size: int | None = None  # at which learning_rate is meant as it stands
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
        self._check_parallel()
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
            "virtual_shards": (self.virtual_shards >= 1, "an integer of at least 1"),
            "accumulate": (
                1 <= self.accumulate <= self.batch_size,
                f"1 to batch_size, {self.batch_size}",
            ),
            "base_batch_size": ((self.base_batch_size or 1) >= 1, "an integer of at least 1"),
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

    def _check_parallel(self) -> None:
        shards, normed = self.virtual_shards, contains(self.layers, BatchNorm)
        whole = self.batch_norm == "global"
        spread_out = self.parallel in ("pmap", "shard_map")
        rules = (
            (shards > 1 and self.determinism != "exact",
             f"virtual_shards: got {shards} with determinism={self.determinism}; "
             "allowed with determinism=exact, where they fix the order of sums"),
            (shards > 1 and (self.parallel == "jit" or self.shard_optimizer),
             f"virtual_shards: got {shards} with parallel=jit or shard_optimizer; allowed is "
             "parallel=shard_map or pmap, which say in which order sums are added"),
            (shards > 1 and normed and whole,
             f"batch_norm: got 'global' with virtual_shards={shards}; allowed is 'per_shard': "
             "statistics of the rows of each virtual shard"),
            (self.parallel == "jit" and normed and not whole,
             "batch_norm: got 'per_shard' with parallel=jit; allowed is 'global', since such a "
             "program sees the whole batch, or parallel=shard_map"),
            (self.shard_optimizer and spread_out,
             f"shard_optimizer: got true with parallel={self.parallel}; allowed is auto or jit"),
            (self.learning_rate_scaling != "none" and self.base_batch_size is None,
             f"learning_rate_scaling: got {self.learning_rate_scaling!r} without base_batch_size, "
             "the batch size that learning_rate is meant for"),
            (self.learning_rate_scaling == "none" and self.base_batch_size is not None,
             f"base_batch_size: got {self.base_batch_size} with learning_rate_scaling=none; "
             "allowed with linear or sqrt"),
        )  # fmt: skip
        for broken, text in rules:
            if broken:
                raise ConfigError(text)

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

    def scaled_learning_rate(self) -> float:
        """`learning_rate` for this batch size.

        "linear" as in Goyal et al. 2017 (arXiv:1706.02677), "sqrt" as in Krizhevsky 2014
        (arXiv:1404.5997).
        """
        assert self.learning_rate is not None  # since __post_init__
        ratio = self.batch_size / (self.base_batch_size or self.batch_size)
        factor = ratio if self.learning_rate_scaling == "linear" else ratio**0.5
        return self.learning_rate * factor

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
        # A field that is newer than some records counts where it is not what it was before.
        plain = {k: v for k, v in plain.items() if k not in NEWER or v != NEWER[k]}
        for name in DELIVERY:
            del plain[name]
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
