"""Small studies of digits, with compiled programs kept between tests."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from small_runs import compiled_in

from flaxcnn.data import datasets


@pytest.fixture(autouse=True)
def places(no_settings_from_outside, tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXCNN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("FLAXCNN_RUNS_DIR", str(tmp_path / "runs"))


@pytest.fixture(scope="module", autouse=True)
def compile_once(tmp_path_factory):
    with compiled_in(tmp_path_factory.getbasetemp() / "studies-compiled"):
        yield


@pytest.fixture(scope="session")
def digits():
    return datasets.load("digits")
