"""One point of the study's cost, and the chart; how fast it is does not matter here."""

import argparse

import pytest

from benchmarks import study_scaling


@pytest.mark.soak
def test_a_point(tmp_path, monkeypatch):
    monkeypatch.setenv("FLAXCNN_CACHE_DIR", str(tmp_path / "cache"))
    options = argparse.Namespace(rows=500, epochs=1, repeats=1)
    point = study_scaling.measure("digits/quickstart", 2, "map", options)
    assert (point["seeds"], point["width"], point["epochs"]) == (2, 1, 1)
    assert point["ratio"] == point["study_seconds"] / (2 * point["run_seconds"]) > 0


def test_the_chart(tmp_path):
    points = [{"model": "digits/quickstart", "how": "auto", "seeds": n, "ratio": 1 / n}
              for n in (1, 2)]  # fmt: skip
    study_scaling.draw(points, tmp_path / "chart.svg")
    assert "digits/quickstart" in (tmp_path / "chart.svg").read_text()
