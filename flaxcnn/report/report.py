"""Reports written: of one folder into that folder, of several where it is told; notebooks' too."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from flaxcnn.data.arrays import Dataset
from flaxcnn.errors import ConfigError, FlaxcnnError, WriteError
from flaxcnn.records.files import finished, write_atomic
from flaxcnn.records.read import (
    RunRecord,
    SearchRecord,
    StudyRecord,
    read_run,
    read_search,
    read_study,
)
from flaxcnn.report.page import Page, Rendered, render, render_fragment
from flaxcnn.report.run import run_brief, run_page
from flaxcnn.report.search import search_brief, search_page
from flaxcnn.report.several import several_page
from flaxcnn.report.study import study_brief, study_page

NAME = "report.html"
PICTURES = "plots"

Record = RunRecord | StudyRecord | SearchRecord
READ: dict[str, Callable[[Path], Record]] = {
    "run": read_run, "study": read_study, "search": read_search,
}  # fmt: skip


def read(path: Path) -> Record:
    """The record of whichever kind lies there.

    Raises:
        CheckpointError: none, nothing finished, or a damaged one.
    """
    return READ[finished(path)](path.expanduser().absolute())


def page_of(record: Record, dataset: Dataset | None = None) -> Page:
    """The page of one record."""
    match record:
        case RunRecord():
            return run_page(record, dataset)
        case StudyRecord():
            return study_page(record)
        case SearchRecord():
            return search_page(record)


def fragment(path: Path) -> str | None:
    """A result as a notebook shows it: headline, one picture, one table, as HTML without scripts.

    None where its records are gone or of another version; the notebook then shows its text.
    """
    try:
        record = read(path)
    except FlaxcnnError:
        return None
    with any_name():
        match record:
            case RunRecord():
                page = run_brief(record)
            case StudyRecord():
                page = study_brief(record)
            case SearchRecord():
                page = search_brief(record)
        page.facts = [fact for fact in page.facts if fact[0] != "Fingerprint"]
        for section in page.sections:
            section.pictures = section.pictures[:1]
        return render_fragment(page, record.path)


@contextlib.contextmanager
def any_name() -> Iterator[None]:
    """A name in a script that matplotlib's own font lacks is no matter: the browser has another."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def make(records: Sequence[Record], dataset: Dataset | None = None) -> Rendered:
    """The page of one record, or of several side by side.

    Raises:
        ConfigError: none, or a search among others.
    """
    if not records:
        raise ConfigError("report: got no folder; allowed is one run or study directory or more")
    with any_name():
        if len(records) == 1:
            return render(page_of(records[0], dataset))
        sides = [record for record in records if not isinstance(record, SearchRecord)]
        if len(sides) < len(records):
            raise ConfigError("report: got a search beside others; allowed is a search alone")
        return render(several_page(sides))


def write(
    paths: Sequence[Path], output: Path | None = None, dataset: Dataset | None = None
) -> tuple[Path, Rendered]:
    """Write the page of the folders, and its pictures beside one that lies in its own folder.

    Args:
        paths: run and study directories.
        output: the HTML file; by default report.html, in the folder if it is one, else here.
        dataset: of a run, where it is loaded already.

    Raises:
        CheckpointError: a folder that holds nothing finished.
        WriteError: the file cannot be written.
    """
    records = [read(path) for path in paths]
    made = make(records, dataset)
    own = records[0].path if len(records) == 1 else None
    target = (output or (own or Path.cwd()) / NAME).expanduser().absolute()
    write_atomic(target, made.html.encode())
    if own is not None and output is None:
        try:
            (own / PICTURES).mkdir(exist_ok=True)
        except OSError as error:
            raise WriteError(f"{own / PICTURES}: cannot be written ({error.strerror})") from error
        for name, text in made.svgs.items():
            write_atomic(own / PICTURES / f"{name}.svg", text.encode())
    return target, made
