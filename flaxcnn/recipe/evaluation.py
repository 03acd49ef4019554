"""Evaluation: which epoch is kept, and what is measured."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

from flaxcnn.recipe.fields import Role, setting


@dataclass(frozen=True)
class Evaluation:
    """Which epoch is kept, and what is measured."""

    _: KW_ONLY
    protocol: Literal["honest", "document"] = setting(
        "honest",
        "`document` follows the evaluation of the experiment's document and flags the result",
    )
    monitor: Literal["val_accuracy", "val_loss"] = setting(
        "val_accuracy", "metric that decides which epoch is best: `val_accuracy` or `val_loss`"
    )
    patience: int | None = setting(
        None, "stop after so many epochs without improvement; `none` never stops", at_least=1
    )
    min_delta: float = setting(0.0, "smallest improvement that counts", at_least=0)
    keep: Literal["best", "last"] = setting(
        "best", "keep the weights of the `best` or `last` epoch"
    )
    evaluate_train: bool = setting(
        False,
        "evaluate the training rows after every epoch, not only at the end",
        role=Role.PROGRAM,
    )
