"""One page per document: our rows of each experiment beside the document's own numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flaxcnn.errors import WriteError
from flaxcnn.recipe.catalog import Experiment
from flaxcnn.recipe.data import KNOWN_DATA
from flaxcnn.records.files import write_atomic
from flaxcnn.records.format import label, value_text
from flaxcnn.records.intervals import wilson
from flaxcnn.records.tables import Cell, Table, count, decimal
from flaxcnn.reports import comparisons, curves, images, matrices, numbers
from flaxcnn.reports.comparisons import Point
from flaxcnn.reports.page import Page, Rendered, Section, render
from flaxcnn.reports.report import any_name
from flaxcnn.reports.run import class_table
from flaxcnn.reports.search import candidates
from flaxcnn.results.figures import (
    Document,
    Figures,
    Row,
    digits,
    documents,
    reported,
    verdict,
)
from flaxcnn.results.rows import Results, changed_settings

SEED = 0  # of the run that is shown
MOST_DRAWN = 12  # candidates whose folds are drawn, each with a line of its own
# Data sets whose classes have names; those of digits are digits.
CLASSES = {
    "fashion_mnist": ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt",
                      "Sneaker", "Bag", "Ankle boot"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
                "truck"),
}  # fmt: skip
OWN = (  # what a document may report -> field of a row, decimals
    ("test accuracy", "test_accuracy", 4),
    ("test loss", "test_loss", 4),
    ("validation accuracy, last epoch", "val_accuracy", 4),
    ("validation loss, last epoch", "val_loss", 4),
    ("best validation accuracy", "best_val_accuracy", 4),
    ("best epoch", "best_val_epoch", 0),
    ("training accuracy, last epoch", "train_accuracy", 4),
    ("training loss, last epoch", "train_loss", 4),
    ("wrong of the first 100", "first100_errors", 0),
    ("parameters", "params", 0),
    ("epochs", "epochs", 0),
    ("seconds an epoch", "seconds_per_epoch", 1),
)

ALWAYS = ("test_accuracy", "best_val_accuracy", "train_accuracy")  # shown without the document's


def write(results: Results, folder: Path) -> tuple[list[Path], list[str]]:
    """Write the pages of the documents that have a row or a search.

    Returns:
        the files, and what could not be shown.

    Raises:
        ConfigError, CheckpointError: the results cannot be read.
        WriteError: the folder cannot be written to.
    """
    figures = Figures(results)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(f"--output: {folder}: {error.strerror}") from error
    files, warnings = [], []
    for document in documents():
        if not _shown(figures, document):
            continue
        made = make(figures, document)
        file = folder / f"{document.slug}.html"
        write_atomic(file, made.html.encode())
        files.append(file)
        warnings += [f"{file.name}: {text}" for text in made.warnings]
    return files, warnings


def make(figures: Figures, document: Document) -> Rendered:
    """The page of one document."""
    with any_name():
        return render(page(figures, document))


def page(figures: Figures, document: Document) -> Page:
    """What the page of a document is made of."""
    shown = _shown(figures, document)
    trained = [e for e in shown if e.kind == "model"]
    judged = [verdict(e, figures.of(e.name, "document")).verdict for e in trained if reported(e)]
    result = Page(
        title=f"{document.file}: {document.subject}",
        figure=f"{judged.count('reproduced')} of {len(judged)} reproduced" if judged
        else "not trained yet",
        meaning="Figures of the document that ours reproduce, of those trained so far. Pictures "
        f"are of seed {SEED}, trained as the document did; RESULTS.md has every seed and the "
        "reasons.",
        flag="document protocol: epochs chosen as the document chose them", doubtful=True,
        facts=[
            ("Experiments", str(len(document.documented))), ("Shown here", str(len(shown))),
            *((word.capitalize(), str(n)) for word, n in Counter(judged).most_common()),
        ],
    )  # fmt: skip
    if trained:
        result.sections.append(_comparison(result, figures, trained))
    for experiment in shown:
        build = _search if experiment.candidates else _experiment
        result.sections.append(build(result, figures, experiment))
    return result


def _shown(figures: Figures, document: Document) -> list[Experiment]:
    return [e for e in document.experiments if _row(figures, e) or figures.search(e.name)]


def _row(figures: Figures, experiment: Experiment) -> Row | None:
    """The run that is shown: as the document did; without one, the honest run."""
    for protocol in ("document", "honest"):
        if row := figures.of(experiment.name, protocol).of_seed(SEED):
            return row
    return None


def _short(experiment: Experiment) -> str:
    return experiment.name.partition("/")[2]


# -- all of a document ---------------------------------------------------------------------------


def _comparison(page: Page, figures: Figures, trained: Sequence[Experiment]) -> Section:
    """The table that ends a document, and its curves over one another."""
    section = Section(
        "comparison", "Comparison",
        f"Ours are of seed {SEED}, as the document trained it unless it says honest. Training "
        "figures are running means over the last epoch. A dash: the document does not say, or we "
        "have not run it.",
    )  # fmt: skip
    runs = [(_short(e), history(row)) for e in trained if (row := _row(figures, e))]
    if len(runs) > 1:
        for metric in ("accuracy", "loss"):
            page.draw(section, metric, curves.overlay, runs, metric)
        points = [_point(e, row) for e in trained if (row := _row(figures, e))]
        page.draw(section, "parameters", comparisons.against_parameters, points)
    section.tables += [
        Table(
            "Test rows: the document's figures and ours",
            ["model", "parameters", "verdict", "accuracy: document", "ours", "honest",
             "first 100 wrong: document", "ours"],
            [_tested(figures, e) for e in trained],
        ),
        Table(
            "Losses and training: the document's figures and ours",
            ["model", "test loss: document", "ours", "training accuracy: document", "ours",
             "training loss: document", "ours"],
            [_trained(figures, e) for e in trained],
        ),
    ]  # fmt: skip
    return section


def _point(experiment: Experiment, row: Row) -> Point:
    interval = wilson(row["test_accuracy"], row["test_rows"])
    return Point(_short(experiment), row["test_accuracy"], interval, row["params"])


def _tested(figures: Figures, experiment: Experiment) -> list[Cell]:
    own, honest = _both(figures, experiment)
    judged = verdict(experiment, figures.of(experiment.name, "document"))
    return [
        Cell(_short(experiment)), count((own or honest)["params"]),
        Cell(judged.verdict if reported(experiment) else "ours"),
        _told(experiment, "test_accuracy", 4), decimal(own.get("test_accuracy")),
        decimal(honest.get("test_accuracy")),
        _told(experiment, "first100_errors", 0), count(own.get("first100_errors")),
    ]  # fmt: skip


def _trained(figures: Figures, experiment: Experiment) -> list[Cell]:
    own, _ = _both(figures, experiment)
    pairs = [[_told(experiment, key, 4), decimal(own.get(key))]
             for key in ("test_loss", "train_accuracy", "train_loss")]  # fmt: skip
    return [Cell(_short(experiment)), *(cell for pair in pairs for cell in pair)]


def _both(figures: Figures, experiment: Experiment) -> list[Mapping[str, Any]]:
    """The shown seed as the document trained it, and honestly; empty where it was not run."""
    runs = [figures.of(experiment.name, p).of_seed(SEED) for p in ("document", "honest")]
    return [_ours(run) if run else {} for run in runs]


def _told(experiment: Experiment, key: str, places: int) -> Cell:
    """A number of the document, accuracies as it prints them."""
    value = experiment.reported.get(key)
    exact = digits(experiment, key) if value is not None and key.endswith("accuracy") else places
    return _number(value, exact)


# -- one experiment ------------------------------------------------------------------------------


def history(row: Row) -> list[dict[str, Any]]:
    """The curves of a row as the epochs of metrics.jsonl."""
    names, columns = row["curves"].keys(), row["curves"].values()
    return [{"epoch": number, **dict(zip(names, values, strict=True))}
            for number, values in enumerate(zip(*columns, strict=True), 1)]  # fmt: skip


def _experiment(page: Page, figures: Figures, experiment: Experiment) -> Section:
    """Curves, first predictions, matrices and classes of one run, beside the document's numbers."""
    row = _row(figures, experiment)
    assert row is not None  # of those shown
    text = f"{experiment.title}. {experiment.notes}".strip()
    judged = verdict(experiment, figures.of(experiment.name, "document"))
    if reported(experiment):
        text = f"{text} {judged.verdict.capitalize()}: {judged.reason}."
    section = Section(_short(experiment).replace(".", "-"), _short(experiment), text)
    epochs, first = history(row), row["first"]
    names = CLASSES.get(row["config"]["dataset"]) or tuple(map(str, range(_classes(row))))
    best = row["best_epoch"]
    page.draw(section, "accuracy", curves.learning, epochs, "accuracy", best)
    page.draw(section, "loss", curves.learning, epochs, "loss", best)
    truth, predicted = np.array(first["label"]), np.array(first["predicted"])
    page.draw(section, "the first predictions", images.first_grid, truth, predicted, names)
    section.tables.append(_beside(figures, experiment))
    if row["confusion"] is not None:
        matrix = np.array(row["confusion"])
        page.draw(section, "the confusion matrix", matrices.confusion_matrix, matrix, names)
        page.draw(section, "the errors", matrices.error_matrix, matrix, names)
        section.folded.append(class_table(numbers.per_class(matrix, names), "test"))
    section.folded += _own_classes(experiment, names)
    return _named(section)


def _classes(row: Row) -> int:
    facts = KNOWN_DATA.get(row["config"]["dataset"])
    if facts:
        return facts.classes
    return len(row["confusion"]) if row["confusion"] else max(row["first"]["label"]) + 1


def _named(section: Section) -> Section:
    """The section with picture names that are unique in the page."""
    section.pictures = [replace(p, name=f"{p.name}-{section.name}") for p in section.pictures]
    return section


def _beside(figures: Figures, experiment: Experiment) -> Table:
    """Each number of the document beside ours."""
    own, rows = _both(figures, experiment), []
    for name, key, places in OWN:
        if key in experiment.reported or key in ALWAYS:
            ours = (_number(one.get(key), places) for one in own)
            rows.append([Cell(name), _told(experiment, key, places), *ours])
    return Table(f"The document's numbers and ours (seed {SEED})",
                 ["what", "document", "as the document did", "honest"], rows)  # fmt: skip


def _number(value: float | None, places: int) -> Cell:
    return decimal(value, places)


def _ours(row: Row) -> Mapping[str, Any]:
    """A row under the names of `reported`; what a document reads off its last epoch from curves."""
    epochs = row["curves"]
    known = [v for v in epochs["val_accuracy"] if v is not None]
    seconds = sorted(v for v in epochs["seconds"] if v is not None)
    return {
        "test_accuracy": row["test_accuracy"], "test_loss": row["test_loss"],
        **{key: epochs[key][-1] for key in ("val_accuracy", "val_loss", "train_accuracy",
                                            "train_loss")},
        "best_val_accuracy": max(known), "best_val_epoch": known.index(max(known)) + 1,
        "first100_errors": row["first_errors"], "params": row["params"],
        "epochs": row["epochs_run"], "seconds_per_epoch": seconds[len(seconds) // 2],
    }  # fmt: skip


def _own_classes(experiment: Experiment, names: Sequence[str]) -> list[Table]:
    """The table of classes that a document prints."""
    return [
        Table(
            f"The document's table of classes, of its {split} rows", ["class", *columns],
            [[Cell(name), *(decimal(values[i]) for values in columns.values())]
             for i, name in enumerate(names)],
        )
        for split, columns in experiment.per_class.items()
    ]  # fmt: skip


def _search(page: Page, figures: Figures, experiment: Experiment) -> Section:
    """The candidates of a grid, and what the document says of it."""
    record = figures.search(experiment.name)
    assert record is not None  # of those shown
    section = candidates(page, record)
    section.name, section.title = _short(experiment), _short(experiment)
    document = "; ".join(_told_of_grid(key, value) for key, value in experiment.reported.items())
    changed = changed_settings(experiment.name, record.plan)
    notes = [
        f"{experiment.title}. {experiment.notes}",
        f"The document reports {document}." if document else "",
        *(f"Searched with {key}={value_text(new)} instead of {value_text(old)}."
          for key, (old, new) in changed.items()),
    ]  # fmt: skip
    section.text = " ".join(filter(None, notes))
    if len(experiment.candidates) > MOST_DRAWN:
        section.pictures = [p for p in section.pictures if p.name != "seeds"]
    return _named(section)


def _told_of_grid(key: str, value: Any) -> str:
    """`best n_kernel=7`, `folds 5`."""
    if key == "best_params":
        return f"best {label(value)}"
    return f"{key.replace('_', ' ')} {value:.4f}" if isinstance(value, float) else f"{key} {value}"
