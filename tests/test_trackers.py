"""The lines of docs/trackers.md, run with stand-ins that record what trackers are told."""

import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import flaxcnn

PAGE = Path(__file__).resolve().parents[1] / "docs" / "trackers.md"
HISTORY = [
    {"epoch": 1, "train_loss": 0.5, "val_loss": None, "val_accuracy": 0.75, "best": True},
    {"epoch": 2, "train_loss": 0.25, "val_loss": 0.5, "val_accuracy": 0.875, "best": True},
]


def blocks():
    """Heading -> its code in Python, without what is marked as not to be run."""
    found = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        for mark, code in re.findall(r"(<!-- not run -->\n\n)?```python\n(.*?)```", section, re.S):
            if not mark:
                found[section.splitlines()[0]] = code
    return found


@pytest.fixture
def run(tmp_path):
    """As much of a run directory as trackers read."""
    path = tmp_path / "20261120-101500-seed0"
    path.mkdir()
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in HISTORY))
    (path / "config.json").write_text(json.dumps({"epochs": 2, "layers": [{"type": "flatten"}]}))
    (path / "summary.json").write_text(json.dumps({"test_accuracy": 0.9375}))
    return path


@pytest.fixture
def told(monkeypatch):
    """Calls of the stand-ins for wandb and mlflow, in order: (name, arguments, keywords)."""
    calls = []

    class Session(SimpleNamespace):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            calls.append(("end", (), {}))

    def recorded(name, result=None):
        def call(*arguments, **keywords):
            calls.append((name, arguments, keywords))
            return result

        return call

    summary = {}
    wandb, mlflow = ModuleType("wandb"), ModuleType("mlflow")
    wandb.init = recorded("init", Session(log=recorded("log"), summary=summary))
    mlflow.start_run = recorded("start_run", Session())
    for name in ("log_params", "log_dict", "log_metrics", "log_metric"):
        setattr(mlflow, name, recorded(name))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return SimpleNamespace(calls=calls, summary=summary)


def test_the_page_has_these_programs():
    assert list(blocks()) == ["Weights & Biases", "MLflow", "While a run trains"]


def test_weights_and_biases(run, told):
    exec(blocks()["Weights & Biases"], {"run_dir": str(run)})
    begun, *logged, ended = told.calls
    assert begun[2] == {"project": "flaxcnn", "name": run.name,
                        "config": json.loads((run / "config.json").read_text())}  # fmt: skip
    rows = [arguments[0] for _, arguments, _ in logged]
    assert [row["train_loss"] for row in rows] == [0.5, 0.25]
    assert rows[0]["val_loss"] != rows[0]["val_loss"], "nan"
    assert [keywords for _, _, keywords in logged] == [{"step": 1}, {"step": 2}]
    assert told.summary == {"test_accuracy": 0.9375}
    assert ended[0] == "end"


def test_mlflow(run, told):
    exec(blocks()["MLflow"], {"run_dir": str(run)})
    names = [name for name, _, _ in told.calls]
    assert names == ["start_run", "log_params", "log_dict", "log_metrics", "log_metrics",
                     "log_metric", "end"]  # fmt: skip
    assert told.calls[1][1] == ({"epochs": 2},)
    for _, (values,), keywords in told.calls[3:5]:
        assert all(type(value) is float for value in values.values()), "MLflow takes numbers only"
        assert keywords == {"step": values["epoch"]}
    assert told.calls[5][1] == ("test_accuracy", 0.9375)


def test_while_a_run_trains(told, monkeypatch):
    def train(on_epoch):
        for row in HISTORY:
            on_epoch(row)

    monkeypatch.setattr(flaxcnn, "train", train, raising=False)
    exec(blocks()["While a run trains"], {})
    assert [c[2].get("step") for c in told.calls if c[0] == "log"] == [1, 2]
