"""The page of one run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from flaxcnn.data.arrays import Dataset
from flaxcnn.data.splits import steps_per_epoch
from flaxcnn.errors import FlaxcnnError
from flaxcnn.records.checked import checked_object
from flaxcnn.records.intervals import wilson
from flaxcnn.records.read import RunRecord
from flaxcnn.records.tables import Cell, Table, count, decimal
from flaxcnn.records.views import (
    TRAINING_NOTE,
    epochs_table,
    protocol_note,
    splits_table,
)
from flaxcnn.reports import confusion, curves, images, matrices, numbers, words
from flaxcnn.reports.commands import of_run, shell_path
from flaxcnn.reports.page import Facts, Page, Section
from flaxcnn.reports.pixels import load_images
from flaxcnn.reports.predicted import (
    FEW,
    FILE,
    MANY,
    Predicted,
    mistakes,
    test_sample,
    train_sample,
)
from flaxcnn.reports.recipes import (
    environment_table,
    foremost,
    network,
    recipe_warnings,
    settings_table,
    source_trust,
)
from flaxcnn.reports.tiles import Galleries, Tiles

FIRST = 100  # test rows whose predictions a terminal shows
DEAD = 0.5  # of the relu units, from which on it is worth a look


def run_page(record: RunRecord, dataset: Dataset | None = None) -> Page:
    """Everything a run's records say; `dataset` saves loading its images."""
    page = _head(record)
    if record.history:
        best = record.summary["best_epoch"]
        page.lead = page.drawn("accuracy", curves.learning, record.history, "accuracy", best,
                               record.summary, _steps(record))  # fmt: skip
    data = _data(page, record, dataset)
    predicted = _predictions(page, record, data)
    page.sections += [_training(page, record), _test(page, record, predicted)]
    page.sections.append(_looks(page, record, predicted, data))
    page.sections.append(
        network(page, record.recipe, record.data["shape"], len(record.data["classes"]))
    )
    page.sections += [_recipe(record), _again(record)]
    return page


def run_brief(record: RunRecord) -> Page:
    """What a notebook shows."""
    page, section = _head(record), Section("run", "")
    best = record.summary["best_epoch"]
    if record.history:
        page.draw(section, "accuracy", curves.learning, record.history, "accuracy", best)
    section.tables.append(splits_table(record.summary))
    page.sections.append(section)
    return page


# -- what comes first ----------------------------------------------------------------------------


def _head(record: RunRecord) -> Page:
    summary = record.summary
    value, rows = summary["test_accuracy"], _rows(record, "test")
    interval = wilson(value, rows)
    text, doubtful = protocol_note({summary["protocol"]}, record.config.get("validation"))
    figures: list[words.Figure] = [("Test", value, "test", interval)]
    meaning = "The interval is what this number of test images allows (Wilson)."
    if document := words.reported(summary["experiment"] or ""):
        figures.append(("Document", document[0], "ink", None))
        meaning = f"{words.against_document(value, interval, document)} {meaning}"
    figures.append(("Validation", summary["val_accuracy"], "validation", None))
    if "train_loss" in summary:
        figures.append(("Training", summary["train_accuracy"], "train", None))
    page = Page(
        title=f"{record.name}, seed {summary['seed']}",
        label="Test accuracy", figure=words.percent(value),
        interval=[f"{words.interval_words(*interval)},", f"{rows:,} images"],
        meaning=meaning, flag=text, doubtful=doubtful, versus=words.versus(figures),
        facts=_facts(record), trust=_trust(record),
    )  # fmt: skip
    if record.recipe is not None:
        shape, classes = record.data["shape"], len(record.data["classes"])
        with contextlib.suppress(FlaxcnnError):  # the section on the network says why
            page.words = words.recipe_text(record.recipe, shape, classes, _rows(record, "train"))
            page.words += (
                f" Kept are the weights of epoch {summary['kept_epoch']} of "
                f"{summary['epochs_run']}, chosen on {_rows(record, 'val'):,} "
                f"{'test' if record.config.get('validation') == 'test' else 'validation'} images."
            )
    _notices(page, record)
    return page


def _rows(record: RunRecord, split: str) -> int:
    """How many images a split has."""
    names = {"val": "validation"}
    return int(record.summary.get(f"{split}_rows")
               or record.data["rows"].get(names.get(split, split), 0))  # fmt: skip


def _facts(record: RunRecord) -> list[tuple[str, str]]:
    summary = record.summary
    facts = [("Parameters", f"{summary['params']:,}")]
    if "seconds" in summary:
        facts += [
            ("Training time", f"{summary['seconds']:.1f} s"),
            ("Speed", f"{summary['images_per_second']:,.0f} images/s"),
            ("Device", str(summary["device"])),
        ]
    return facts


def _trust(record: RunRecord) -> list[tuple[str, str]]:
    """What speaks for the figures, and what is not known."""
    trust = [source_trust(record)]
    path = shell_path(record.path)
    trust.append(("yes", f"`flaxcnn reproduce {path}` trains it again and compares every bit"))
    trust.append(("open", "One seed: how much results vary between seeds, `flaxcnn study` shows"))
    return trust


def _temperature(record: RunRecord) -> float:
    """What the run divides logits by before it calls them probabilities."""
    return float(record.summary.get("temperature", 1.0))


def _notices(page: Page, record: RunRecord) -> None:
    """What makes the figures wrong, what is worth a look, and what is good to know."""
    summary = record.summary
    if record.status.get("status") != "complete":
        page.problems.append(f"The run's status is {record.status.get('status')}, not complete.")
    if layers := summary.get("dead_layers"):
        page.problems.append(
            f"No unit of {', '.join(layers)} is ever active: nothing passes this layer. Try a "
            "lower learning rate, `-s learning_rate=...`."
        )
    elif dead := summary.get("dead_units"):
        share = dead / max(summary["relu_units"], 1)
        (page.warnings if share >= DEAD else page.notes).append(
            f"{dead} of {summary['relu_units']} relu units are never active on the first training "
            f"rows ({summary['dead_units_init']} at initialisation)."
        )
    if any(row.get(key) is None for row in record.history for key in ("train_loss", "val_loss")):
        page.problems.append("Some epochs have a loss that is not finite; they are never the best.")
    if summary["best_epoch"] == summary["epochs_run"] and not summary.get("stopped_early"):
        page.warnings.append(
            f"The best epoch is the last one, {summary['best_epoch']}: more epochs may improve it; "
            f"train longer with `-s epochs={2 * summary['epochs_run']}`."
        )
    if record.data.get("test_origin") == "held out":
        page.notes.append(
            "The data set has no test split of its own: a fixed fifth of its rows, the same for "
            "every run, is the test split."
        )
    if text := record.data.get("imbalance"):
        page.warnings.append(f"{text[0].upper()}{text[1:]}.")
    if record.recipe is None:
        page.warnings.append(
            "The recipe is of another version of flaxcnn, so its network is not drawn."
        )
    page.notes.append(TRAINING_NOTE)
    page.warnings += recipe_warnings(record)


def _data(page: Page, record: RunRecord, dataset: Dataset | None) -> Dataset | None:
    try:
        return load_images(record, dataset)
    except (FlaxcnnError, OSError) as error:
        page.notes.append(f"Images of the data are not shown: {error}.")
        return None


def _predictions(page: Page, record: RunRecord, data: Dataset | None) -> Predicted | None:
    try:
        read = record.predictions()
    except FlaxcnnError as error:
        page.warnings.append(f"Single test rows are not shown: {error}.")
        return None
    if not np.isfinite(read.logits).all():
        page.problems.append("Some test rows have logits that are not finite.")
    names = record.data["classes"]
    found = Predicted(read.row, read.label, read.logits, names, _temperature(record), data)
    page.text = images.first_predictions_text(read.label[:FIRST], found.called[:FIRST], names)
    hits = float(1 - found.wrong.mean())
    if abs(hits - record.summary["test_accuracy"]) > 0.5 / len(read.label):
        page.problems.append(
            f"predictions.npz has an accuracy of {hits:.4f}, the summary "
            f"{record.summary['test_accuracy']:.4f}: they are not of the same run."
        )
    page.tables[FILE] = found.csv()
    return found


def _steps(record: RunRecord) -> int:
    """Of an epoch."""
    config = record.config
    return steps_per_epoch(
        record.summary["train_rows"], config["batch_size"], config.get("drop_last", False)
    )


# -- sections ------------------------------------------------------------------------------------


def _training(page: Page, record: RunRecord) -> Section:
    section = Section("training", "Training")
    summary = record.summary
    if not record.history:
        return section
    page.draw(section, "loss", curves.learning, record.history, "loss", summary["best_epoch"],
              None, _steps(record), span=7)  # fmt: skip
    facts = [("Weights kept", f"epoch {summary['kept_epoch']} of {summary['epochs_run']}")]
    if "compile_seconds" in summary:
        facts.append(("Compilation", f"{summary['compile_seconds']:.1f} s"))
    if "temperature" in summary:
        facts.append(("Temperature of probabilities", f"{summary['temperature']:.3f}"))
    facts.append(("Fingerprint", f"`{summary['fingerprint']}`"))
    section.add([splits_table(summary, percent=True), Facts("This run", facts)], 5)
    section.folded.append(epochs_table(record.history))
    return section


def _test(page: Page, record: RunRecord, predicted: Predicted | None) -> Section:
    section = Section("test", "Test")
    names = record.data["classes"]
    if predicted is None:
        return section
    counts = numbers.confusion(predicted.label, predicted.called, len(names))
    figures = class_table(numbers.per_class(counts, names), "test")
    for what, function in (("the confusion matrix", matrices.confusion_matrix),
                           ("the errors", matrices.error_matrix)):  # fmt: skip
        if picture := page.drawn(what, function, counts, names):
            page.files.append(picture)
    if len(names) <= confusion.MOST:
        opened, cells = _galleries(page, counts, predicted)
        section.add(confusion.matrix(counts, predicted, cells), 7)
        wrong = predicted.data and _shown(page, "The mistakes", _mistakes, predicted, FEW)
        section.add([part for part in (opened, wrong) if part], 5)
    else:
        for picture in page.files:
            section.add(picture, 6)
        page.files = []
        if predicted.data and (wrong := _shown(page, "The mistakes", _mistakes, predicted, MANY)):
            section.add(wrong)
    calibration = numbers.calibration(predicted.probability, predicted.label)
    page.draw(section, "reliability", matrices.reliability, calibration, span=5)
    section.add(figures, 7)
    return section


def _galleries(
    page: Page, counts: np.ndarray, predicted: Predicted
) -> tuple[Galleries | None, set[tuple[int, int]]]:
    if predicted.data is None:
        return None, set()
    found = _shown(page, "Images of the cells", confusion.galleries, counts, predicted)
    return found or (None, set())


def _mistakes(predicted: Predicted, most: int) -> Tiles | None:
    wrong = numbers.mistakes(predicted.probability, predicted.label, most)
    return mistakes(predicted, wrong) if len(wrong) else None


def _shown(page: Page, what: str, function: Callable[..., Any], *args: Any) -> Any:
    """What a function makes of images; None and a notice where they cannot be read."""
    try:
        return function(*args)
    except (FlaxcnnError, OSError, ValueError, KeyError, IndexError) as error:
        page.warnings.append(f"{what} are not shown: {error}.")
        return None


def class_table(figures: Sequence[numbers.ClassFigures], split: str) -> Table:
    """Precision, recall, F1, support: one row per class; bars of what is missing to 100 %."""
    shares = [share for one in figures for share in _shares(one) if share is not None]
    most = max((1 - share for share in shares), default=0.0)
    bars = " (bars: what is missing to 100 %)" if most else ""
    return Table(
        f"Each class of the {split} rows{bars}",
        ["class", "precision", "recall", "F1", "rows"],
        [
            [Cell(one.name), *(_missing(share, most) for share in _shares(one)),
             count(one.support)]
            for one in figures
        ],
    )  # fmt: skip


def _shares(one: numbers.ClassFigures) -> tuple[float | None, ...]:
    return one.precision, one.recall, one.f1


def _missing(share: float | None, most: float) -> Cell:
    """A share, and a bar of what it lacks; `most` has the longest one."""
    if share is None:
        return decimal(share)
    return Cell(words.percent(share, 1), share, (1 - share) / most if most else 0.0, missing=True)


def _looks(
    page: Page, record: RunRecord, predicted: Predicted | None, data: Dataset | None
) -> Section:
    section = Section("images", "Images")
    if data and predicted and (tiles := _shown(page, "Test images", test_sample, predicted)):
        section.add(tiles, 6)
    if data and (tiles := _shown(page, "Training images", _train_tiles, record, data)):
        section.add(tiles, 6)
    try:
        kernel = record.first_filters()
        if kernel and kernel[1].shape[:2] != (1, 1):  # of one pixel there is nothing to see
            section.add(images.filters(kernel[1], kernel[0]))
    except FlaxcnnError as error:
        page.warnings.append(f"The first layer's filters are not shown: {error}.")
    return section


def _train_tiles(record: RunRecord, data: Dataset) -> Tiles | None:
    train = np.array(checked_object(record.path, "split.json")["train"], np.int64)
    return train_sample(data, train, record.data["classes"])


def _recipe(record: RunRecord) -> Section:
    summary = record.summary
    digests = [
        ("fingerprint", "recipe and seed"), ("params_digest", "final parameters"),
        ("data_digest", "data"), ("split_digest", "rows of each split"),
    ]  # fmt: skip
    rows = [[Cell(what), Cell(f"`{summary.get(key, '–')}`")] for key, what in digests]
    settings = settings_table(record.config)
    section = Section("recipe", "Recipe", "`config.json` holds it in full, `split.json` the rows.")
    section.add(foremost(settings), 6)
    section.add(Table("Fingerprint and digests (SHA-256)", ["of", "digest"], rows), 6)
    section.folded = [settings, environment_table(record.environment)]
    return section


def _again(record: RunRecord) -> Section:
    revision = record.environment.get("source_revision")
    lines = of_run(record.path, record.summary["experiment"], record.recipe, revision)
    return Section("again", "Reproduce", commands=lines)
