"""A folder of its own for each test of faults."""

import pytest

from flaxcnn.cli import runs, train


@pytest.fixture(autouse=True)
def home(no_settings_from_outside, tmp_path, tmp_path_factory, monkeypatch):
    """The folder that commands start in; programs are compiled once for all tests."""
    compiled = tmp_path_factory.getbasetemp() / "compiled"
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    monkeypatch.setenv("FLAXCNN_CACHE_DIR", str(compiled))
    monkeypatch.setenv("FLAXCNN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    # It silences this whole process, in which pytest wants to hear what goes wrong
    monkeypatch.setattr(train, "quiet", lambda: None)
    monkeypatch.setattr(runs, "quiet", lambda: None)
    return home
