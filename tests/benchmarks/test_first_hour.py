"""The first hour on an accelerator: a step fails alone, and what the steps left is compared."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

from benchmarks import first_hour
from benchmarks.peers.__main__ import NEEDS
from benchmarks.peers.__main__ import parser as peers_parser
from flaxcnn.cli.main import app
from flaxcnn.data.sources import npz

ROOT = Path(first_hour.__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "first_hour.sh"
TEXT = SCRIPT.read_text().replace("\\\n", " ")


def test_what_bench_is_given_exists():
    known = {one for option in get_command(app).commands["bench"].params for one in option.opts}
    given = re.findall(r"--[\w-]+", " ".join(re.findall(r"bench=\((.*?)\)", TEXT)))
    assert given
    assert set(given) <= known


def test_what_peers_are_given_exists():
    (line,) = re.findall(r"python -m benchmarks\.peers (.*)", TEXT)
    known = {one for action in peers_parser()._actions for one in action.option_strings}
    assert set(re.findall(r"--[\w-]+", line)) <= known
    assert set(first_hour.installed_peers()) <= set(NEEDS)
    assert "flaxcnn" in first_hour.installed_peers()


def test_words_of_the_helper_are_those_it_knows():
    said = set(re.findall(r"python -m benchmarks\.first_hour (\w+)", TEXT))
    assert said == set(re.findall(r'case \["(\w+)"', Path(first_hour.__file__).read_text()))


def test_rows_can_be_read_and_differ_by_class(tmp_path):
    first_hour.write_rows(tmp_path / "rows.npz", 120)
    data = npz(tmp_path / "rows.npz")
    assert (data.shape, data.num_classes, len(data.train), len(data.test)) == (
        (28, 28, 1),
        10,
        120,
        20,
    )
    mean = [np.asarray(data.train.image)[data.train.label == one].mean(0) for one in range(10)]
    assert min(np.abs(a - b).max() for a in mean for b in mean if a is not b) > 50


# -- the script with commands that only tell -----------------------------------------------------


@pytest.fixture
def hour(tmp_path):
    """(what flaxcnn does, words) -> what the script ended with, and the folder of its results."""

    def run(flaxcnn, *words, folder="out", **environment):
        fakes = {
            "flaxcnn": f'echo "$FLAXCNN_GPU_GRAPHS $*" >> {tmp_path}/log\n{flaxcnn}',
            "python": 'case "$*" in\n'
            '  *"first_hour platform"*) echo \'{"backend": "tpu", "devices": 4}\' ;;\n'
            '  *benchmarks.peers*) echo \'{"comparison": {"models": []}}\' ;;\n'
            f'  *) exec {sys.executable} "$@" ;;\nesac',
        }
        for command, text in fakes.items():
            (tmp_path / command).write_text(f"#!/usr/bin/env bash\n{text}\n")
            (tmp_path / command).chmod(0o700)
        path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
        done = subprocess.run(
            [SCRIPT, *words, tmp_path / folder], env={**os.environ, "PATH": path, **environment},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        return done, tmp_path / folder

    return run


def test_a_step_that_fails_stops_no_other(hour, tmp_path):
    flaxcnn = """case "$*" in
      *cifar-tuning*) echo "error: no" >&2; exit 1 ;;
      *vmap*) exit 124 ;;
      *exact-1*|*exact-2*) echo '{"params_digest": "0e73"}' ;;
      *input=*|*batch_size=*) echo "{\\"params_digest\\": \\"aa\\", \\"images_per_second\\": $(wc -w <<< "$*")}" ;;
    esac"""  # noqa: E501
    done, folder = hour(flaxcnn, "--quick")
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "summary.json").read_text())
    verdicts = {row["step"]: row["verdict"] for row in found["steps"]}
    assert verdicts["bench-model1"] == "exit code 1"
    assert (folder / "bench-model1.log").read_text() == "error: no\n"
    assert verdicts["study-vmap"] == "stopped after 300 s"
    others = set(verdicts) - {"bench-model1", "bench-model1-no-graphs", "study-vmap", "machine"}
    assert {verdicts[step] for step in others} == {"done"}
    assert {"numerics", "devices-all-128", "devices-one-256", "input-stream", "peers"} <= others
    assert found["exact"] == [{"equal": True, "params_digests": ["0e73", "0e73"]}]
    assert [one["step"] for one in found["pairs"]] == [
        "devices-all-128", "devices-all-256", "input-stream",
    ]  # fmt: skip
    assert "determinism=exact twice: the same bits" in done.stdout
    log = (tmp_path / "log").read_text().splitlines()
    assert sum(line.startswith("0 bench") for line in log) == 4  # without graphs, as often as with


def test_what_no_longer_fits_is_left_out_and_said(hour, tmp_path):
    done, folder = hour("", "--quick", BUDGET="0")
    assert done.returncode == 0, done.stderr
    steps = json.loads((folder / "summary.json").read_text())["steps"]
    assert {row["verdict"] for row in steps} == {"left out"}
    assert not (tmp_path / "log").exists()
    assert "numerics: left out, the budget of 0 s is spent" in done.stdout


def test_an_hour_is_not_written_over_another(hour):
    hour("", "--quick", BUDGET="0")
    done, _ = hour("", "--quick", BUDGET="0")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "holds an hour already" in done.stderr


def test_unknown_words_are_refused(hour):
    done, folder = hour("", "--fast")
    assert done.returncode == 2
    assert "first_hour.sh --quick" in done.stderr
    assert not folder.exists()


# -- the summary ---------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    """A folder of results; (name, document) adds one."""
    (tmp_path / "steps.tsv").write_text("study-map\tdone\t50\nstudy-vmap\tdone\t30\n")

    def add(name, value):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.suffix == ".jsonl"
        path.write_text("\n".join(map(json.dumps, value)) if lines else json.dumps(value))
        return tmp_path

    return add


def bench(speed):
    row = {"experiment": "digits/quickstart", "mode": "train", "dtype": "f32", "batch_size": 32}
    return {"results": [{**row, "images_per_second": speed},
                        {**row, "mode": "eval", "images_per_second": None}]}  # fmt: skip


def test_graphs_are_compared_with_none(results):
    results("bench-quickstart.json", bench(300.0))
    (found,) = first_hour.summary(results("bench-quickstart-no-graphs.json", bench(200.0)))["bench"]
    assert found["with_over_without_graphs"] == 1.5
    (found,) = first_hour.summary(results("bench-quickstart-no-graphs.json", bench(None)))["bench"]
    assert found["with_over_without_graphs"] is None


def test_other_bits_are_shouted(results):
    results("exact-1.json", {"params_digest": "a"})
    found = first_hour.summary(results("exact-2.json", {"params_digest": "b"}))
    assert found["exact"][0]["equal"] is False
    assert found["lines"] == ["determinism=exact twice: OTHER BITS"]


def test_studies_are_compared_without_compilation(results):
    for how, compiling in (("map", 10.0), ("vmap", 20.0)):
        results(f"study-{how}.json", {"complete": 2})
        rows = [{"compile_seconds": compiling}, {"compile_seconds": 1.0}]
        folder = results(f"runs/study-{how}/runs.jsonl", rows)
    assert first_hour.summary(folder)["study"] == [{"map_seconds": 40.0, "vmap_seconds": 10.0}]


def test_seconds_to_each_goal(results):
    history = [{"seconds": 2.0, "val_accuracy": accuracy} for accuracy in (0.9, 0.975, 0.985)]
    found = first_hour.summary(results("runs/accuracy-model10/metrics.jsonl", history))
    assert found["accuracy"] == [
        {"model": "model10", "seconds_to": {"0.97": 4.0, "0.98": 6.0, "0.99": None}}
    ]
    assert found["lines"][0].endswith("0.97: 4.0 s, 0.98: 6.0 s, 0.99: not reached")


def test_peers_and_wrong_numerics(results, capsys):
    checks = [{"name": "sort", "verdict": "failed"}, {"name": "sums", "verdict": "ok"}]
    results("numerics.json", {"numerics": checks})
    train = {"best_peer": "torch", "ratio_to_best": 1.47}
    entry = {"model": "mnist-ladder/model10", "train": train}
    folder = results("peers.json", {"comparison": {"models": [entry]}})
    first_hour.show(folder)
    assert first_hour.summary(folder)["numerics_failed"] == ["sort"]
    out = capsys.readouterr().out
    assert "numerics: WRONG: sort" in out
    assert "mnist-ladder/model10: 1.47 times torch in training" in out


def test_numerics_that_were_not_run_are_not_called_right(results, capsys):
    first_hour.show(results("numerics.json", {"error": "no such back end"}))
    assert "numerics: not run" in capsys.readouterr().out


def test_what_cannot_be_read_hides_nothing_else(results):
    results("peers.json", {"comparison": {"models": [{}]}})
    results("exact-1.json", {"params_digest": "a"})
    found = first_hour.summary(results("exact-2.json", {"params_digest": "a"}))
    assert found["exact"][0]["equal"]
    assert found["lines"][-1].startswith("peers: cannot be read (KeyError")
