"""Archives of the built-in data sets, in a folder, in the cache or on the network."""

from __future__ import annotations

import os
import socket
import threading
import urllib.request
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from flaxcnn.data import cache
from flaxcnn.errors import DataError

TIMEOUT = 0.5  # seconds for a connection; tfds would retry for minutes
IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


class Published(NamedTuple):
    """One data set as its authors publish it."""

    url: str  # of the folder that holds the files; the same one tfds downloads from
    files: tuple[str, ...]
    rows: tuple[int, int]  # train, test


PUBLISHED = {
    "mnist": Published(
        "https://storage.googleapis.com/cvdf-datasets/mnist/", IDX_FILES, (60_000, 10_000)
    ),
    "fashion_mnist": Published(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/", IDX_FILES, (60_000, 10_000)
    ),
    "cifar10": Published(
        "https://www.cs.toronto.edu/~kriz/", ("cifar-10-binary.tar.gz",), (50_000, 10_000)
    ),
}


def _inside(folder: Path, name: str) -> list[Path] | None:
    """The archives of `name` if all of them are in `folder`; CIFAR-10 in any tar format."""
    files = [folder / file for file in PUBLISHED[name].files]
    if name == "cifar10" and not files[0].is_file():
        files = [f for f in sorted(folder.glob("cifar-10-binary.tar*")) if f.is_file()][:1]
    return files if files and all(file.is_file() for file in files) else None


def local(name: str, given: Path | None) -> list[Path] | None:
    """Paths of the archives in `given`, else in FLAXCNN_ARCHIVES, else among earlier downloads.

    A folder may hold the files of one data set or a folder per data set (mnist/, ...).

    Raises:
        DataError: the folder does not exist, or `given` lacks a file.
    """
    setting = os.environ.get("FLAXCNN_ARCHIVES")
    folder = given if given is not None else Path(setting) if setting else None
    if folder is not None:
        origin = "archives" if given is not None else "FLAXCNN_ARCHIVES"
        folder = folder.expanduser().absolute()
        if not folder.is_dir():
            raise DataError(f"{origin}: there is no folder {folder}")
        for candidate in (folder / name, folder):
            if files := _inside(candidate, name):
                return files
        if given is not None:
            raise DataError(
                f"{origin}: {folder} lacks archives of {name}; it, or its {name}/, must hold "
                f"{', '.join(PUBLISHED[name].files)}"
            )
    return _inside(downloads(name), name)


def downloads(name: str) -> Path:
    """Folder of downloaded archives."""
    return cache.root() / "archives" / name


def require_network(name: str) -> None:
    """Check that the publisher's host, or the proxy on the way, answers; takes under a second.

    Raises:
        DataError: it does not; the message names every way to get the data.
    """
    url = PUBLISHED[name].url
    if not reachable(url):
        setting = os.environ.get("FLAXCNN_ARCHIVES")
        archives = (
            f"FLAXCNN_ARCHIVES={setting} lacks it" if setting else "FLAXCNN_ARCHIVES is not set"
        )
        raise DataError(
            f"{name} is not prepared: {archives} and {urlsplit(url).hostname} cannot be reached; "
            f"set FLAXCNN_ARCHIVES=DIR or run `flaxcnn data prepare {name} --from DIR` "
            f"(DIR holds {', '.join(PUBLISHED[name].files)}), or go online"
        )


def reachable(url: str) -> bool:
    """Whether the host of `url`, or the proxy on the way, answers; takes under a second."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and parts.hostname and not urllib.request.proxy_bypass(parts.hostname):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    address = (parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
    answered = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=TIMEOUT).close()
            answered.set()
        except OSError:
            pass

    # A name server that does not answer blocks for many seconds whatever the timeout, so connect in
    # a thread that is abandoned then.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(TIMEOUT + 0.2)
    return answered.is_set()
