"""Evaluation: which epoch is kept, and what is measured."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

from flaxcnn.errors import near_miss
from flaxcnn.recipe.codec import WrongTypeError
from flaxcnn.recipe.fields import Role, setting
from flaxcnn.recipe.losses import MetricSpec, check_names
from flaxcnn.recipe.views import Views


@dataclass(frozen=True)
class Evaluation:
    """Which epoch is kept, and what is measured."""

    _: KW_ONLY
    protocol: Literal["honest", "document"] = setting(
        "honest",
        "`document` follows the evaluation of the experiment's document and flags the result",
    )
    metrics: tuple[MetricSpec, ...] = setting(
        (),
        "recorded beside loss and accuracy: `topk`, or "
        '`{"type":"metric","function":"FILE.py:NAME"}` of your own',
        before=[],
    )
    monitor: str = setting(
        "val_accuracy",
        "metric that decides which epoch is best: `val_accuracy`, `val_loss` or `val_NAME` of one "
        "of `metrics`",
    )
    patience: int | None = setting(
        None, "stop after so many epochs without improvement; `none` never stops", at_least=1
    )
    min_delta: float = setting(0.0, "smallest improvement that counts", at_least=0)
    keep: Literal["best", "last"] = setting(
        "best", "keep the weights of the `best` or `last` epoch"
    )
    tta: Views | None = setting(
        None,
        'test-time augmentation: logits averaged over `{"flip":true,"shift":1}`, wherever rows '
        "are evaluated or predicted",
        before=None,
    )
    calibrate: bool = setting(
        False,
        "fit a temperature to the validation rows, by which `predict` and the report divide logits",
        before=False,
    )
    evaluate_train: bool = setting(
        False,
        "evaluate the training rows after every epoch, not only at the end",
        role=Role.PROGRAM,
    )

    @property
    def measured(self) -> dict[str, bool]:
        """The columns of `metrics` in the records of a run, and whether larger is better."""
        return {
            f"{split}_{metric.name}": metric.better == "higher"
            for split in ("test", "val", "train") for metric in self.metrics
        }  # fmt: skip

    @property
    def rises(self) -> bool:
        """Whether a larger value of what is monitored is better."""
        return {"val_loss": False, "val_accuracy": True, **self.measured}[self.monitor]

    def _check_evaluation(self) -> None:
        check_names(self.metrics)
        known = ["val_accuracy", "val_loss", *(f"val_{metric.name}" for metric in self.metrics)]
        if self.monitor not in known:
            raise WrongTypeError("monitor", known, self.monitor, near_miss(self.monitor, known))
