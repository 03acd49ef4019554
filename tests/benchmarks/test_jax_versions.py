"""Releases of jax timed in turn."""

import json
import sys

import pytest

from benchmarks import jax_versions


def test_ratios_are_of_the_same_turn_and_rows_are_kept(tmp_path, monkeypatch, capsys):
    class Fake:
        """A process that says its versions, then times that grow from turn to turn."""

        def __init__(self, name):
            self.cost, self.turn, self.stdin = {"old": 1.0, "new": 2.0}[name], 0, sys.stderr

        def kill(self):
            pass

        communicate = kill

    def answer(one):
        one.turn += 1
        return {"jax": "1"} if one.turn == 1 else [one.cost * one.turn, 9.0]

    monkeypatch.setattr(jax_versions, "start", lambda setup, model, core: Fake(setup))
    monkeypatch.setattr(jax_versions, "answer", answer)
    output = tmp_path / "out.json"
    words = ["--setup", "a=old", "--setup", "b=new", "--repeats", "3", "--output", str(output)]
    assert jax_versions.main([*words, "--models", "one"]) == 0
    assert jax_versions.main([*words, "--models", "two,one"]) == 0
    assert "speed b 0.50" in capsys.readouterr().out
    results = json.loads(output.read_text())
    assert [row["model"] for row in results["rows"]] == ["two", "one"]
    assert results["rows"][0]["cpu_ms"]["a"] == [2.0, 3.0, 4.0]
    assert results["geometric_mean"] == {"b": pytest.approx(0.5)}


@pytest.mark.soak
def test_an_interpreter_beside_itself(tmp_path):
    output = tmp_path / "out.json"
    setup = ["--setup", f"a={sys.executable}", "--setup", f"b={sys.executable}"]
    jax_versions.main([*setup, "--models", "digits/quickstart", "--repeats", "1",
                       "--output", str(output)])  # fmt: skip
    (row,) = json.loads(output.read_text())["rows"]
    assert row["speed"]["b"]["median"] > 0
