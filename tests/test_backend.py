"""A jax that sums wrongly is refused before it computes anything; a sound one is asked once."""

import os
import tomllib
from pathlib import Path

import jax
import pytest
from packaging.requirements import Requirement

from flaxcnn import backend
from flaxcnn.errors import FlaxcnnError

ROOT = Path(__file__).parents[1]
WRONG = ("0.10.2", "0.11.0", "0.11.1", "0.11.2")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXCNN_CACHE_DIR", str(tmp_path / "cache"))
    backend.require_sound.cache_clear()
    yield tmp_path / "cache"
    backend.require_sound.cache_clear()


@pytest.fixture
def probes(monkeypatch):
    """One entry for each time the probe ran."""
    found = []

    def probe():
        found.append(1)
        return True

    monkeypatch.setattr(backend, "sums_are_right", probe)
    return found


def start():
    """What a new process does first."""
    backend.require_sound.cache_clear()
    backend.require_sound()


def test_the_sums_of_this_jax_are_right():
    assert backend.sums_are_right()


def test_one_wrong_sum_of_many_is_noticed(monkeypatch):
    """The race shows now and then: the last call errs, by less than a percent."""
    calls = []

    def jit(function):
        def run(x):
            calls.append(1)
            right = float(function(x))
            return right * (1.001 if len(calls) == backend.PROBES else 1)

        return run

    monkeypatch.setattr(jax, "jit", jit)
    assert not backend.sums_are_right()
    assert len(calls) == backend.PROBES


def test_wrong_sums_are_refused_with_both_ways_out(monkeypatch, cache):
    monkeypatch.setattr(backend, "sums_are_right", lambda: False)
    for _ in range(2):  # the refusal is not what is remembered
        with pytest.raises(FlaxcnnError) as error:
            start()
        text = str(error.value)
        assert f"jaxlib {jax.lib.__version__} returns wrong sums" in text
        assert "0.10.1" in text
        assert f"XLA_FLAGS={backend.MENDING_FLAG}" in text
        assert error.value.exit_code == 1
    assert not list(cache.rglob("*"))


def test_the_verdict_is_kept(probes, cache):
    for _ in range(3):
        start()
    assert len(probes) == 1
    (verdict,) = (cache / "probe").iterdir()
    assert verdict.read_text() == "sound\n"
    backend.require_sound()


@pytest.mark.parametrize("change", ["version", "flags", "processors"])
def test_the_verdict_is_that_of_one_version_and_its_flags(probes, monkeypatch, change):
    start()
    if change == "version":
        monkeypatch.setattr(jax.lib, "__version__", "0.11.2")
    elif change == "flags":
        monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true")
    else:
        monkeypatch.setattr(os, "cpu_count", lambda: 1000)
    start()
    assert len(probes) == 2
    start()
    assert len(probes) == 2


def test_nowhere_to_keep_it_is_no_error(probes, cache):
    cache.write_text("a file in the way")
    start()
    start()
    assert len(probes) == 2


def test_other_backends_are_not_asked(probes, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    start()
    assert not probes


def test_the_cache_is_where_it_is_said(monkeypatch, tmp_path):
    assert backend.cache_root() == tmp_path / "cache"
    monkeypatch.setenv("FLAXCNN_CACHE_DIR", "~/somewhere")
    assert backend.cache_root() == Path.home() / "somewhere"
    monkeypatch.delenv("FLAXCNN_CACHE_DIR")
    assert backend.cache_root().name == "flaxcnn"


@pytest.mark.parametrize("package", ["jax", "jaxlib"])
def test_the_wrong_versions_cannot_be_installed(package):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (requirement,) = [r for r in map(Requirement, project["dependencies"]) if r.name == package]
    assert not [v for v in WRONG if requirement.specifier.contains(v)]
    for sound in ("0.10.0", "0.10.1", "0.12.0"):
        assert requirement.specifier.contains(sound)
