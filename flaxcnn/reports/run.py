"""The page of one run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flaxcnn.data.arrays import Dataset
from flaxcnn.errors import FlaxcnnError
from flaxcnn.recipe.config import Config
from flaxcnn.records.checked import checked_object
from flaxcnn.records.files import flat
from flaxcnn.records.format import value_text
from flaxcnn.records.intervals import wilson
from flaxcnn.records.read import Predictions, RunRecord, StudyRecord
from flaxcnn.records.tables import Cell, Table, count, decimal
from flaxcnn.records.views import (
    SOURCE_CHANGED,
    TRAINING_NOTE,
    epochs_table,
    protocol_note,
    splits_table,
)
from flaxcnn.reports import curves, images, matrices, numbers
from flaxcnn.reports.architecture import architecture, described, size
from flaxcnn.reports.commands import of_run
from flaxcnn.reports.page import Page, Section
from flaxcnn.reports.pixels import load_images, pixels

FIRST = 100  # test rows whose predictions are shown
GALLERY = 24  # mistakes
SAMPLES = 8  # training images of a class
SAMPLED = 10  # classes
HIDDEN = ("layers",)  # of the settings: they have a table of their own


def run_page(record: RunRecord, dataset: Dataset | None = None) -> Page:
    """Everything a run's records say; `dataset` saves loading its images."""
    page = _head(record)
    predicted = _predictions(page, record)
    page.sections += [_training(page, record), _test(page, record, predicted)]
    page.sections.append(_looks(page, record, predicted, dataset))
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
    rows = summary.get("test_rows") or record.data["rows"]["test"]
    low, high = wilson(summary["test_accuracy"], rows)
    text, doubtful = protocol_note({summary["protocol"]}, record.config.get("validation"))
    facts = [
        ("Validation accuracy", f"{summary['val_accuracy']:.4f}"),
        ("Weights kept", f"epoch {summary['kept_epoch']} of {summary['epochs_run']}"),
        ("Parameters", f"{summary['params']:,}"),
        ("Data", f"{record.config['dataset']}, {record.data['rows']['train']:,} training rows"),
    ]
    if "temperature" in summary:
        facts.append(("Temperature of probabilities", f"{summary['temperature']:.3f}"))
    if "seconds" in summary:
        facts += [
            ("Training time", f"{summary['seconds']:.1f} s"),
            ("Speed", f"{summary['images_per_second']:,.0f} images/s"),
            ("Device", str(summary["device"])),
        ]
    facts.append(("Fingerprint", summary["fingerprint"]))
    return Page(
        title=f"{record.name}, seed {summary['seed']}",
        figure=f"{summary['test_accuracy']:.4f} [{low:.4f}, {high:.4f}]",
        meaning=f"Test accuracy, with the 95 % interval that {rows:,} test rows allow (Wilson). "
        "A single seed does not show how much results vary between seeds; `flaxcnn study` "
        "measures that.",
        flag=text, doubtful=doubtful, facts=facts, warnings=_warnings(record),
    )  # fmt: skip


def _temperature(record: RunRecord) -> float:
    """What the run divides logits by before it calls them probabilities."""
    return float(record.summary.get("temperature", 1.0))


def _warnings(record: RunRecord) -> list[str]:
    """Failures first, then what makes the figures doubtful."""
    summary, warnings = record.summary, []
    if record.status.get("status") != "complete":
        warnings.append(f"The run's status is {record.status.get('status')}, not complete.")
    if layers := summary.get("dead_layers"):
        warnings.append(
            f"No unit of {', '.join(layers)} is ever active: nothing passes this layer."
        )
    elif summary.get("dead_units"):
        warnings.append(
            f"{summary['dead_units']} of {summary['relu_units']} relu units are never active on "
            f"the first training rows ({summary['dead_units_init']} at initialisation)."
        )
    if any(row.get(key) is None for row in record.history for key in ("train_loss", "val_loss")):
        warnings.append("Some epochs have a loss that is not finite; they are never the best.")
    if summary["best_epoch"] == summary["epochs_run"] and not summary.get("stopped_early"):
        warnings.append(
            f"The best epoch is the last one, {summary['best_epoch']}: more epochs may improve it."
        )
    if record.data.get("test_origin") == "held out":
        warnings.append(
            "The data set has no test split of its own: a fixed fifth of its rows, the same for "
            "every run, is the test split."
        )
    if text := record.data.get("imbalance"):
        warnings.append(f"{text[0].upper()}{text[1:]}.")
    if record.recipe is None:
        warnings.append("The recipe is of another version of flaxcnn, so its network is not drawn.")
    return warnings + recipe_warnings(record)


def recipe_warnings(record: RunRecord | StudyRecord) -> list[str]:
    """What is doubtful about the recipe and the source."""
    warnings = [f"{text}." for text in record.recipe.warnings()] if record.recipe else []
    if str(record.environment.get("source_revision") or "").endswith("+"):
        warnings.append(SOURCE_CHANGED)
    return warnings


def _predictions(page: Page, record: RunRecord) -> Predictions | None:
    try:
        read = record.predictions()
    except FlaxcnnError as error:
        page.warnings.append(f"Single test rows are not shown: {error}.")
        return None
    if not np.isfinite(read.logits).all():
        page.warnings.append("Some test rows have logits that are not finite.")
    page.text = images.first_predictions_text(
        read.label[:FIRST], read.logits[:FIRST].argmax(axis=1), record.data["classes"]
    )
    hits = float((read.logits.argmax(axis=1) == read.label).mean())
    if abs(hits - record.summary["test_accuracy"]) > 0.5 / len(read.label):
        page.warnings.append(
            f"predictions.npz has an accuracy of {hits:.4f}, the summary "
            f"{record.summary['test_accuracy']:.4f}: they are not of the same run."
        )
    return read


# -- sections ------------------------------------------------------------------------------------


def _training(page: Page, record: RunRecord) -> Section:
    section = Section("training", "Training", TRAINING_NOTE)
    best = record.summary["best_epoch"]
    if record.history:
        page.draw(section, "accuracy", curves.learning, record.history, "accuracy", best)
        page.draw(section, "loss", curves.learning, record.history, "loss", best)
        section.folded.append(epochs_table(record.history))
    return section


def _test(page: Page, record: RunRecord, predictions: Predictions | None) -> Section:
    section = Section("test", "Test", "Rows of every matrix are the truth, columns the prediction.")
    summary, names = record.summary, record.data["classes"]
    section.tables.append(splits_table(summary))
    if predictions is None:
        return section
    matrix = numbers.confusion(predictions.label, predictions.logits.argmax(axis=1), len(names))
    figures = numbers.per_class(matrix, names)
    probability = numbers.probabilities(predictions.logits / _temperature(record))
    calibration = numbers.calibration(probability, predictions.label)
    page.draw(section, "the confusion matrix", matrices.confusion_matrix, matrix, names)
    page.draw(section, "the errors", matrices.error_matrix, matrix, names)
    page.draw(section, "the classes", matrices.class_figures, figures)
    page.draw(section, "reliability", matrices.reliability, calibration)
    section.tables.append(class_table(figures, "test"))
    return section


def class_table(figures: Sequence[numbers.ClassFigures], split: str) -> Table:
    """Precision, recall, F1, support: one row per class."""
    return Table(
        f"Each class of the {split} rows",
        ["class", "precision", "recall", "F1", "support", "predicted"],
        [
            [Cell(c.name), decimal(c.precision), decimal(c.recall), decimal(c.f1),
             count(c.support), count(c.predicted)]
            for c in figures
        ],
    )  # fmt: skip


def _looks(
    page: Page, record: RunRecord, predictions: Predictions | None, dataset: Dataset | None
) -> Section:
    section = Section("images", "Images")
    try:
        data = dataset or load_images(record)
        train = checked_object(record.path, "split.json")["train"]
        if predictions is not None:
            _predicted_images(page, section, record, predictions, data)
        _samples(page, section, record, data, np.array(train, np.int64))
    except (FlaxcnnError, OSError, ValueError, KeyError, IndexError) as error:
        page.warnings.append(f"Images of the data are not shown: {error}.")
    try:
        if kernel := record.first_filters():
            page.draw(section, "the filters", images.filters, kernel[1], kernel[0])
    except FlaxcnnError as error:
        page.warnings.append(f"The first layer's filters are not shown: {error}.")
    return section


def _predicted_images(
    page: Page, section: Section, record: RunRecord, predictions: Predictions, data: Dataset
) -> None:
    names = record.data["classes"]
    probability, predicted = (
        numbers.probabilities(predictions.logits / _temperature(record)),
        predictions.logits.argmax(axis=1),
    )
    image, label = pixels(data, predictions.row[:FIRST])
    if not np.array_equal(label, predictions.label[:FIRST]):
        raise ValueError("their labels are not those of predictions.npz")
    page.draw(section, "the first predictions", images.first_predictions,
              image, label, predicted[:FIRST], names)  # fmt: skip
    wrong = numbers.mistakes(probability, predictions.label, GALLERY)
    if len(wrong):
        sure = probability[wrong, predicted[wrong]]
        total = int((predicted != predictions.label).sum())
        page.draw(section, "the mistakes", images.mistakes_gallery,
                  pixels(data, predictions.row[wrong])[0], predictions.label[wrong],
                  predicted[wrong], sure, wrong + 1, names, total)  # fmt: skip


def _samples(
    page: Page, section: Section, record: RunRecord, data: Dataset, train: np.ndarray
) -> None:
    label = data.train.label[train[train < len(data.train)]]
    chosen = [np.flatnonzero(label == k)[:SAMPLES] for k in range(min(data.num_classes, SAMPLED))]
    columns = max((len(rows) for rows in chosen), default=0)
    places = np.concatenate([rows for rows in chosen if len(rows) == columns])
    if columns:
        image, shown = pixels(data, train[places])
        page.draw(section, "samples", images.samples, image, shown, record.data["classes"], columns)


def network(page: Page, recipe: Config | None, shape: Sequence[int], classes: int) -> Section:
    """The layers of a recipe on images [H, W, C], as a drawing and as a table."""
    section = Section("network", "Network")
    if recipe is None:
        return section
    height, width, channels = shape
    try:
        rows = recipe.table((height, width, channels), classes)
    except FlaxcnnError as error:
        page.warnings.append(f"The network is not shown: {error}.")
        return section
    page.draw(section, "the network", architecture, rows)
    section.folded.append(
        Table(
            "Every layer",
            ["layer", "what", "output", "parameters", "not trained", "multiply-adds"],
            [
                [Cell(row.name), Cell(described(row)), Cell(size(row.output)), count(row.params),
                 count(row.non_trainable), count(row.macs)]
                for row in rows
            ],
        )
    )  # fmt: skip
    return section


def settings_table(config: dict[str, Any]) -> Table:
    """The recipe, without its layers."""
    return Table(
        "Settings of the recipe",
        ["setting", "value"],
        [[Cell(key), Cell(value_text(v))]
         for key, v in config.items() if key not in HIDDEN],
    )  # fmt: skip


def environment_table(environment: dict[str, Any]) -> Table:
    """env.json, flat."""
    rest = {key: value for key, value in environment.items() if key != "versions"}
    return Table(
        "Software and machine",
        ["what", "value"],
        [[Cell(key), Cell(_text(value))]
         for key, value in {**environment.get("versions", {}), **flat(rest)}.items()],
    )  # fmt: skip


def _text(value: Any) -> str:
    if value is None:
        return ""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _recipe(record: RunRecord) -> Section:
    summary = record.summary
    digests = [
        ("fingerprint", "recipe and seed"), ("params_digest", "final parameters"),
        ("data_digest", "data"), ("split_digest", "rows of each split"),
    ]  # fmt: skip
    rows = [[Cell(what), Cell(str(summary.get(key, "–")))] for key, what in digests]
    table = Table("Fingerprint and digests (SHA-256)", ["of", "digest"], rows)
    return Section("recipe", "Recipe", "config.json holds it in full, split.json the rows.",
                   tables=[table], folded=[settings_table(record.config),
                                           environment_table(record.environment)])  # fmt: skip


def _again(record: RunRecord) -> Section:
    revision = record.environment.get("source_revision")
    lines = of_run(record.path, record.summary["experiment"], record.recipe, revision)
    return Section("again", "Reproduce", commands=lines)
