"""The tables and sentences that README files, the terminal and reports show alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from flaxcnn.records.format import UNCHANGED, count_text, figure, p_text, verdict_text
from flaxcnn.records.intervals import wilson
from flaxcnn.records.tables import MISSING, Cell, Table, count, decimal, interval

MEASURED = "test_accuracy"
CHOSEN_BY = "val_accuracy"  # the best of several settings is chosen by it, never by the test rows
SPLITS = (("test", "test"), ("validation", "val"), ("training", "train"))
FIGURE = "mean ± sd [95 %]"

TRAINING_NOTE = (
    "Training figures are running means over an epoch with dropout active, so they may be below "
    "those of validation."
)
SEEDS_NOTE = (
    "Intervals are Student's t over seeds, clipped to 0 and 1. They show how well the mean over "
    "seeds is known, on these test rows."
)
FOLDS_NOTE = (
    "Scores are accuracies on the fold that a candidate was not trained on. Intervals and p values "
    "allow for folds sharing their training rows (Nadeau and Bengio 2003); p values are corrected "
    "for the number of candidates (Holm)."
)
BEST_OF_SEVERAL = "The best of several usually scores better on these folds than elsewhere."
FRONT_NOTE = '"front": no candidate has fewer parameters and a higher score.'
SOURCE_CHANGED = "The source had uncommitted changes, so the exact source is unknown."
HONEST = "honest protocol: epoch chosen on held-out rows, test rows used once"
DOCUMENT_FOLDS = "document protocol: epochs chosen on the folds that score them"


def protocol_note(protocols: Collection[str], validation: Any) -> tuple[str, bool]:
    """What the protocols mean for the figures, and whether that is a warning."""
    if "document" not in protocols:
        return HONEST, False
    where = "on the test rows themselves" if validation == "test" else "as its document chose it"
    return f"document protocol: epoch chosen {where}", True


# -- a run ---------------------------------------------------------------------------------------


def splits_table(summary: Mapping[str, Any], percent: bool = False) -> Table:
    """Accuracy and loss of the kept weights, one row per split; accuracies in percent or not."""
    rows = []
    names = (name.removeprefix("test_") for name in summary if name.startswith("test_"))
    own = [name for name in names if name not in ("accuracy", "loss", "rows")]
    for name, key in SPLITS:
        if f"{key}_loss" not in summary:
            continue
        accuracy, size = summary[f"{key}_accuracy"], summary.get(f"{key}_rows")
        ends = wilson(accuracy, size) if size and accuracy is not None else None
        loss = decimal(summary[f"{key}_loss"])
        more = [decimal(summary.get(f"{key}_{metric}")) for metric in own]
        shown = [decimal(accuracy), interval(ends)]
        if percent and accuracy is not None and ends:
            shown = [Cell(f"{100 * accuracy:.2f} %", accuracy),
                     Cell(f"{100 * ends[0]:.2f} to {100 * ends[1]:.2f}", ends[0])]  # fmt: skip
        rows.append([Cell(name), *shown, loss, *more, count(size)])
    caption = (
        "The kept weights on each split" if percent
        else "Accuracy and loss of the kept weights on each split"
    )  # fmt: skip
    return Table(caption, ["split", "accuracy", "95 % interval", "loss", *own, "rows"], rows)


def epochs_table(history: Sequence[Mapping[str, Any]]) -> Table:
    """One row per epoch."""
    names = dict.fromkeys(key for row in history for key in row)
    keys = [key for key in names if key not in ("epoch", "best")]
    digits = {"images_per_second": 0, "seconds": 2}
    rows = [
        [
            Cell(f"{row['epoch']}{' *' if row.get('best') else ''}", row["epoch"]),
            *(decimal(row.get(key), digits.get(key, 4)) for key in keys),
        ]
        for row in history
    ]
    header = ["epoch", *(key.replace("_", " ") for key in keys)]
    return Table(f"All {len(rows)} epochs (* a new best)", header, rows)


def epoch_line(metrics: Mapping[str, Any], epochs: int) -> str:
    """One line for a terminal, of an epoch that has ended.

    Args:
        metrics: of the epoch.
        epochs: of the whole run.
    """
    value = {key: float("nan") if item is None else item for key, item in metrics.items()}
    text = (
        f"epoch {value['epoch']:>3}/{epochs}  loss {value['train_loss']:.4f}  "
        f"accuracy {value['train_accuracy']:.4f}  "
    )
    if "val_loss" in value:  # an epoch that diverged ends before it
        text += f"val_loss {value['val_loss']:.4f}  val_accuracy {value['val_accuracy']:.4f}  "
    text += f"{value['seconds']:.2f} s"
    if "clean_train_accuracy" in value:
        text += f"  clean {value['clean_train_accuracy']:.4f}"
    if "stall" in value:
        text += f"  stall {value['stall']:.1%}"
    return text + ("  best" if value["best"] else "")


# -- a study -------------------------------------------------------------------------------------


def run_line(row: Mapping[str, Any], label: str, ended: int, planned: int) -> str:
    """One line for a terminal, of a run of a study that has ended."""
    head = f"run {ended:>3}/{planned}  seed {row['seed']:<4} {label + '  ' if label else ''}"
    if row["status"] == "diverged":
        return f"{head}diverged: {row['reason']}"
    return (
        f"{head}test {row['test_accuracy']:.4f}  validation {row['val_accuracy']:.4f}  "
        f"epoch {row['kept_epoch']} of {row['epochs_run']}{'  dead' * bool(row['dead_layers'])}"
    )


def fold_line(row: Mapping[str, Any], label: str, ended: int, planned: int) -> str:
    """One line for a terminal, of a run of a search that has ended."""
    head = f"run {ended:>3}/{planned}  {label}  seed {row['seed']}  "
    if row["status"] == "diverged":
        return f"{head}diverged: {row['reason']}"
    return f"{head}fold accuracy {row['test_accuracy']:.4f}"


def seeds_table(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row per setting, over its seeds.

    Args:
        summary: study.json.
        rows: of the runs.
    """
    params = {(str(row["setting"]), row["vary"]): row.get("params") for row in rows}
    header = [
        "setting", "runs", f"test accuracy ({FIGURE})", f"validation accuracy ({FIGURE})",
        "lowest", "highest", "parameters", "diverged", "dead",
    ]  # fmt: skip
    return Table(
        "Each setting, over its seeds",
        header,
        [
            _setting_row(each, params.get((str(each["setting"]), each["vary"])))
            for each in summary["settings"]
        ],
    )


def _setting_row(setting: Mapping[str, Any], params: int | None) -> list[Cell]:
    metrics = setting["metrics"]
    test = metrics.get(MEASURED, {})
    return [
        Cell(setting["label"] or UNCHANGED),
        Cell(f"{setting['complete']} of {setting['runs']}", setting["complete"]),
        figure_cell(test),
        figure_cell(metrics.get(CHOSEN_BY, {})),
        decimal(test.get("min")),
        decimal(test.get("max")),
        count(params),
        count(len(setting["diverged"])),
        count(len(setting["dead"])),
    ]


def figure_cell(metric: Mapping[str, Any]) -> Cell:
    """Mean, standard deviation and interval of a metric over seeds."""
    if not metric:
        return Cell(MISSING)
    return Cell(figure(metric["mean"], metric["sd"], metric["t_interval"]), metric["mean"])


def variance_table(variance: Mapping[str, Any]) -> Table:
    """What each source of randomness adds to the spread, for one of `summary["variance"]`."""
    rows = []
    for each in variance["components"]:
        ends = each["sd_interval"]
        spread = f"{each['sd']:.5f}" + (f" [{ends[0]:.5f}, {ends[1]:.5f}]" if ends else "")
        share = Cell(MISSING) if each["share"] is None else Cell(f"{each['share']:.0%}")
        rows.append([Cell(each["source"]), Cell(str(each["n"])), Cell(spread), share])
    header = ["source", "runs", f"sd of {variance['metric']} [95 %]", "share of the variance"]
    return Table(f"Sources of variance {variance['setting']}".rstrip(), header, rows)


# -- a search ------------------------------------------------------------------------------------


def candidates_table(summary: Mapping[str, Any]) -> Table:
    """One row per candidate, the best first.

    Args:
        summary: search.json.
    """
    header = [
        "candidate", "parameters", "folds", f"accuracy ({FIGURE})", "seconds",
        "against the incumbent", "notes",
    ]  # fmt: skip
    rows = [_candidate_row(row, summary) for row in summary["candidates"]]
    return Table("Accuracy on the folds, the best first", header, rows)


def _candidate_row(row: Mapping[str, Any], summary: Mapping[str, Any]) -> list[Cell]:
    ends = None if row["low"] is None else (row["low"], row["high"])
    notes = [
        *(["winner"] if row["label"] == summary["winner"] else []),
        *(["front"] if row["on_front"] else []),
        *([f"{row['diverged']} diverged"] if row["diverged"] else []),
    ]
    return [
        Cell(row["label"]),
        count(row["params"]),
        count(row["folds"]),
        Cell(figure(row["mean"], row["sd"], ends), row["mean"]),
        decimal(row["seconds"], 1),
        _against(row, summary["incumbent"]),
        Cell(", ".join(notes)),
    ]


def _against(row: Mapping[str, Any], incumbent: str | None) -> Cell:
    if row["label"] == incumbent:
        return Cell("incumbent")
    test = row.get("against_incumbent")
    if not test:
        return Cell(MISSING)
    figures = ", ".join(filter(None, [f"{test['difference']:+.4f}", p_text(test["p_corrected"])]))
    return Cell(f"{figures}: {verdict_text(test['verdict'])}", test["difference"])


def trained_note(summary: Mapping[str, Any]) -> str:
    """How the candidates of a search came about, and how many were trained."""
    if "sampler" not in summary:
        return (
            f"{summary['planned']} runs planned, {summary['trained']} trained: runs with fewer "
            "epochs are read off longer ones."
        )
    return (
        f"{summary['trials']} recipes drawn by {summary['sampler']} from the space in plan.json, "
        f"pruner {summary['pruner']}: {len(summary['candidates']) - 1} are ranked beside the "
        f"recipe unchanged, {len(summary['dropped'])} were not scored; p values count pruned "
        "trials too. Later recipes were drawn by what earlier ones scored on the same rows, so "
        "judge the winner by its accuracy on the test rows."
    )


def scoring_text(summary: Mapping[str, Any]) -> str:
    """`5 folds, 1 repeat, 2 seeds`."""
    counts = (
        (summary["folds"], "fold"), (summary["repeats"], "repeat"), (len(summary["seeds"]), "seed"),
    )  # fmt: skip
    return ", ".join(count_text(*each) for each in counts)


def dropped_heading(summary: Mapping[str, Any]) -> str:
    """The heading over candidates without a score."""
    return "Not scored" if "sampler" in summary else "Not tried"


def refit_note(summary: Mapping[str, Any]) -> str:
    """What became of the winner on the whole training split, or nothing."""
    if refit := summary.get("refit"):
        rows = f" on {refit['test_rows']:,} rows" if "test_rows" in refit else ""
        return (
            f"The winner, {summary['winner']}, trained on the whole training split: test accuracy "
            f"{refit['test_accuracy']:.4f}{rows}."
        )
    if failed := summary.get("refit_diverged"):
        return f"The winner diverged when trained on the whole training split: {failed}"
    return ""
