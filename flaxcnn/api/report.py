"""`flaxcnn.report`: the page of what was trained, with what a comparison says of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flaxcnn.data.arrays import Dataset
from flaxcnn.errors import FlaxcnnError
from flaxcnn.reports.page import Rendered
from flaxcnn.reports.report import Record
from flaxcnn.reports.report import write as write_page


def report(
    *runs: Path | str | Record, output: Path | str | None = None, dataset: Dataset | None = None
) -> Path:
    """Write tables and figures of runs, studies or a search to one HTML file.

    >>> from flaxcnn import study
    >>> report(study(seeds=2, epochs=1, study_dir="runs/two", verbose=False)).name
    'report.html'

    Args:
        runs: directories, or what `flaxcnn.train`, `study` and `search` returned. Several are
            compared with the first.
        output: the file; by default report.html, in the folder if there is only one, else in the
            current folder.
        dataset: of a run, if it is loaded already.

    Raises:
        CheckpointError: a folder holds nothing finished.
        ConfigError: no folder, a file that is not .html, or a search among others.
        WriteError: the file cannot be written.
    """
    paths = [Path(run) if isinstance(run, Path | str) else run.path for run in runs]
    return write(paths, None if output is None else Path(output), dataset)[0]


def write(
    paths: Sequence[Path], output: Path | None = None, dataset: Dataset | None = None
) -> tuple[Path, Rendered]:
    """The same of directories, with the page that was written."""
    return write_page(paths, output, dataset, compared)


def compared(paths: Sequence[Path]) -> dict[str, Any] | str:
    """What `flaxcnn compare` says of them, or why it says nothing."""
    from flaxcnn.studies.compare import compare

    try:
        return compare(*paths, anyway=True).to_dict()
    except FlaxcnnError as error:
        return str(error).removeprefix("compare: ").removeprefix("compare ")
