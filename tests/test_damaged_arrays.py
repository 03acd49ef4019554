"""An array's file whose header is damaged: one of the errors that its readers expect."""

import contextlib

import numpy as np
import pytest

from flaxcnn.errors import DAMAGED_ARRAY


@pytest.mark.parametrize("place", range(10, 60, 7))
@pytest.mark.parametrize("byte", [0, 10, 39, 255])
def test_numpy_raises_what_is_expected_or_reads_it(tmp_path, place, byte):
    """Python 3.13 takes a zero byte in the header for source code that it cannot be."""
    file = tmp_path / "a.npy"
    np.save(file, np.zeros((3, 4), np.float32))
    content = bytearray(file.read_bytes())
    content[place] = byte
    file.write_bytes(content)
    with contextlib.suppress(DAMAGED_ARRAY):
        np.load(file, allow_pickle=False)
