"""What is in a data set and what is wrong with it: counts, sizes, bad files, duplicates.

Nothing is brought to one form: files are looked at one by one as they are, so one bad file hides no
other. Near duplicates are found by a perceptual hash and confirmed by correlation.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy import fft
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from flaxcnn.data import folders, tables
from flaxcnn.data.datasets import Dataset, load
from flaxcnn.data.decode import decode, no_bombs
from flaxcnn.data.sampling import IMBALANCED
from flaxcnn.errors import DataError
from flaxcnn.recipe.data import FILES

SIDE = 32  # of the thumbnail that is hashed
LOW = 8  # frequencies kept of each direction: 64 bits
DISTANCE = 4  # bits by which the hashes of near duplicates may differ
ALIKE = 0.99  # least correlation of their thumbnails
MOST = 100_000  # images among which near duplicates are looked for, by comparing all pairs
AT_ONCE = 512  # images of which each is compared with all, at once
ROWS_OF_FLOATS = 2**15  # of thumbnails held twice
SAMPLED = 8  # images of a class that are drawn to be shown
FILE = "file"  # before what is wrong with one
KINDS = {1: "grey", 2: "grey with alpha", 3: "colour", 4: "colour with alpha"}


class Row(NamedTuple):
    """An image that can be read."""

    split: str
    name: str  # a path, or "test row 5"
    label: int
    digest: bytes  # of size and pixels
    thumbnail: np.ndarray  # uint8 [SIDE, SIDE], grey


@dataclass(frozen=True)
class Findings:
    """What `check` found; `groups` are of names of images that are the same, or nearly."""

    name: str
    classes: tuple[str, ...]
    rows: dict[str, list[int]]  # images of each class by split
    sizes: dict[str, int]  # height x width -> images
    kinds: dict[str, int]  # grey, colour -> images
    passed_over: tuple[str, ...]
    wrong: tuple[str, ...]  # a sentence for each image that cannot be used
    exact: list[dict[str, Any]] = field(default_factory=list)
    near: list[dict[str, Any]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    sample: list[list[str]] = field(default_factory=list)  # images drawn from each class

    @property
    def imbalanced(self) -> bool:
        """Whether the largest class has `IMBALANCED` times the training rows of the smallest."""
        train = self.rows["train"]
        return max(train) >= IMBALANCED * min(train)


def check(name: str) -> Findings:
    """Look at every image of a data set.

    Raises:
        DataError: there is no such data set, or it has no classes.
    """
    scheme, _, rest = name.partition(":")
    if scheme in ("folder", "csv"):
        listed = (folders if scheme == "folder" else tables).listing(Path(rest))
        parts, classes = listed.parts, tuple(listed.classes)
        images = _files(listed)
        passed, wrong = listed.junk, list(listed.wrong)
    else:
        data = load(name, most=0 if name.startswith(FILES) else None)
        classes, images, passed, wrong = data.classes, _rows(data), (), []
        parts = {}
    rows: list[Row] = []
    sizes: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for split, row_name, label, pixels in images:
        if isinstance(pixels, DataError):
            wrong.append(str(pixels).removeprefix(f"{FILE}: ").removeprefix(f"{name}: "))
            continue
        sizes["x".join(map(str, pixels.shape[:2]))] += 1
        kinds[KINDS.get(pixels.shape[2], f"{pixels.shape[2]} channels")] += 1
        digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
        rows.append(Row(split, row_name, label, digest, _thumbnail(pixels)))
    count = {split: [0] * len(classes) for split in parts or dict.fromkeys(r.split for r in rows)}
    for row in rows:
        count[row.split][row.label] += 1
    exact = _groups(rows, [row.digest for row in rows], classes)
    near, notes = [], []
    if len(rows) <= MOST:
        near = _groups(rows, near_duplicates(rows), classes)
    else:
        notes.append(f"near duplicates are looked for among at most {MOST:,} images")
    return Findings(
        name, classes, count, dict(sizes.most_common()), dict(kinds.most_common()), passed,
        tuple(wrong), exact, near, tuple(notes), _sample(rows, len(classes)),
    )  # fmt: skip


def _sample(rows: list[Row], classes: int) -> list[list[str]]:
    """Names of images of each class, drawn at random and the same each time."""
    random = np.random.default_rng(0)
    own: list[list[str]] = [[] for _ in range(classes)]
    for row in rows:
        own[row.label].append(row.name)
    drawn = (np.sort(random.permutation(len(names))[:SAMPLED]) for names in own)
    return [[names[i] for i in places] for names, places in zip(own, drawn, strict=True)]


def opener(name: str) -> Callable[[str], np.ndarray]:
    """What gives the pixels [H, W, C] of an image of a data set, by the name that `check` gives it.

    Raises:
        DataError: there is no such data set; of the result: the image cannot be read.
    """
    scheme, _, rest = name.partition(":")
    if scheme in ("folder", "csv"):
        root = (folders if scheme == "folder" else tables).listing(Path(rest)).root
        return lambda file: decode(FILE, file, f"{root}/{file}")
    data = load(name, most=0 if name.startswith(FILES) else None)
    first = {"train": 0, "validation": len(data.train) - data.validation, "test": 0}

    def by_row(image: str) -> np.ndarray:
        part, _, number = image.split()
        split = data.test if part == "test" else data.train
        return np.asarray(split.image[first[part] + int(number)])

    return by_row


Seen = Iterator[tuple[str, str, int, np.ndarray | DataError]]


def _files(listed: folders.Listing) -> Seen:
    """(split, name, label, pixels or what is wrong) of each file."""
    with no_bombs():
        for split, part in listed.parts.items():
            for file, label in zip(part.files, part.label.tolist(), strict=True):
                try:
                    yield split, file, label, decode(FILE, file, f"{listed.root}/{file}")
                except DataError as error:
                    yield split, file, label, error


def _rows(data: Dataset) -> Seen:
    """The same of each row of a data set that is no list of files."""
    own = len(data.train) - data.validation
    for archive, split in (("train", data.train), ("test", data.test)):
        for i, label in enumerate(split.label.tolist()):
            given = archive == "train" and i >= own
            part, number = ("validation", i - own) if given else (archive, i)
            pixels: np.ndarray | DataError
            try:
                pixels = split.image[i]
            except DataError as error:
                pixels = error
            yield part, f"{part} row {number}", label, pixels


# -- duplicates ----------------------------------------------------------------------------------


def _thumbnail(pixels: np.ndarray) -> np.ndarray:
    colour = pixels[..., :3] if pixels.shape[2] >= 3 else pixels[..., 0]
    image = Image.fromarray(np.ascontiguousarray(colour)).convert("L")
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def hashes(thumbnails: np.ndarray) -> np.ndarray:
    """Perceptual hash, uint64 [N], of thumbnails, float32 [N, SIDE, SIDE].

    Which of the lowest 8 x 8 frequencies of the discrete cosine transform are above their median:
    little changes when an image is scaled, compressed or made lighter (Zauner 2010, pHash).
    """
    low = fft.dctn(thumbnails, axes=(1, 2))[:, :LOW, :LOW].reshape(len(thumbnails), -1)
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def near_duplicates(rows: list[Row]) -> list[int]:
    """The number of a group for each row; those of a group are nearly the same, but not exactly.

    Pairs have hashes that differ in at most `DISTANCE` bits, and thumbnails whose correlation is
    at least `ALIKE`. Groups are of pairs that have an image in common; of images that are exactly
    the same, one is compared.
    """
    first = list({row.digest: i for i, row in reversed([*enumerate(rows)])}.values())
    flat = np.array([rows[i].thumbnail for i in first], np.float32).reshape(-1, SIDE * SIDE)
    parts = np.array_split(flat, max(len(flat) // AT_ONCE, 1))
    code = np.concatenate([hashes(part.reshape(-1, SIDE, SIDE)) for part in parts])
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)  # of one colour: all 0
    pairs = [np.zeros((2, 0), int)]
    for start in range(0, len(first), AT_ONCE):
        differ = np.bitwise_count(code[start : start + AT_ONCE, None] ^ code[None, start:])
        both = np.stack(np.nonzero(differ <= DISTANCE)) + start
        both = both[:, both[0] < both[1]]
        for part in np.array_split(both, len(both[0]) // ROWS_OF_FLOATS + 1, axis=1):
            alike = np.einsum("ij,ij->i", flat[part[0]], flat[part[1]]) >= ALIKE
            pairs.append(part[:, alike])
    one, other = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(len(one)), (one, other)), shape=(len(first), len(first)))
    number = connected_components(graph, directed=False)[1].tolist() if first else []
    group = [-1 - i for i in range(len(rows))]  # alone
    for place, row in enumerate(first):
        group[row] = number[place]
    return group


def _groups(rows: list[Row], key: list[Any], classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows of equal keys where there are several: first those that span splits or labels."""
    together: dict[Any, list[Row]] = {}
    for row, own in zip(rows, key, strict=True):
        together.setdefault(own, []).append(row)
    found = [
        {
            "images": [row.name for row in group],
            "classes": sorted({classes[row.label] for row in group}),
            "splits": sorted({row.split for row in group}),
        }
        for group in together.values()
        if len(group) > 1
    ]
    return sorted(found, key=lambda g: (len(g["splits"]) == 1, len(g["classes"]) == 1))
