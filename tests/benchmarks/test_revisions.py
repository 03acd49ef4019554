"""Two checkouts timed in turn."""

import json
from pathlib import Path

import pytest

from benchmarks import revisions

ROOT = Path(__file__).resolve().parents[2]


class Worker:
    """One that needs a second for `images` images."""

    rates = {"before": 100, "after": 150}  # noqa: RUF012

    def __init__(self, peer, threads, cache_dir, cpu_only, checkout):
        self.side = checkout.name

    def ask(self, do, *_, **__):
        return {"images": self.rates[self.side], "seconds": 1.0}

    def close(self):
        pass


def test_ratios_are_taken_turn_by_turn_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(revisions, "Worker", Worker)
    monkeypatch.setattr(revisions, "task", lambda *_: {})
    monkeypatch.setattr(revisions, "revision", lambda checkout: checkout.name)
    for side in ("before", "after"):
        (tmp_path / side).mkdir()
    output = tmp_path / "out.json"
    arguments = ["--before", str(tmp_path / "before"), "--after", str(tmp_path / "after"),
                 "--repeats", "3", "--output", str(output), "--models"]  # fmt: skip
    assert revisions.main([*arguments, "a"]) == 0
    assert revisions.main([*arguments, "b,a"]) == 0
    assert "a: train 1.500 (1.500 to 1.500)" in capsys.readouterr().out
    results = json.loads(output.read_text())
    assert [row["model"] for row in results["rows"]] == ["b", "a"]  # one row a model, the newest
    assert results["geometric_mean"] == {
        "train": pytest.approx(1.5), "evaluate": pytest.approx(1.5),
    }  # fmt: skip
    assert results["rows"][0]["rates"]["before"]["train"] == [100.0] * 3


@pytest.mark.soak
def test_a_checkout_beside_itself(tmp_path):
    output = tmp_path / "out.json"
    revisions.main(["--before", str(ROOT), "--after", str(ROOT), "--models", "digits/quickstart",
                    "--repeats", "1", "--output", str(output)])  # fmt: skip
    (row,) = json.loads(output.read_text())["rows"]
    assert row["train"]["median"] > 0
    assert row["before"] == row["after"]
