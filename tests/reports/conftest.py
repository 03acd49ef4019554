"""Folders of records."""

import made
import pytest


@pytest.fixture
def run(tmp_path):
    """A run directory."""
    return made.run(tmp_path / "run")


@pytest.fixture
def study(tmp_path):
    """A study directory of 8 seeds."""
    return made.study(tmp_path / "study")
