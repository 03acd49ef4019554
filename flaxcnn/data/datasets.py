"""Data sets by name: the built-in ones, and those of one's own by a scheme, such as folder:PATH.

Sets prepared by tfds and those of Hugging Face are decoded once to memory-mapped .npy files, in the
archive's own order, in FLAXCNN_DATA_DIR (default: the user's cache folder). A set larger than a
recipe's `data_memory` is decoded on demand instead, from its original files.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

from flaxcnn.data import cache
from flaxcnn.data.archives import PUBLISHED, downloads, local, require_network
from flaxcnn.data.arrays import Dataset, Split, dataset
from flaxcnn.data.decode import Form
from flaxcnn.data.folders import folder
from flaxcnn.data.sources import digits, npz
from flaxcnn.data.tables import csv_file
from flaxcnn.errors import ConfigError, DataError
from flaxcnn.limits import cut, shown
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.data import DATA_SCHEMES, KNOWN_DATA, Channels, known_data, meant
from flaxcnn.recipe.resize import Resize

__all__ = ["Dataset", "Split", "cache_path", "listing", "load", "load_for", "prepare",
           "require_resident", "streams", "verify"]  # fmt: skip

log = logging.getLogger(__name__)

DIGITS_ROWS = (1437, 360)  # train, test


def load_for(config: Config) -> Dataset:
    """The data set of a recipe, with images decoded on demand where they will be streamed.

    Raises:
        ConfigError: the data does not fit `data_memory`, but `input` says resident.
        DataError, WriteError: as `load`.
    """
    most = {"resident": None, "stream": 0, "auto": config.data_memory}[config.input]
    if config.resize and config.resize.train != config.resize.evaluate:
        most = 0  # a row has two forms, and an array holds one
    return load(config.dataset, config.resize, most, config.channels)


def streams(config: Config, dataset: Dataset, room: int | None = None) -> bool:
    """Whether a run of the recipe streams this data, or holds it on a device with `room` bytes.

    Raises:
        ConfigError: `input` is resident, but the data set is decoded on demand.
    """
    if config.input == "resident" and dataset.undecoded:
        raise ConfigError(
            f"input=resident needs decoded images, but {dataset.name} is decoded on demand; use "
            "input=stream, or load the data with `load_for`"
        )
    most = config.data_memory if room is None else min(config.data_memory, room)
    large = config.input == "auto" and dataset.nbytes > most
    return config.input == "stream" or dataset.undecoded or large


def require_resident(config: Config, dataset: Dataset, what: str, room: int | None = None) -> None:
    """ConfigError where the recipe streams the data and `what` cannot; `room` as in `streams`."""
    if streams(config, dataset, room):
        raise ConfigError(
            f"{what} holds its data on the device, but the {dataset.nbytes:,} bytes of "
            f"{dataset.name} are streamed (input={config.input}, data_memory="
            f"{config.data_memory}); use a larger data_memory, or `flaxcnn train`"
        )


def load(
    name: str, resize: Resize | None = None, most: int | None = None, channels: Channels = "auto"
) -> Dataset:
    """Load a data set by name, and prepare it first where that is needed.

    Args:
        name: a built-in set, or folder:PATH, csv:PATH, npz:PATH, tfds:NAME or hf:NAME.
        resize: brings images to one size; not those of built-in sets and npz:.
        most: bytes of pixels of such images to decode now; a larger set is decoded on demand.
            None: decode all.
        channels: of images of folder:, csv: and hf:, as in `flaxcnn.data.decode.Form`.

    Images of prepared sets are memory-mapped, read-only. Sets without a test split of their own
    (digits; a folder or .npz without test) have a fixed stratified fifth held out as one: the same
    rows for every run and seed, marked by `Dataset.test_origin`.

    Raises:
        DataError: unknown, missing, damaged, or no data for a classifier.
        WriteError: it must be prepared and the cache cannot be written.
    """
    scheme, rest = _parse(name)
    if name == "digits":
        return digits()
    form = Form(resize, channels)
    if scheme == "folder:":
        return folder(Path(rest), form, most)
    if scheme == "csv:":
        return csv_file(Path(rest), form, most)
    if scheme == "npz:":
        return npz(Path(rest))
    if scheme == "hf:":
        return _of_hub(rest, form, most)
    if scheme == "tfds:" and (resize is not None or most is not None):
        from flaxcnn.data import prepared

        builder = prepared.find(rest, resize)
        if resize is not None or prepared.decoded_bytes(builder, resize) > (most or 0):
            return _on_demand(name, builder, resize, most)
    final = cache_path(name)
    data = cache.read(final, name) or cache.read(prepare(name), name)
    assert data is not None, f"{name} is gone from {final} right after it was prepared"
    return data


def prepare(name: str, archives: Path | None = None) -> Path:
    """Make the cached form of a data set, unless it is there and intact, and return its folder.

    The archives of mnist, fashion_mnist and cifar10 come from `archives`, else from
    FLAXCNN_ARCHIVES, else from earlier downloads, else from the publisher. A damaged cache is
    rebuilt. digits, folder:, csv: and npz: need no preparation: they are read once, as a check.

    Raises:
        DataError: no archives, wrong or damaged archives, no network.
        WriteError: the cache cannot be written.
    """
    _parse(name)
    final = cache_path(name)
    if not _cached(name):
        load(name)
        return final
    try:
        if cache.check(final, name) is not None:
            return final
        replace = False
    except DataError:
        replace = True
    if name in PUBLISHED:
        _prepare_published(name, archives, final, replace)
    elif name.startswith("hf:"):
        _prepare_hub(name, final, replace)
    else:
        _prepare_tfds(name, final, replace)
    return final


def verify(name: str) -> dict[str, Any]:
    """Hash the data again -> name, path, digest and files with their SHA-256.

    Raises:
        DataError: a file differs from its recorded digest, or nothing is prepared.
    """
    if not _cached(name):
        data = load(name)
        return {"name": name, "path": str(cache_path(name)), "digest": data.digest, "files": [],
                "sources": {}, "ok": True}  # fmt: skip
    report = cache.check(cache_path(name), name)
    if report is None:
        raise DataError(f"{name} is not prepared; prepare it with `flaxcnn data prepare {name}`")
    return report


def cache_path(name: str) -> Path:
    """The path of the rows of `name`: a cache folder, or the user's own folder or file."""
    scheme, rest = _parse(name)
    if name == "digits":
        import sklearn

        return Path(sklearn.__path__[0]) / "datasets" / "data" / "digits.csv.gz"
    if scheme == "tfds:":
        from flaxcnn.data import prepared

        return cache.root() / "decoded" / prepared.key(prepared.find(rest))
    if scheme == "hf:":
        from flaxcnn.data import hub

        return cache.root() / "decoded" / hub.find(rest).key
    return Path(rest).expanduser().absolute() if scheme else cache.root() / name


def listing() -> list[dict[str, Any]]:
    """The built-in data sets: name, shape, classes, train and test rows, prepared, path, source."""
    rows = []
    for name, facts in KNOWN_DATA.items():
        published = PUBLISHED.get(name)
        train, test = published.rows if published else DIGITS_ROWS
        path = cache_path(name)
        source = f"{published.url}, or FLAXCNN_ARCHIVES" if published else "inside scikit-learn"
        rows.append({
            "name": name, "shape": list(facts.shape), "classes": facts.classes,
            "train": train, "test": test, "path": str(path), "source": source,
            "prepared": not published or (path / "meta.json").is_file(),
        })  # fmt: skip
    return rows


def _on_demand(name: str, builder: Any, resize: Resize | None, most: int | None) -> Dataset:
    """A prepared set without a decoded copy on disk; held in memory where it is small enough."""
    from flaxcnn.data import prepared

    train, test, classes = prepared.undecoded(name.removeprefix("tfds:"), builder, resize)
    if most is None or prepared.decoded_bytes(builder, resize) <= most:
        train = Split(train.image[:], train.label)
        test = None if test is None else Split(test.image[:], test.label)
    return dataset(name, train, test, classes)


def _of_hub(rest: str, form: Form, most: int | None) -> Dataset:
    """A set of Hugging Face: on demand where it is large, else from its decoded copy."""
    from flaxcnn.data import hub

    found = hub.find(rest)
    final = cache.root() / "decoded" / found.key
    plain = form == Form()  # of which a decoded copy is kept
    kept = cache.read(final, found.where) if plain else None
    if kept and (most is None or kept.nbytes <= most):
        return kept
    lazy = hub.undecoded(found, form)
    if most is not None and lazy.nbytes > most:
        return lazy
    data = hub.decoded(lazy)
    if plain:
        with cache.construction("hf") as work:
            cache.store(data, final, work, {}, replace=False)
    return data


def _prepare_hub(name: str, final: Path, replace: bool) -> None:
    from flaxcnn.data import hub

    data = hub.decoded(hub.undecoded(hub.find(name.removeprefix("hf:")), Form()))
    with cache.construction("hf") as work:
        cache.store(data, final, work, {}, replace)


def _cached(name: str) -> bool:
    return name in PUBLISHED or name.startswith(("tfds:", "hf:"))


def _parse(name: str) -> tuple[str, str]:
    """(scheme, rest); the scheme of a built-in set is empty."""
    if name in KNOWN_DATA:
        return "", name
    for scheme in DATA_SCHEMES:
        if name.startswith(scheme) and name != scheme:
            _check_path(name, name.removeprefix(scheme))
            return scheme, name.removeprefix(scheme)
    raise DataError(f"dataset must be {known_data()} (got {shown(name)}){meant(name[:200])}")


def _check_path(name: str, rest: str) -> None:
    """DataError for a name that no file system can hold."""
    try:
        os.stat(os.path.expanduser(rest))
    except ValueError as error:
        raise DataError(f"{shown(name)}: {error}") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise DataError(f"{cut(name)}: {error.strerror}") from None


def _prepare_published(name: str, given: Path | None, final: Path, replace: bool) -> None:
    files = local(name, given)
    if files is None:
        require_network(name)
    from flaxcnn.data import builders

    log.warning("preparing %s: checking and decoding its archives once ...", name)
    cls = builders.BUILDERS[name]
    with cache.construction(name) as work:
        if files is None:
            files = builders.download(cls, downloads(name), work / "downloads")
        made = builders.make(cls, files, work)
        data = dataset(name, made.train, made.test, made.classes)
        cache.store(data, final, work, made.sources, replace)
        # Kept so that `tfds:NAME`, and tfds itself, can open them
        cache.publish(made.records, cache.root() / "tfds" / made.records.relative_to(work / "tfds"))


def _prepare_tfds(name: str, final: Path, replace: bool) -> None:
    from flaxcnn.data import prepared

    own = name.removeprefix("tfds:")
    builder = prepared.find(own)
    train, test, classes = prepared.decode_all(own, builder)
    with cache.construction("tfds") as work:
        cache.store(dataset(name, train, test, classes), final, work, {}, replace)
