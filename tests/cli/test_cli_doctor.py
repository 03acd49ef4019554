"""`flaxcnn doctor`: every finding has a name and a verdict, and a bad one is the exit code."""

import os

import pytest

from flaxcnn import backend, doctor


def test_a_sound_machine(flaxcnn):
    done = flaxcnn("doctor", "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json["ok"] is True
    found = {check["name"]: check for check in done.json["checks"]}
    assert {"jax", "jaxlib", "flax", "python", "devices", "sums", "XLA_FLAGS"} <= set(found)
    assert found["sums"]["verdict"] == "ok"
    assert found["data digits"]["verdict"] == "ok"
    assert "flaxcnn data prepare mnist" in found["data mnist"]["detail"]
    lines = flaxcnn("doctor").out.splitlines()
    assert [line[9:31].strip() for line in lines] == list(found)
    assert {line[:8].strip() for line in lines} <= {"ok", "warning"}


def test_wrong_sums_are_bad(flaxcnn, monkeypatch):
    monkeypatch.setattr(backend, "sums_are_right", lambda: False)
    done = flaxcnn("doctor", "--json")
    assert done.code == 1
    assert done.json["ok"] is False
    (bad,) = [check for check in done.json["checks"] if check["verdict"] == "bad"]
    assert bad["name"] == "sums"
    assert backend.MENDING_FLAG in bad["detail"]


def test_a_folder_that_cannot_be_written_is_bad(flaxcnn, monkeypatch, home):
    (home / "locked").mkdir()
    monkeypatch.setenv("FLAXCNN_RUNS_DIR", str(home / "locked" / "runs"))
    access = os.access
    monkeypatch.setattr(  # root may write everywhere
        os, "access", lambda path, mode: path != home / "locked" and access(path, mode)
    )
    done = flaxcnn("doctor")
    assert done.code == 1
    assert (
        f"bad      runs folder            {home / 'locked' / 'runs'}: cannot be written" in done.out
    )


def test_a_full_disk_is_a_warning(flaxcnn, monkeypatch):
    monkeypatch.setattr(doctor, "LOW_DISK_BYTES", 2**62)
    done = flaxcnn("doctor", "--json")
    assert done.code == 0
    folders = [c for c in done.json["checks"] if c["name"].endswith(" folder")]
    assert [c["verdict"] for c in folders] == ["warning"] * 3


@pytest.mark.parametrize("name", ["FLAXCNN_CACHE_DIR", "FLAXCNN_DATA_DIR", "FLAXCNN_RUNS_DIR"])
def test_a_file_where_a_folder_should_be_is_bad(flaxcnn, monkeypatch, home, name):
    monkeypatch.setenv(name, str(home / "recipes.py" / "below"))
    done = flaxcnn("doctor")
    assert done.code == 1
    assert "Traceback" not in done.err
    assert [line[:3] for line in done.out.splitlines() if " folder" in line].count("bad") == 1
