"""Write a report: of one folder into that folder, of several to a file; and for notebooks."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from flaxcnn.data.arrays import Dataset
from flaxcnn.errors import CheckpointError, ConfigError, FlaxcnnError, WriteError, first_line
from flaxcnn.limits import shown
from flaxcnn.recipe.references import SOURCES, copies_in
from flaxcnn.records.files import check_suffix, write_atomic
from flaxcnn.records.index import index_of, kind_by_proof
from flaxcnn.records.read import RunRecord, SearchRecord, StudyRecord, read
from flaxcnn.reports.index import index_page
from flaxcnn.reports.page import Page, Rendered, render, render_fragment
from flaxcnn.reports.run import run_brief, run_page
from flaxcnn.reports.search import search_brief, search_page
from flaxcnn.reports.several import Compared, several_page
from flaxcnn.reports.study import study_brief, study_page

NAME = "report.html"
PICTURES = "plots"

Record = RunRecord | StudyRecord | SearchRecord


def page_of(record: Record, dataset: Dataset | None = None, brief: bool = False) -> Page:
    """The page of one record, or only what a notebook shows of it.

    Raises:
        CheckpointError: a record holds what none of this version does.
    """
    try:
        return _page_of(record, dataset, brief)
    except FlaxcnnError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{record.path}: its records cannot be shown ({type(error).__name__}: "
            f"{shown(first_line(error))}): one is damaged, or of another version"
        ) from error


def _page_of(record: Record, dataset: Dataset | None, brief: bool) -> Page:
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


def make(
    records: Sequence[Record], dataset: Dataset | None = None, compared: Compared = ""
) -> Rendered:
    """The page of one record, or of several side by side, with what was `compared`.

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
        return render(several_page(sides, compared))


def write(
    paths: Sequence[Path], output: Path | None = None, dataset: Dataset | None = None,
    compare: Callable[[Sequence[Path]], Compared] = lambda paths: "",
) -> tuple[Path, Rendered]:  # fmt: skip
    """Write the page of the folders; beside the page of a single folder, its pictures as files.

    Args:
        paths: run and study directories.
        output: the HTML file; by default report.html, in the folder if there is only one, else
            in the current folder.
        dataset: of a run, if it is loaded already.
        compare: what says whether several differ by more than chance.

    Raises:
        CheckpointError: a folder holds nothing finished.
        ConfigError: the name of the file is not that of a page.
        WriteError: the file cannot be written.
    """
    if output is not None:
        check_suffix("--output", output, ".html", ".htm")
    if (
        len(paths) == 1
        and kind_by_proof(paths[0].expanduser()) is None
        and (found := index_of(paths[0]))
    ):
        target = (output or found.folder / NAME).expanduser().absolute()
        with any_name():
            made = render(index_page(found, target))
        write_atomic(target, made.html.encode())
        return target, made
    records = [read(path) for path in paths]
    made = make(records, dataset, compare(paths) if len(records) > 1 else "")
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
        for name, text in made.tables.items():
            write_atomic(own / name, text.encode())
    return target, made
