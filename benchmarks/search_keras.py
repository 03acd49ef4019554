"""scikit-learn's GridSearchCV over a Keras model on TensorFlow, a side of `search_cost`.

Keras's own `SKLearnClassifier` loses its arguments of fit when scikit-learn clones it, gives fit
arrays only, where a tf.data pipeline is faster, and predicts 32 rows at a time: so there is a class
of our own. Keras and TensorFlow are imported where they are used, in worker processes too.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import GridSearchCV

from benchmarks.peers.task import EVAL_BATCHES, scaled
from benchmarks.search_cost import FOLDS, Plan, candidates, cut, grid_of, points_of
from flaxcnn.data import splits


class KerasClassifier(ClassifierMixin, BaseEstimator):
    """A point of the grid; `shrink` divides its epochs, `settings` say how Keras trains it."""

    def __init__(
        self, activation: str = "relu", optimizer: str = "Adadelta", dropout_rate: float = 0.2,
        epochs: int = 20, shrink: int = 1, settings: dict[str, Any] | None = None,
    ):  # fmt: skip
        self.activation = activation
        self.optimizer = optimizer
        self.dropout_rate = dropout_rate
        self.epochs = epochs
        self.shrink = shrink
        self.settings = settings

    def fit(self, image: np.ndarray, label: np.ndarray) -> KerasClassifier:
        """Build the recipe's model and train it."""
        import keras

        from benchmarks.peers.with_keras import compiled, fit_arguments

        class Clock(keras.callbacks.Callback):
            """When each epoch ended."""

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                ended.append(time.perf_counter())

        ended: list[float] = []
        assert self.settings is not None
        own = {key: getattr(self, key) for key in grid_of(candidates(self.shrink))}
        config = next(config for point, config in candidates(self.shrink) if point == own)
        keras.backend.clear_session()  # of the model before, or graphs pile up
        self.classes_ = np.unique(label)
        self.model_ = compiled(config, image.shape[1:], self.settings)
        self.model_.fit(
            **fit_arguments(image, label, config.batch_size, self.settings),
            epochs=config.epochs, verbose=0, callbacks=[Clock()],
        )  # fmt: skip
        self.epoch_seconds_ = float(np.median(np.diff(ended))) if len(ended) > 1 else float("nan")
        return self


def scores(classifier: KerasClassifier, image: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """Accuracy of the scored fold, and what else is to be known of a training."""
    model = classifier.model_
    accuracy = model.evaluate(image, label, batch_size=EVAL_BATCHES[0], verbose=0)[1]
    return {"accuracy": accuracy, "params": model.count_params(),
            "epoch_seconds": classifier.epoch_seconds_}  # fmt: skip


def search(plan: Plan) -> dict[str, Any]:
    """The whole grid, or a trial of it: what it scored and how long it took."""
    data, _ = cut(plan.rows)
    points = points_of(plan)
    config = points[0][1]
    image, _ = scaled(data.train, data.test, config)
    label = data.train.label
    folds = splits.folds(label, FOLDS, config.split_seed)
    if plan.trial:
        folds = folds[:2]
    classifier = KerasClassifier(shrink=plan.shrink, settings=plan.settings)
    jobs = plan.settings["jobs"]
    searched = GridSearchCV(
        classifier, grid_of(points), scoring=scores, cv=folds, refit=False, n_jobs=jobs,
        error_score="raise",
    )  # fmt: skip
    began = time.perf_counter()
    searched.fit(image, label)
    seconds, found = time.perf_counter() - began, searched.cv_results_
    trained = [point["epochs"] for point in found["params"]]
    rows = sum(len(train) for train, _ in folds)
    busy = len(folds) * float(sum(found["mean_fit_time"] + found["mean_score_time"]))
    return {
        "search_seconds": seconds, "busy_seconds": busy / jobs, "at_a_time": jobs,
        "images_trained": sum(trained) * rows,
        "params": sorted({int(count) for count in found["mean_test_params"]}),
        "epoch_seconds": float(np.mean(found["mean_test_epoch_seconds"])),
        "scores": [
            [point, float(mean)]
            for point, mean in zip(found["params"], found["mean_test_accuracy"], strict=True)
        ],
    }  # fmt: skip
