"""The second leg of the tests finds its Python wherever a version manager put it."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def search(tmp_path, monkeypatch):
    """The script, on a machine with nothing but what a test puts into its folder."""
    spec = importlib.util.spec_from_file_location("newest_python", ROOT / ".ci/newest_python.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("NEWEST_PYTHON", "PYENV_ROOT", "UV_PYTHON_INSTALL_DIR", "ASDF_DATA_DIR",
                 "MISE_DATA_DIR", "CONDA_PREFIX"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    inside = [place for place in module.PLACES if not place.startswith("/")]
    monkeypatch.setattr(module, "PLACES", inside)
    return module


def python(path, version, code=0):
    """Something that answers as a Python of `version` does, or fails as a shim of pyenv."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\nexit {code}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    "place",
    [
        "bin/python3.13",
        ".pyenv/versions/3.13.0/bin/python",
        ".local/share/uv/python/cpython-3.13.2-linux-x86_64-gnu/bin/python",
        ".asdf/installs/python/3.13.1/bin/python",
        ".local/share/mise/installs/python/3.13.1/bin/python",
        "miniconda3/envs/new/bin/python3.13",
    ],
)
def test_it_is_found_where_managers_put_it(search, tmp_path, place):
    python(tmp_path / ".pyenv/versions/3.12.1/bin/python", "3.12")
    newest = python(tmp_path / place, "3.13")
    assert search.find() == newest


def test_a_shim_that_starts_nothing_is_passed_over(search, tmp_path):
    python(tmp_path / "bin/python3.13", "3.13", code=127)
    older = python(tmp_path / ".pyenv/versions/3.12.1/bin/python", "3.12")
    assert search.find() == older


def test_none_or_another_version_is_none(search, tmp_path):
    python(tmp_path / "bin/python3.13", "3.11")
    assert search.find() is None


def test_a_named_one_is_taken(search, monkeypatch):
    monkeypatch.setenv("NEWEST_PYTHON", "/opt/python")
    assert search.find() == "/opt/python"
