"""Candidates in order of their scores over folds, with what the folds allow to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flaxcnn.studies.contrasts import corrected_resampled_t, holm

ALPHA = 0.05


@dataclass
class Scored:
    """One candidate's scores: (repeat, fold) -> accuracy of each seed on that fold."""

    label: str
    settings: Mapping[str, Any]
    params: int
    scores: dict[tuple[int, int], list[float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)  # of each training
    diverged: int = 0

    def by_fold(self) -> dict[tuple[int, int], float]:
        """Mean over seeds: they are no further splits of the data."""
        return {fold: float(np.mean(values)) for fold, values in self.scores.items()}


def rank(
    scored: Sequence[Scored], incumbent: str | None, ratio: float, given_up: int = 0
) -> dict[str, Any]:
    """Figures of every candidate, the best first, against the incumbent.

    Intervals and p values are those of Nadeau and Bengio 2003, since folds share their training
    rows; p values are corrected for the number of candidates (Holm 1979). A candidate with a
    training that diverged is not chosen.

    Args:
        scored: at least one.
        incumbent: label of the one to beat; None, or one that has no scores: nothing is compared.
        ratio: n_test / n_train of a fold.
        given_up: candidates beside them that were begun: the correction counts them.
    """
    against = next(
        (candidate for candidate in scored if candidate.label == incumbent and candidate.scores),
        None,
    )
    rows = [_row(candidate, ratio) for candidate in scored]
    if against is not None:
        tests = {
            candidate.label: _test(candidate, against, ratio)
            for candidate in scored
            if candidate is not against
        }
        p_values = [1.0 if test is None or test["p"] is None else test["p"]
                    for test in tests.values()] + [1.0] * given_up  # fmt: skip
        corrected = dict(zip(tests, holm(p_values) if p_values else [], strict=False))
        for row in rows:
            test = tests.get(row["label"])
            p = None if test is None or test["p"] is None else corrected[row["label"]]
            row["against_incumbent"] = test and _verdict(test, p)
    order = sorted(rows, key=lambda row: (row["diverged"] > 0, -(row["mean"] or 0), row["params"]))
    best = order[0]
    for row in order:
        row["on_front"] = _on_front(row, order)
    return {
        "incumbent": incumbent if against else None,
        "winner": best["label"] if best["mean"] is not None and not best["diverged"] else None,
        "candidates": order,
    }


def _row(candidate: Scored, ratio: float) -> dict[str, Any]:
    scores = list(candidate.by_fold().values())
    interval = None
    if len(scores) > 1:
        interval = corrected_resampled_t(scores, ratio).interval
        if interval is not None:
            interval = max(interval[0], 0.0), min(interval[1], 1.0)  # an accuracy
    return {
        "label": candidate.label,
        **{f"setting.{key}": value for key, value in candidate.settings.items()},
        "params": candidate.params, "folds": len(scores), "diverged": candidate.diverged,
        "mean": float(np.mean(scores)) if scores else None,
        "sd": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        "low": interval[0] if interval else None, "high": interval[1] if interval else None,
        "seconds": float(np.mean(candidate.seconds)) if candidate.seconds else None,
        "scores": [
            {"repeat": repeat, "fold": fold, "values": values}
            for (repeat, fold), values in sorted(candidate.scores.items())
        ],
    }  # fmt: skip


def _test(candidate: Scored, against: Scored, ratio: float) -> dict[str, Any] | None:
    """One minus the other on the folds that both have scored."""
    own, other = candidate.by_fold(), against.by_fold()
    differences = [own[fold] - other[fold] for fold in sorted(own.keys() & other.keys())]
    if len(differences) < 2:
        return None
    test = corrected_resampled_t(differences, ratio)
    low, high = test.interval or (None, None)
    return {"difference": test.difference, "low": low, "high": high, "p": test.p_value}


def _verdict(test: dict[str, Any], p: float | None) -> dict[str, Any]:
    shown = p is not None and p < ALPHA
    word = ("better" if test["difference"] > 0 else "worse") if shown else "not shown"
    return {**test, "p_corrected": p, "verdict": word}


def _on_front(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> bool:
    """No other has as few parameters and a higher score, or fewer and as high a one."""
    if row["mean"] is None:
        return False
    return not any(
        other["mean"] is not None
        and other["params"] <= row["params"]
        and other["mean"] >= row["mean"]
        and (other["params"], other["mean"]) != (row["params"], row["mean"])
        for other in rows
    )
