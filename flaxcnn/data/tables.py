"""A CSV file of image paths and labels."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import NoReturn

import numpy as np

from flaxcnn.data.arrays import Dataset
from flaxcnn.data.decode import FORMATS, Form
from flaxcnn.data.folders import SPLITS, Labelled, Listing, labelled
from flaxcnn.errors import DataError, near_miss, one_of
from flaxcnn.limits import TABLE_BYTES, cut, read_bytes

NEEDED = ("path", "label")
SHOWN = 3  # problems that a message names


def csv_file(file: Path, form: Form = Form(), most: int | None = None) -> Dataset:  # noqa: B008
    """Images that a CSV file lists: columns `path`, `label` and maybe `split`, named in its header.

    Paths are relative to the folder of the file and stay within it. `split` is train, validation
    or test; without one a row trains. Without a row to test, a fixed stratified fifth is held out.
    Rows keep the order of the lines; classes are the labels of train, sorted: by value where all
    are whole numbers. Other columns have no effect.

    Args:
        file: the CSV file, UTF-8, separated by commas.
        form, most: as in `flaxcnn.data.folders.folder`.

    Raises:
        DataError: no such file or column, lines that do not fit (with their numbers), or images
            that cannot be read as one data set.
    """
    return labelled(listing(file), form, most)


def listing(file: Path) -> Listing:
    """The files that a table names.

    Raises:
        DataError: no such file or column, or lines that do not fit (with their numbers).
    """
    where = f"csv:{file}"
    path = file.expanduser()
    try:
        with io.StringIO(read_bytes(path, TABLE_BYTES).decode("utf-8-sig"), newline="") as opened:
            reader = csv.DictReader(opened, strict=True)
            header = [(name or "").strip() for name in reader.fieldnames or ()]
            _check_header(where, header)
            reader.fieldnames = header
            lines = [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        raise DataError(f"{where}: there is no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{where}: cannot be read as CSV in UTF-8 ({error})") from None
    root = path.parent.resolve()
    parts = _parts(where, root, lines)
    if "train" not in parts:
        raise DataError(f"{where}: no row has split train")
    classes = _classes(where, parts)
    number = {name: i for i, name in enumerate(classes)}
    split = {
        name: Labelled(
            tuple(path for _, path, _ in rows),
            np.array([number[label] for *_, label in rows], np.int32),
        )
        for name, rows in parts.items()
    }
    return Listing(where, root, classes, split)


Row = tuple[int, str, str]  # line, path, label


def _check_header(where: str, header: list[str]) -> None:
    for name in NEEDED:
        if header.count(name) != 1:
            raise DataError(
                f"{where}: the first line must name the columns path and label, and maybe split, "
                f"separated by commas (got {', '.join(header) or 'nothing'})"
            )


def _parts(where: str, root: Path, lines: list[tuple[int, dict[str, str]]]) -> dict[str, list[Row]]:
    """The rows of each split; all that is wrong is told at once."""
    parts: dict[str, list[Row]] = {}
    seen: dict[str, int] = {}
    wrong: list[str] = []
    for line, row in lines:
        if None in row or None in row.values():
            wrong.append(f"line {line} has another number of fields than the first line")
            continue
        name, label = row["path"].strip(), row["label"].strip()
        split = (row.get("split") or "train").strip().lower()
        if problem := _problem(root, name, label, split):
            wrong.append(f"line {line}: {problem}")
        elif (first := seen.setdefault(name, line)) != line:
            wrong.append(f"line {line}: {cut(name)} is on line {first} already")
        else:
            parts.setdefault(split, []).append((line, name, label))
    if wrong:
        _refuse(where, wrong)
    return parts


def _problem(root: Path, name: str, label: str, split: str) -> str | None:
    """What is wrong with a row, or None."""
    if not name or not label:
        return f"the {'label' if name else 'path'} is empty"
    if not label.isprintable():
        return f"names of classes must be printable (got {label!r})"
    if split not in SPLITS:
        return f"split must be {one_of(SPLITS)} (got {split!r}){near_miss(split, SPLITS)}"
    told = cut(name)  # it may have line breaks
    if "\0" in name:
        return f"{told} is no name of a file"
    file = root / name
    if not file.resolve().is_relative_to(root):
        return f"{told} is outside the folder of the CSV file"
    if file.suffix.lower() not in FORMATS:
        return f"{told} must be {one_of('*' + suffix for suffix in FORMATS)}"
    return None if file.is_file() else f"there is no file {told}"


def _refuse(where: str, wrong: list[str]) -> NoReturn:
    more = f"; and {len(wrong) - SHOWN} more lines" if len(wrong) > SHOWN else ""
    raise DataError(f"{where}: {'; '.join(wrong[:SHOWN])}{more}")


def _classes(where: str, parts: dict[str, list[Row]]) -> list[str]:
    """Labels of train, sorted; those of other splits must be among them."""
    present = {label for *_, label in parts["train"]}
    if len(present) < 2:
        raise DataError(f"{where}: train rows must have two or more labels (got {one_of(present)})")
    wrong = [
        f"line {line}: no train row has label {label!r}{near_miss(label, present)}"
        for rows in parts.values()
        for line, _, label in rows
        if label not in present
    ]
    if wrong:
        _refuse(where, wrong)
    whole = all(label.removeprefix("-").isdecimal() for label in present)
    return sorted(present, key=int) if whole else sorted(present)
