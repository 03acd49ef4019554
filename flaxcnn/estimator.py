"""FlaxCNNClassifier: the training of the package behind scikit-learn's interface.

`fit` is the loop of `flaxcnn train` over arrays, without a run directory; `partial_fit` is one of
its epochs. So what is promised of a run on one device is true here: the same data and
`random_state` give the same bits, and from uint8 images those of `flaxcnn train`.
"""

from __future__ import annotations

import functools
import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from flaxcnn.backend import enough_memory, prepare
from flaxcnn.data.batches import Resident
from flaxcnn.data.splits import Rows
from flaxcnn.engine.arrays import (
    DATASET,
    Normalize,
    Standardizer,
    choose,
    image_shape,
    logits,
    make_array_job,
    relative,
    standardizer,
)
from flaxcnn.engine.average import chosen
from flaxcnn.engine.interrupt import Interrupt
from flaxcnn.engine.loop import Progress, check_finite, epoch_metrics, epochs, one_epoch
from flaxcnn.engine.resident import ResidentJob
from flaxcnn.engine.step import TrainState
from flaxcnn.errors import ConfigError, FlaxcnnError
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.for_arrays import layers_for, other_settings
from flaxcnn.recipe.layers import Layer, Shape
from flaxcnn.recipe.optimizers import Optimizer
from flaxcnn.recipe.traced import compiled_optimizer


class FlaxCNNClassifier(ClassifierMixin, BaseEstimator):
    """A CNN for images, or a small network for features, as a scikit-learn classifier.

    >>> from sklearn.datasets import load_digits
    >>> images, labels = load_digits(return_X_y=True)
    >>> FlaxCNNClassifier(image_shape=(8, 8), epochs=1).fit(images, labels).n_iter_
    1

    X is [N, features], [N, H, W] or [N, H, W, C], of any real numbers. Features are an image of
    one pixel with a channel for each, unless `image_shape` says otherwise; `fit` on one form takes
    the others with as many features in `predict`.

    Args:
        layers: "auto" (two convolutions where images are 8x8 or larger, else one hidden layer),
            the name of an experiment whose layers are taken with an output for each class, or a
            sequence of `flaxcnn.recipe.layers` that ends in `Dense(number of classes)`.
        image_shape: (H, W) or (H, W, C) that 2-D rows are reshaped to.
        optimizer: a name, as "adam", or one of `flaxcnn.recipe.optimizers`.
        learning_rate: None is the optimizer's default.
        batch_size: rows of one update; more than there are is all of them.
        epochs: passes over the training rows, at most.
        validation_fraction: of the rows, stratified by class; above 0 the weights of the epoch with
            the best accuracy on them are kept, and 0 keeps the last ones.
        patience: epochs without a better validation accuracy, or without hold-out a lower training
            loss, before `fit` stops; None never does.
        normalize: "per_channel" or "per_pixel" standardisation by the training rows, "unit" (divide
            by 255), or None.
        precision: "float32", "tensorfloat32" or "bfloat16" computation with float32 weights.
        devices: that share a batch; None takes as many as do well.
        random_state: of all that is drawn; an integer is the `seed` of `flaxcnn train`.
        verbose: print a line after each epoch.
        settings: other fields of `flaxcnn.Config` by name, as {"augment": (Shift(0.1),),
            "average": EMA(0.99), "clip": Clip("norm", 1.0)}; with "model", a network of one's own,
            `layers` are not used. Augmentation wants uint8 images.

    Attributes:
        classes_: labels [K] in the order of the columns of `predict_proba`.
        n_features_in_: numbers in a row of X, H * W * C.
        feature_names_in_: names of the columns, where X was a data frame.
        image_shape_: (H, W, C).
        n_iter_: epochs done.
        loss_curve_: training loss of each epoch.
        history_: a dict for each epoch, as in metrics.jsonl.
        best_epoch_: whose weights are kept.
        config_: the recipe; X and `validation_fraction` stand for its data and split.
        state_: weights and optimizer state of that epoch, as numpy arrays.
        standardizer_: what is done to X.
    """

    def __init__(
        self,
        layers: str | Sequence[Layer] = "auto",
        *,
        image_shape: tuple[int, ...] | None = None,
        optimizer: str | Optimizer = "adam",
        learning_rate: float | None = None,
        batch_size: int = 32,
        epochs: int = 20,
        validation_fraction: float = 0.0,
        patience: int | None = None,
        normalize: Normalize = "per_channel",
        precision: str = "float32",
        devices: int | None = 1,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
        settings: Mapping[str, Any] | None = None,
    ):
        self.layers = layers
        self.image_shape = image_shape
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.epochs = epochs
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.normalize = normalize
        self.precision = precision
        self.devices = devices
        self.random_state = random_state
        self.verbose = verbose
        self.settings = settings

    @enough_memory("a smaller batch_size or network, or fewer rows")
    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> FlaxCNNClassifier:
        """Train anew.

        Args:
            X: [N, features], [N, H, W] or [N, H, W, C], finite.
            y: labels [N] of any kind.
            sample_weight: [N] of at least 0. The loss of a batch is the weighted mean of its rows;
                rows of weight 0 are left out, as if they were not there. Batch normalisation counts
                rows, not weights.

        Raises:
            ConfigError (a ValueError): a parameter is wrong, or does not fit the data.
            ValueError: X, y or sample_weight is wrong.
            OutOfMemoryError: the device has not what it takes.
            DivergedError: the loss is not finite.
        """
        self.__dict__.pop("state_", None)  # its labels are not those of a fit that fails now
        image, names = self._checked(X, y, reset=True)
        self.classes_ = LabelEncoder().fit(names).classes_
        image, label, weight = self._weighted(image, names, sample_weight)
        config = self._config(image.shape[1:])
        rows = choose(label, self.validation_fraction, config.seed)
        standard = standardizer(image, self.normalize, rows.train, weight)
        job = self._job(config, image, label, weight, rows, standard)
        kept, epoch = job.init(), 0
        history: list[dict[str, Any]] = []
        for report in epochs(job, kept, Progress(), Interrupt()):
            history.append(self._told(report.metrics))
            check_finite(report.metrics, report.progress, config)
            # Without hold-out the last weights are kept: then only they are brought to the host.
            if report.metrics["best"] if len(rows.validation) else report.progress.done(config):
                kept, epoch = _on_host(report.state), report.progress.epoch
        return self._record(config, kept, epoch, standard, history)

    @enough_memory("fewer rows in each call, a smaller batch_size or network")
    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> FlaxCNNClassifier:
        """One pass over these rows, from the weights and optimizer state of the last call or fit.

        The first call fixes the standardisation by its rows, and the network.

        Args:
            X: as for `fit`.
            y: labels [N].
            classes: all labels that will ever come; needed at the first call.
            sample_weight: as for `fit`.

        Raises:
            ConfigError (a ValueError): a hold-out is asked for, or the network or optimizer changed
                since the first call.
            ValueError: X, y, classes or sample_weight is wrong.
            DivergedError: the loss is not finite; the weights before the call are kept.
        """
        if self.validation_fraction:
            raise ConfigError(
                "validation_fraction must be 0 in partial_fit, which sees a part of the rows and "
                f"holds none out (got {self.validation_fraction!r})"
            )
        first = _check_partial_fit_first_call(self, classes) or not hasattr(self, "state_")
        image, names = self._checked(X, y, reset=first)
        image, label, weight = self._weighted(image, names, sample_weight)
        config = self._config(image.shape[1:])
        rows = choose(label, self.validation_fraction, config.seed)
        if first:
            standard, history = standardizer(image, self.normalize, rows.train, weight), []
        else:
            _check_same_network(self.config_, config)
            standard, history = self.standardizer_, self.history_
        job = self._job(config, image, label, weight, rows, standard)
        state = job.init() if first else jax.device_put(self.state_, job.placement)
        state, sums = one_epoch(job, state, Interrupt())
        metrics, progress = epoch_metrics(sums, Progress(len(history)), config)
        check_finite(metrics, progress, config)
        history = [*history, self._told(metrics)]
        return self._record(config, _on_host(state), progress.epoch, standard, history)

    @enough_memory("fewer rows at a time")
    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Probabilities [N, K] float64 of the classes in the order of `classes_`; rows sum to 1."""
        check_is_fitted(self)
        image = self._checked(X, None, reset=False)[0]
        _start()
        state = chosen(self.config_, jax.device_put(self.state_))
        return softmax(
            logits(self.config_, state, self.standardizer_, image).astype(np.float64), axis=1
        )

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The most probable label of each row, [N]."""
        proba = self.predict_proba(X)
        return self.classes_[proba.argmax(axis=1)]

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "state_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    # -- data ----------------------------------------------------------------------------------

    def _checked(self, X: Any, y: Any, reset: bool) -> tuple[np.ndarray, Any]:
        """X as images [N, H, W, C] of finite numbers, and y as labels [N]."""
        if isinstance(X, list | tuple):
            X = np.asarray(X)
        shape: Shape | None = None
        if getattr(X, "ndim", 2) in (3, 4):
            shape = (*X.shape[1:], 1)[:3]
            X = np.asarray(X).reshape(len(X), -1)
        if y is None and not reset:
            X = validate_data(self, X, reset=False)
        else:
            X, y = validate_data(self, X, y, reset=reset)
            check_classification_targets(y)
        if reset:
            self.image_shape_ = image_shape(self.image_shape, shape, X.shape[1])
        elif shape is not None and shape != self.image_shape_:
            raise ConfigError(f"X must have images {self.image_shape_}, as in fit (got {shape})")
        return X.reshape(-1, *self.image_shape_), y

    def _weighted(
        self, image: np.ndarray, y: np.ndarray, sample_weight: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(images, class numbers [n] int32, weights [n] float32 or None) of rows that count."""
        if len(new := np.setdiff1d(y, self.classes_)):
            raise ValueError(f"y: got label {_plain(new[0])!r}, which is not one of the classes")
        label = np.searchsorted(self.classes_, y).astype(np.int32)
        if sample_weight is None:
            return image, label, None
        weight = _check_sample_weight(
            sample_weight, image, dtype=np.float64, ensure_non_negative=True
        )
        return image[weight > 0], label[weight > 0], relative(weight[weight > 0])

    # -- training ------------------------------------------------------------------------------

    def _config(self, shape: Shape) -> Config:
        """The recipe that the parameters describe, for images of `shape`."""
        settings = other_settings(self.settings, self.get_params(deep=False))
        layers = self.layers
        if settings.get("model"):
            layers = ()
        elif isinstance(layers, str):
            layers = layers_for(layers, shape, len(self.classes_))
        return Config(
            DATASET, tuple(layers), optimizer=self.optimizer,  # type: ignore[arg-type]
            learning_rate=_plain(self.learning_rate), batch_size=_plain(self.batch_size),
            epochs=_plain(self.epochs), patience=_plain(self.patience), seed=self._seed(),
            normalize=self.normalize or "unit", precision=self.precision,  # type: ignore[arg-type]
            keep="best" if self.validation_fraction else "last", **settings,
        )  # fmt: skip

    def _seed(self) -> int:
        if isinstance(self.random_state, numbers.Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**32, dtype=np.uint32))

    def _job(
        self, config: Config, image: Any, label: Any, weight: Any, rows: Rows, standard: Any
    ) -> ResidentJob:
        if config.augment and image.dtype != np.uint8:
            raise ConfigError(
                f"settings: augment changes pixels: X must be uint8 images (got {image.dtype})"
            )
        _start()
        image, scaling = standard.apply(image)
        data = Resident(image, label, scaling, weight)
        return make_array_job(config, data, rows, len(self.classes_), self.devices)

    def _told(self, metrics: dict[str, Any]) -> dict[str, Any]:
        """The epoch's line, printed where `verbose` asks for it."""
        if self.verbose:
            shown = (f"{k} {v:.4f}" for k, v in metrics.items() if k.endswith(("loss", "accuracy")))
            print(f"epoch {metrics['epoch']}:", *shown)
        return metrics

    def _record(
        self, config: Config, state: TrainState, epoch: int, standard: Standardizer,
        history: list[dict[str, Any]],
    ) -> FlaxCNNClassifier:  # fmt: skip
        self.config_, self.state_, self.best_epoch_ = config, state, epoch
        self.standardizer_, self.history_ = standard, history
        self.n_iter_ = len(history)
        self.loss_curve_ = [metrics["train_loss"] for metrics in history]
        return self


@functools.cache
def _first_process() -> int:
    """The process that used jax first; a forked one inherits the answer."""
    return os.getpid()


def _start() -> None:
    """Make jax ready. A process that was forked after jax had begun would hang: refuse there."""
    if _first_process() != os.getpid():
        raise FlaxcnnError(
            "JAX was initialised before this process was forked and would deadlock; use joblib's "
            "backend 'loky' (the default of n_jobs) or 'threading'"
        )
    prepare()


def _plain(value: Any) -> Any:
    """Python's own number for one of numpy's, as a search may set it."""
    return value.item() if isinstance(value, np.generic) else value


def _on_host(state: TrainState) -> TrainState:
    """Copies, since the next epoch uses the device's arrays up."""
    copied: TrainState = jax.tree.map(np.array, state)
    return copied


def _check_same_network(before: Config, now: Config) -> None:
    """ConfigError where the kept state is not one of `now`."""
    names = ("layers", "model", "average", "lookahead", "rates")
    old, new = (
        {name: getattr(one, name) for name in names}
        | {"optimizer": compiled_optimizer(one.optimizer)} for one in (before, now)
    )  # fmt: skip
    for name in old:
        if old[name] != new[name]:
            raise ConfigError(
                f"{name} has changed since the first call of partial_fit; keep it, or call fit, "
                "which starts again"
            )
