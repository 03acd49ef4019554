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
        return {place: float(np.mean(found)) for place, found in self.scores.items()}


def rank(
    found: Sequence[Scored], incumbent: str | None, ratio: float, given_up: int = 0
) -> dict[str, Any]:
    """Figures of every candidate, the best first, against the incumbent.

    Intervals and p values are those of Nadeau and Bengio 2003, since folds share their training
    rows; p values are corrected for the number of candidates (Holm 1979). A candidate with a
    training that diverged is not chosen.

    Args:
        found: at least one.
        incumbent: label of the one to beat; None, or one that has no scores: nothing is compared.
        ratio: n_test / n_train of a fold.
        given_up: candidates beside them that were begun: the correction counts them.
    """
    against = next((one for one in found if one.label == incumbent and one.scores), None)
    rows = [_row(one, ratio) for one in found]
    if against is not None:
        tests = {one.label: _test(one, against, ratio) for one in found if one is not against}
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


def _row(one: Scored, ratio: float) -> dict[str, Any]:
    scores = list(one.by_fold().values())
    interval = None
    if len(scores) > 1:
        interval = corrected_resampled_t(scores, ratio).interval
        if interval is not None:
            interval = max(interval[0], 0.0), min(interval[1], 1.0)  # an accuracy
    return {
        "label": one.label, **{f"setting.{key}": value for key, value in one.settings.items()},
        "params": one.params, "folds": len(scores), "diverged": one.diverged,
        "mean": float(np.mean(scores)) if scores else None,
        "sd": float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
        "low": interval[0] if interval else None, "high": interval[1] if interval else None,
        "seconds": float(np.mean(one.seconds)) if one.seconds else None,
        "scores": [
            {"repeat": repeat, "fold": fold, "values": values}
            for (repeat, fold), values in sorted(one.scores.items())
        ],
    }  # fmt: skip


def _test(one: Scored, against: Scored, ratio: float) -> dict[str, Any] | None:
    """One minus the other on the folds that both have scored."""
    own, other = one.by_fold(), against.by_fold()
    differences = [own[place] - other[place] for place in sorted(own.keys() & other.keys())]
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


def lines(summary: Mapping[str, Any]) -> list[list[str]]:
    """Cells of the table: a header, then a line a candidate."""
    found = [["candidate", "parameters", "folds", "accuracy (mean ± sd [95 %])", "seconds",
              "against the incumbent", ""]]  # fmt: skip
    for row in summary["candidates"]:
        score = "-" if row["mean"] is None else f"{row['mean']:.4f}"
        if row["sd"] is not None:
            score += f" ± {row['sd']:.4f}"
        if row["low"] is not None:
            score += f" [{row['low']:.4f}, {row['high']:.4f}]"
        marks = [
            *(["winner"] if row["label"] == summary["winner"] else []),
            *(["front"] if row["on_front"] else []),
            *([f"{row['diverged']} diverged"] if row["diverged"] else []),
        ]
        seconds = "-" if row["seconds"] is None else f"{row['seconds']:.1f}"
        found.append([row["label"], f"{row['params']:,}", str(row["folds"]), score, seconds,
                      _against(row, summary["incumbent"]), ", ".join(marks)])  # fmt: skip
    return found


def _against(row: Mapping[str, Any], incumbent: str | None) -> str:
    if row["label"] == incumbent:
        return "incumbent"
    test = row.get("against_incumbent")
    if not test:
        return "-"
    found = test["p_corrected"]
    p = "" if found is None else ", p < 0.001" if found < 0.001 else f", p {found:.3f}"
    return f"{test['difference']:+.4f}{p}: {test['verdict']}"


def page(summary: Mapping[str, Any]) -> str:
    """README.md of a search."""
    header, *body = lines(summary)
    table = "\n".join(
        [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
        + [f"| {' | '.join(cells)} |" for cells in body]
    )
    flag = (
        "**Document protocol:** epochs were chosen on the folds that score them.\n\n"
        if summary["protocol"] == "document" else ""
    )  # fmt: skip
    dropped = "".join(f"- {one['label']}: {one['reason']}\n" for one in summary["dropped"])
    refit = summary.get("refit")
    tested = (
        f"\nThe winner, trained on the whole training split (`refit/`): test accuracy "
        f"{refit['test_accuracy']:.4f} on {refit['test_rows']} rows that no candidate was scored "
        "on.\n"
        if refit else ""
    )  # fmt: skip
    if failed := summary.get("refit_diverged"):
        tested = (
            f"\nThe winner diverged when it was trained on the whole training split: {failed}\n"
        )
    heading = "Not scored" if "sampler" in summary else "Not tried"
    untried = f"\n## {heading}\n\n{dropped}" if dropped else ""
    return f"""# Search of {summary["experiment"] or "recipes"}

{flag}{_trained(summary)} {summary["folds"]} folds, {summary["repeats"]} repeats,
{len(summary["seeds"])} seeds.

{table}
{tested}
Scores are accuracies on the fold that a candidate was not trained on; the epoch was chosen on rows
held out of the other folds. Intervals and p values allow for folds sharing their training rows
(Nadeau and Bengio 2003), p values for the number of candidates (Holm). "front": no candidate has
fewer parameters and a higher score.
{untried}"""


def _trained(summary: Mapping[str, Any]) -> str:
    if "sampler" in summary:
        return (
            f"{summary['trials']} recipes drawn by {summary['sampler']} from the space in "
            f"plan.json, pruner {summary['pruner']}: {len(summary['candidates']) - 1} are ranked "
            f"beside the recipe as it stands, {len(summary['dropped'])} were not scored; p values "
            "count those given up too. Recipes were drawn by what earlier ones scored on the same "
            "rows: what the best is worth, its test rows say."
        )
    return (
        f"{summary['planned']} runs planned, {summary['trained']} trained: runs with fewer epochs "
        "are read off longer ones."
    )


def columns(candidates: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Column -> values of all candidates (None where one has none), a column for every setting."""
    flat = [
        {
            **{key: value for key, value in row.items() if not isinstance(value, dict | list)},
            **{f"against_incumbent.{key}": value
               for key, value in (row.get("against_incumbent") or {}).items()},
        }
        for row in candidates
    ]  # fmt: skip
    names = dict.fromkeys(key for row in flat for key in row)
    names.pop("against_incumbent", None)  # of the incumbent itself: None
    return {name: [row.get(name) for row in flat] for name in names}
