"""Chips by name, and cases whose compiler is missing or ends badly."""

import json
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from flaxcnn.accelerators import cases, programs, targets
from flaxcnn.errors import ConfigError
from flaxcnn.recipe import catalog

DIGITS = catalog.find("digits/quickstart").config


@pytest.mark.parametrize("name", targets.TARGETS)
def test_every_target_is_whole(name):
    target, chips = targets.parse(name)
    assert chips == 1
    assert target.kind in ("gpu", "tpu")
    rates = [target.peak[precision] for precision in ("float32", "tensorfloat32", "bfloat16")]
    assert 1e13 < rates[0] < rates[1] < rates[2]
    if target.kind == "gpu":
        spec = (targets.SPECS / f"{name}.txtpb").read_text()
        assert f"device_memory_size: {target.memory}" in spec
        written = spec.split("memory_bandwidth: ")[1].split()[0]
        assert float(written) == pytest.approx(target.bandwidth, rel=0.01)


def test_chips():
    assert targets.parse("v5e:8")[1] == 8
    assert targets.parse("h200:3")[1] == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("v5", r"h200, h100, a100, v5e, v6e or v5p, .*\(got 'v5'\); did you mean 'v5[pe]'"),
        ("h20", "did you mean 'h200'"),
        ("", "must be h200"),
        ("v5e:3", "v5e has topologies of 1, 4, 8, 16"),
        ("v5p:32x", "v5p has topologies of 1, 4, 8"),
        ("h200:", "h200 has topologies of 1, 2"),
        ("h200:0", "h200 has topologies of 1, 2"),
        ("h200:9", "h200 has topologies of 1, 2"),
        ("h200:-1", "h200 has topologies of 1, 2"),
    ],
)
def test_targets_that_are_none(text, said):
    with pytest.raises(ConfigError, match=said):
        targets.parse(text)


def test_bounds_by_hand():
    h200, _ = targets.parse("h200")
    found = targets.bounds(h200, 2, "bfloat16", 989.4e12, 4.8e9, 50, 10)
    assert found["bandwidth"] == pytest.approx(1e-3)
    assert found["flops"] == pytest.approx(0.5)
    assert found["launches"] == pytest.approx(10 * 2.5e-6 + 40 * 1e-6)
    v5e, _ = targets.parse("v5e")
    assert set(targets.bounds(v5e, 1, "float32", 1e9, 1e6, 50, 0)) == {"bandwidth", "flops"}


def test_clocks_of_tpus_are_as_told():
    """1.5 and 1.75 GHz, "How to Scale Your Model" (jax-ml.github.io/scaling-book/tpus)."""
    clocks = {name: target.clock for name, target in targets.TARGETS.items() if target.clock}
    assert clocks == {
        "v5e": pytest.approx(1.5e9, rel=0.01),
        "v6e": pytest.approx(1.75e9, rel=0.01),
        "v5p": pytest.approx(1.75e9, rel=0.01),
    }


def test_the_extra_is_what_the_command_installs():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["accelerators"] == list(cases.WHEELS)


@pytest.fixture
def without_wheels(monkeypatch, tmp_path):
    monkeypatch.setenv(cases.FOLDER, str(tmp_path / "none"))
    monkeypatch.setattr(cases, "_importable", lambda name: False)
    return tmp_path / "none"


def test_a_missing_compiler_says_how_to_get_it(without_wheels):
    with pytest.raises(ConfigError) as error:
        cases.compile_case(cases.Case("digits/quickstart", DIGITS, "v5e"))
    said = str(error.value)
    assert f"{sys.executable} -m pip install --no-deps --target {without_wheels}" in said
    assert all(wheel in said for wheel in cases.WHEELS)
    assert "\n" not in said


def test_the_folder_comes_first_then_the_environment(monkeypatch, tmp_path):
    target, _ = targets.parse("v5e")
    monkeypatch.setenv("FLAXCNN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cases, "_importable", lambda name: True)
    assert cases.folder(target) is None
    (tmp_path / "accelerators" / "libtpu").mkdir(parents=True)
    assert cases.folder(target) == tmp_path / "accelerators"
    (tmp_path / "own" / "libtpu").mkdir(parents=True)
    monkeypatch.setenv(cases.FOLDER, str(tmp_path / "own"))
    assert cases.folder(target) == tmp_path / "own"


def ended(monkeypatch, tmp_path, code, out="", err=""):
    """A row of a compiler that ends so."""
    (tmp_path / "libtpu").mkdir()
    monkeypatch.setenv(cases.FOLDER, str(tmp_path))
    done = subprocess.CompletedProcess([], code, out, err)
    monkeypatch.setattr(cases.subprocess, "run", lambda *args, **kwargs: done)
    return cases.compile_case(cases.Case("digits/quickstart", DIGITS, "v5e"))


def test_an_abort_of_the_compiler_is_a_result(monkeypatch, tmp_path):
    err = "I0102 harmless\nF0102 15:04:05.000000 1 a.cc:1] Check failed: x % y == 0\n@ 0x1 main\n"
    row = ended(monkeypatch, tmp_path, -6, err=err)
    assert row["error"].startswith("the compiler ended by SIGABRT: F0102")
    assert row["kind"] == "compiler"
    assert row["fits"] is None


def test_no_memory_is_a_result(monkeypatch, tmp_path):
    out = "noise\n" + json.dumps({"error": "RESOURCE_EXHAUSTED: ...", "kind": "out of memory"})
    row = ended(monkeypatch, tmp_path, 0, out)
    assert row["fits"] is False
    assert "RESOURCE_EXHAUSTED" in row["error"]


def test_data_whose_shape_is_unknown():
    with pytest.raises(ConfigError, match="needs a data set of known shape"):
        programs.dataset_like("folder:somewhere")


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion_mnist", "cifar10"])
def test_sizes_of_built_in_data(name):
    data = programs.dataset_like(name)
    assert data.train.image.strides[0] == 0  # no memory
    assert len(data.train) + len(data.test) in (1797, 70_000, 60_000)


def test_a_shortened_epoch_ends_as_the_whole_one():
    from flaxcnn.data import splits

    data = programs.dataset_like("digits")
    config = replace(DIGITS, batch_size=100)
    rows = splits.choose(data, config)
    short = programs.shortened(config, rows, 3)
    assert len(short.train) == 200 + len(rows.train) % 100
    assert (short.test == rows.test).all()
    assert len(programs.shortened(config, rows, 10**6).train) == len(rows.train)
