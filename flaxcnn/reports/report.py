"""Write a report: of one folder into that folder, of several to a file; and for notebooks."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from flaxcnn.data.arrays import Dataset
from flaxcnn.errors import ConfigError, WriteError
from flaxcnn.recipe.references import SOURCES, copies_in
from flaxcnn.records.files import check_suffix, write_atomic
from flaxcnn.records.read import RunRecord, SearchRecord, StudyRecord, read
from flaxcnn.reports.page import Page, Rendered, render, render_fragment
from flaxcnn.reports.run import run_brief, run_page
from flaxcnn.reports.search import search_brief, search_page
from flaxcnn.reports.several import several_page
from flaxcnn.reports.study import study_brief, study_page

NAME = "report.html"
PICTURES = "plots"

Record = RunRecord | StudyRecord | SearchRecord


def page_of(record: Record, dataset: Dataset | None = None, brief: bool = False) -> Page:
    """The page of one record, or only what a notebook shows of it."""
    with copies_in(record.path / SOURCES):  # code of one's own may have changed since
        match record:
            case RunRecord():
                return run_brief(record) if brief else run_page(record, dataset)
            case StudyRecord():
                return study_brief(record) if brief else study_page(record)
            case SearchRecord():
                return search_brief(record) if brief else search_page(record)


def fragment(record: Record) -> str:
    """A record as a notebook shows it: headline, one picture, one table, without scripts."""
    with any_name():
        page = page_of(record, brief=True)
        page.facts = [fact for fact in page.facts if fact[0] != "Fingerprint"]
        for section in page.sections:
            section.pictures = section.pictures[:1]
        return render_fragment(page, record.path)


@contextlib.contextmanager
def any_name() -> Iterator[None]:
    """Allow names in scripts that matplotlib's own font lacks: the browser has another font."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def make(records: Sequence[Record], dataset: Dataset | None = None) -> Rendered:
    """The page of one record, or of several side by side.

    Raises:
        ConfigError: none, or a search among others.
    """
    if not records:
        raise ConfigError("report needs at least one run or study directory")
    with any_name():
        if len(records) == 1:
            return render(page_of(records[0], dataset))
        sides = [record for record in records if not isinstance(record, SearchRecord)]
        if len(sides) < len(records):
            raise ConfigError("report shows a search only alone, not beside others")
        return render(several_page(sides))


def report(
    *runs: Path | str | Record, output: Path | str | None = None, dataset: Dataset | None = None
) -> Path:
    """Write tables and figures of runs, studies or a search to one HTML file.

    >>> from flaxcnn import study
    >>> report(study(seeds=2, epochs=1, study_dir="runs/two", verbose=False)).name
    'report.html'

    Args:
        runs: directories, or what `flaxcnn.train`, `study` and `search` returned. Several are
            shown side by side.
        output: the file; by default report.html, in the folder if there is only one, else in the
            current folder.
        dataset: of a run, if it is loaded already.

    Raises:
        CheckpointError: a folder holds nothing finished.
        ConfigError: no folder, or a search among others.
        WriteError: the file cannot be written.
    """
    paths = [Path(run) if isinstance(run, Path | str) else run.path for run in runs]
    return write(paths, None if output is None else Path(output), dataset)[0]


def write(
    paths: Sequence[Path], output: Path | None = None, dataset: Dataset | None = None
) -> tuple[Path, Rendered]:
    """Write the page of the folders; beside the page of a single folder, its pictures as files.

    Args:
        paths: run and study directories.
        output: the HTML file; by default report.html, in the folder if there is only one, else
            in the current folder.
        dataset: of a run, if it is loaded already.

    Raises:
        CheckpointError: a folder holds nothing finished.
        WriteError: the file cannot be written.
    """
    if output is not None:
        check_suffix("--output", output, ".html", ".htm")
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
