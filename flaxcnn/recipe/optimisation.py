"""Optimisation: how the weights are trained."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

from flaxcnn.errors import ConfigError
from flaxcnn.recipe.averages import Average
from flaxcnn.recipe.data import MAX_SEED
from flaxcnn.recipe.fields import Role, names, setting
from flaxcnn.recipe.losses import CrossEntropy, LossSpec
from flaxcnn.recipe.optimizers import Adam, Optimizer
from flaxcnn.recipe.rules import Clip, Decays, Fade, Lookahead, Rates
from flaxcnn.recipe.schedules import Constant, Schedule
from flaxcnn.recipe.teachers import Distill

MAX_BATCH = 2**20  # rows; they are padded to a batch, so one far larger than the data costs memory
MAX_EPOCHS = 10**6
LEAST_RATE = 2.0**-126  # the smallest normal number of float32


def _seed(default: int | None, sentence: str, role: Role = Role.STREAM) -> Any:
    return setting(default, sentence, at_least=0, at_most=MAX_SEED, role=role)


@dataclass(frozen=True)
class Optimisation:
    """How the weights are trained."""

    _: KW_ONLY
    optimizer: Optimizer = setting(
        Adam(),
        "`sgd`, `adam`, `nadam`, `adamax`, `rmsprop`, `adadelta`, `adagrad` or `muon`, with their "
        "own fields; `weight_decay` is decoupled, so `adam` with it is AdamW",
    )
    learning_rate: float | None = setting(None, "without one, the optimizer's default", above=0)
    schedule: Schedule = setting(
        Constant(), '`constant`, `cosine`, `onecycle`, `{"type":"step","step_size":30}` and others'
    )
    no_decay: tuple[str, ...] = setting(
        (), "patterns of weights without weight decay, such as `*/bias`, `*/scale`", before=[]
    )
    rates: Rates | None = setting(
        None,
        'factors of the learning rate by patterns of weights: `{"conv2d*":0.1}`; where several '
        "fit, their product",
        before=None,
    )
    decays: Decays | None = setting(
        None,
        'factors of the weight decay by patterns of weights: `{"*/bias":0.1}`; where several fit, '
        "their product",
        before=None,
    )
    fade: Fade | None = setting(
        None,
        'epochs in which the learning rate of weights falls to 0, by patterns: `{"conv2d/bias":3}`',
        before=None,
    )
    clip: Clip | None = setting(
        None,
        'clip mean gradients before the optimizer: `{"type":"norm","value":1.0}`, `value` or '
        "`adaptive`",
        before=None,
    )
    sam: float = setting(
        0.0,
        "radius rho of sharpness-aware minimisation; above 0 an update takes two gradients",
        at_least=0,
        before=0.0,
    )
    lookahead: Lookahead | None = setting(
        None, "slow weights that follow: `lookahead`, with `steps` and `alpha`", before=None
    )
    average: Average | None = setting(
        None,
        'an average of the weights: `ema`, `{"type":"swa","start":8}` or `schedulefree`; '
        "`average.keep=false` only evaluates it beside them",
        before=None,
    )
    distill: Distill | None = setting(
        None,
        "learn from the network of a finished run, too: `distill.run=RUN`, with `temperature` and "
        "`weight`",
        before=None,
    )
    learning_rate_scaling: Literal["none", "linear", "sqrt"] = setting(
        "none",
        "scale `learning_rate` with `batch_size` / `base_batch_size`: `linear` or `sqrt`",
        before="none",
    )
    base_batch_size: int | None = setting(
        None, "batch size that `learning_rate` is meant for", at_least=1, before=None
    )
    loss: LossSpec = setting(
        CrossEntropy(),
        "`crossentropy`, `focal`, `poly1` or `brier`; "
        '`{"type":"loss","function":"FILE.py:NAME"}` is one of your own, or of optax',
        before={"type": "crossentropy"},
    )
    label_smoothing: float = setting(
        0.0, "probability taken from the label and spread over all classes", at_least=0, below=1
    )
    batch_size: int = setting(
        32,
        "rows of one update; the last batch of an epoch may be shorter",
        at_least=1,
        at_most=MAX_BATCH,
        role=Role.COST,
    )
    drop_last: bool = setting(False, "leave an incomplete last batch out of training")
    epochs: int = setting(
        10, "passes over the training rows", at_least=1, at_most=MAX_EPOCHS, role=Role.COST
    )
    seed: int = _seed(0, "seed of initialisation, order, augmentation and dropout", Role.SEED)
    init_seed: int | None = _seed(None, "seed of the initial weights alone; without one, `seed`")
    order_seed: int | None = _seed(None, "seed of the order of rows alone")
    augment_seed: int | None = _seed(None, "seed of augmentation alone")
    dropout_seed: int | None = _seed(None, "seed of dropout alone")

    def scaled_learning_rate(self) -> float:
        """`learning_rate` for this batch size.

        "linear" as in Goyal et al. 2017 (arXiv:1706.02677), "sqrt" as in Krizhevsky 2014
        (arXiv:1404.5997).
        """
        assert self.learning_rate is not None  # Config fills it in
        ratio = self.batch_size / (self.base_batch_size or self.batch_size)
        factor = ratio if self.learning_rate_scaling == "linear" else ratio**0.5
        return self.learning_rate * factor

    def seeds(self) -> list[int]:
        """The seed of each stream of random numbers, in the order of `flaxcnn.rng.Purpose`."""
        own = (getattr(self, name) for name in names(Optimisation, Role.STREAM))
        return [self.seed if seed is None else seed for seed in own]

    def _check_optimisation(self) -> None:
        if self.learning_rate is not None and self.learning_rate < LEAST_RATE:
            raise ConfigError(
                f"learning_rate must be at least {LEAST_RATE:g}, or it is 0 in float32 "
                f"(got {self.learning_rate!r})"
            )
        scaled = self.learning_rate_scaling != "none"
        if scaled and self.base_batch_size is None:
            raise ConfigError(
                f"learning_rate_scaling={self.learning_rate_scaling} needs base_batch_size, the "
                "batch size that learning_rate is meant for"
            )
        if not scaled and self.base_batch_size is not None:
            raise ConfigError(
                f"base_batch_size={self.base_batch_size} has no effect with "
                "learning_rate_scaling=none; use linear or sqrt"
            )
