"""Files from elsewhere, read within limits: regular ones up to a size, tables up to a depth.

A named pipe would be waited for without end, and /dev/zero read until memory is gone.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import IO, Any

MIB = 2**20
CONFIG_BYTES = MIB  # of --config; the longest recipe of the catalog takes 10 KB
RECORD_BYTES = 512 * MIB  # of a record; the lines of 10,000 runs take 20 MB
TABLE_BYTES = 512 * MIB  # of a CSV file: ten million rows
DEPTH = 64  # of tables in tables; a residual block in another one takes two
SHOWN = 80  # characters of a value in a message
# Not RESOURCE_EXHAUSTED: memory that is full has the same code.
FULL = re.compile("No space left|quota exceeded|ENOSPC|EDQUOT", re.IGNORECASE)


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a file to read.

    Raises:
        OSError: it cannot be opened, or is a folder, a named pipe or a device.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # does not wait for a pipe's writer
    except ValueError as error:  # a NUL in the path
        raise OSError(errno.EINVAL, str(error)) from None
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise OSError(errno.EINVAL, f"it is {kind}")
    return os.fdopen(handle, "rb")


def read_bytes(path: str | Path, most: int = RECORD_BYTES) -> bytes:
    """All bytes of a regular file.

    Raises:
        OSError: as `open_regular`, or more than `most` bytes.
    """
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it is larger than the limit of {most:,} bytes")
    return data


def parse_json(text: str | bytes) -> Any:
    """A JSON value; of a key given twice, nobody can know which value is meant.

    Raises:
        ValueError: not JSON, nested too deeply, or with a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is given twice")
    return found


def too_deep(value: Any, most: int = DEPTH) -> bool:
    """Whether lists and tables are nested more deeply than that; takes no stack."""
    level = [value]
    for _ in range(most):
        level = [
            item
            for each in level
            if isinstance(each, dict | list | tuple)
            for item in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return any(isinstance(each, dict | list | tuple) and each for each in level)


def cut(text: str) -> str:
    """A name or path in a message, on one line, cut where it is long."""
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: 2 * SHOWN])
    return line if len(text) <= 2 * SHOWN else f"{line}..."


def shown(value: Any) -> str:
    """A value in a message, cut where it is long.

    >>> shown("a" * 200)[-24:]
    'aaaa... (202 characters)'
    """
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # ValueError: an integer of thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"


def is_full(error: BaseException) -> bool:
    """Whether a write failed for want of room, whichever library says so."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return bool(FULL.search(str(error)))
