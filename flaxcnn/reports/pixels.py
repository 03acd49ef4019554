"""The images that a report shows, where the data of a run is on this machine already."""

from __future__ import annotations

import numpy as np

from flaxcnn.data import datasets
from flaxcnn.data.archives import PUBLISHED
from flaxcnn.data.arrays import Dataset
from flaxcnn.errors import DataError, FlaxcnnError
from flaxcnn.recipe.data import FILES
from flaxcnn.records.read import RunRecord

COMPARED = 2**28  # bytes of pixels that are decoded to see whether they are those of the run


def load_images(record: RunRecord, loaded: Dataset | None = None) -> Dataset:
    """The data of a run, if it is prepared: nothing is downloaded.

    What is `loaded` already is taken, unless it has lost the names of its files.

    Data sets of image files, and those of tfds, are opened undecoded, so that only the images shown
    are read.

    Raises:
        DataError: it is not prepared, or is not what the run was trained on.
    """
    name = str(record.config["dataset"])
    if loaded and not name.startswith(FILES):
        return loaded
    if name in PUBLISHED and not (datasets.cache_path(name) / "meta.json").is_file():
        raise DataError(f"{name} is not prepared here; `flaxcnn data prepare {name}` does that")
    on_demand = name.startswith((*FILES, "tfds:"))
    recipe = record.recipe
    resize, channels = (recipe.resize, recipe.channels) if recipe else (None, "auto")
    wanted, whole = record.data["digest"], loaded
    try:
        dataset = datasets.load(name, resize, 0 if on_demand else None, channels)
        if dataset.digest == wanted:
            return dataset
        if on_demand and whole is None and dataset.nbytes <= COMPARED:
            whole = datasets.load(name, resize, None, channels)  # the run may have held them so
    except FlaxcnnError as error:
        raise DataError(str(error)) from error
    if whole is None or whole.digest != wanted:
        raise DataError(
            f"{name} is not the data that the run was trained on, or too large to be compared"
        )
    return dataset


def names_of(dataset: Dataset, rows: np.ndarray) -> list[str]:
    """Files by row number, or `train row 5` and `test row 5` where the images are in no files."""
    first, found = len(dataset.train), []
    for row in rows.tolist():
        split, name, own = ((dataset.train, "train", row) if row < first
                            else (dataset.test, "test", row - first))  # fmt: skip
        files, index = (getattr(split.image, key, None) for key in ("files", "index"))
        found.append(files[index[own]] if files and index is not None else f"{name} row {own}")
    return found


def pixels(dataset: Dataset, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(images [n, H, W, C], labels [n]) by row number; rows of the train archive come first."""
    split, first = dataset.train, len(dataset.train)
    image = np.empty((len(rows), *split.image.shape[1:]), np.uint8)
    label = np.empty(len(rows), np.int32)
    for part, own, base in ((rows < first, split, 0), (rows >= first, dataset.test, first)):
        if part.any():
            image[part] = own.image[rows[part] - base]
            label[part] = own.label[rows[part] - base]
    return image, label
