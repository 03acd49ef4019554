"""The test rows of a run as a page shows them: names, probabilities, images; predictions.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flaxcnn.data.arrays import Dataset
from flaxcnn.reports.numbers import probabilities
from flaxcnn.reports.pixels import names_of, pixels
from flaxcnn.reports.tiles import Tile, Tiles, source

FILE = "predictions.csv"
SEED = 0  # of the rows that are drawn
PER_CLASS = 8  # images of a class in a sample
SAMPLED = 10  # classes of a sample
FEW, MANY = 8, 24  # mistakes, beside a matrix and alone
NAMED = 3  # classes that a tile names


@dataclass(frozen=True, eq=False)
class Predicted:
    """Rows [N] of a split with what was predicted for them."""

    row: np.ndarray  # [N], of the data set
    label: np.ndarray  # [N]
    logits: np.ndarray  # [N, K]
    classes: Sequence[str]
    temperature: float = 1.0  # what logits are divided by before they are called probabilities
    data: Dataset | None = None  # where images and names of files come from

    @cached_property
    def called(self) -> np.ndarray:
        """The class predicted for each row, [N]."""
        return self.logits.argmax(axis=1)

    @cached_property
    def probability(self) -> np.ndarray:
        """[N, K]."""
        return probabilities(self.logits / self.temperature)

    @cached_property
    def sure(self) -> np.ndarray:
        """The probability of the predicted class, [N]."""
        return self.probability.max(axis=1)

    @cached_property
    def wrong(self) -> np.ndarray:
        """Whether each row is predicted wrong, [N]."""
        return self.called != self.label

    @cached_property
    def name(self) -> list[str]:
        """Files, where the data has them, or `test row 12`."""
        if self.data is None:
            return [f"row {row}" for row in self.row]
        return names_of(self.data, self.row)

    def csv(self) -> str:
        """One line a row: what it is, the truth, the prediction, the probability of each class."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["image", "true", "predicted", "probability",
                         *(f"probability of {name}" for name in self.classes)])  # fmt: skip
        for i, shares in enumerate(self.probability):
            truth, called = self.classes[self.label[i]], self.classes[self.called[i]]
            writer.writerow([self.name[i], truth, called, f"{self.sure[i]:.4f}",
                             *(f"{share:.4f}" for share in shares)])  # fmt: skip
        return text.getvalue()

    def first_classes(self, i: int) -> list[str]:
        """The most probable classes of a row: `7 93 %`."""
        order = np.argsort(-self.probability[i], kind="stable")[:NAMED]
        return [f"{self.classes[k]} {share_text(self.probability[i, k])}" for k in order]

    def images(self, places: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, C] of some of the rows.

        Raises:
            ValueError: the data has other labels.
            DataError: an image cannot be read.
        """
        assert self.data is not None
        image, label = pixels(self.data, self.row[places])
        if not np.array_equal(label, self.label[places]):
            raise ValueError("their labels are not those of predictions.npz")
        return image

    def tile(self, i: int, image: np.ndarray, lines: Sequence[str], head: str = "") -> Tile:
        """A row with its image."""
        truth, called = self.classes[self.label[i]], self.classes[self.called[i]]
        as_what = f"taken for {called}" if self.wrong[i] else "predicted right"
        said = f"{self.name[i]} is {truth}, {as_what} with {share_text(self.sure[i])}"
        hint = f"{said} ({', '.join(self.first_classes(i))})"
        return Tile(*source(image), said, head, lines, bool(self.wrong[i]), hint)


def share_text(share: float) -> str:
    """`93 %`, and `99.7 %` where the difference counts."""
    if 0.99 <= share < 0.9995 or 0 < share < 0.01:
        return f"{100 * share:.1f} %"
    return f"{100 * share:.0f} %"


def drawn_by_class(label: np.ndarray, classes: int) -> dict[int, np.ndarray]:
    """Class -> places of rows drawn from it, in their order; of many classes, some are drawn."""
    random = np.random.default_rng(SEED)
    shown = np.arange(classes)
    if classes > SAMPLED:
        shown = np.sort(random.choice(classes, SAMPLED, replace=False))
    found = {}
    for k in shown.tolist():
        places = np.flatnonzero(label == k)
        found[k] = np.sort(random.choice(places, min(PER_CLASS, len(places)), replace=False))
    return {k: places for k, places in found.items() if len(places)}


def test_sample(predicted: Predicted) -> Tiles:
    """Test images of each class, drawn at random; mistakes are framed and say what they were."""
    places = drawn_by_class(predicted.label, len(predicted.classes))
    every = np.concatenate(list(places.values()))
    image = dict(zip(every.tolist(), predicted.images(every), strict=True))
    groups = []
    for k, own in places.items():
        as_what = {i: f"× {predicted.classes[predicted.called[i]]}"
                   for i in own.tolist() if predicted.wrong[i]}  # fmt: skip
        tiles = [predicted.tile(i, image[i], (), as_what.get(i, "")) for i in own.tolist()]
        groups.append((predicted.classes[k], tiles))
    wrong = int(predicted.wrong[every].sum())
    insight = (
        f"Drawn from each class with seed {SEED}; {wrong} of {len(every)} are predicted wrong: "
        "they are framed, and × says as what."
    )
    return Tiles("Test images of each class", groups, insight, rows=True)


def train_sample(data: Dataset, train: np.ndarray, classes: Sequence[str]) -> Tiles | None:
    """Training images of each class, drawn at random."""
    own = train[train < len(data.train)]
    places = drawn_by_class(data.train.label[own], len(classes))
    if not places:
        return None
    every = own[np.concatenate(list(places.values()))]
    image = iter(zip(pixels(data, every)[0], names_of(data, every), strict=True))
    groups = []
    for k, chosen in places.items():
        pairs = [next(image) for _ in chosen]
        tiles = [Tile(*source(one), f"{name}, {classes[k]}", hint=name) for one, name in pairs]
        groups.append((classes[k], tiles))
    insight = f"Drawn from each class with seed {SEED}, as they are stored."
    return Tiles("Training images of each class", groups, insight, rows=True)


def mistakes(predicted: Predicted, places: np.ndarray) -> Tiles:
    """The most confident mistakes."""
    tiles = []
    for i, image in zip(places.tolist(), predicted.images(places), strict=True):
        truth, called = (
            predicted.classes[predicted.label[i]],
            predicted.classes[predicted.called[i]],
        )
        head = f"× {called} {share_text(predicted.sure[i])}"
        tiles.append(predicted.tile(i, image, (f"is {truth}", short_name(predicted.name[i])), head))
    total = int(predicted.wrong.sum())
    title = (
        f"All {total} mistakes, the most confident first" if total <= len(places)
        else f"The {len(places)} most confident of {total:,} mistakes"
    )  # fmt: skip
    return Tiles(title, [("", tiles)], f"All test rows are in `{FILE}` beside this page.")


def short_name(name: str) -> str:
    """A file without its folders."""
    return name.rpartition("/")[2]
