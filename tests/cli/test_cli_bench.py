"""`flaxcnn bench`: what it refuses before measuring, what it prints, what it leaves behind."""

import importlib.util
import json
import re

import jax
import pytest

from flaxcnn import bench
from flaxcnn.cli import bench as command
from flaxcnn.engine.epoch import EVAL_ROWS, eval_batch
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import Config
from flaxcnn.recipe.layers import Dense, Flatten

EVAL = eval_batch(devices=4)
QUICK = ("--seconds", "1e-6", "--repeats", "2")
KEYS = {
    "experiment", "mode", "batch_size", "dtype", "images_per_second", "spread", "compile_seconds",
    "flops_per_image", "flops_per_second", "share_of_peak", "bytes", "peak_memory", "steps",
    "repeats",
}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A small matrix product, and jax's settings as they were."""
    monkeypatch.setitem(bench.PEAK_SIZE, "cpu", 64)
    monkeypatch.setattr(command, "quiet", lambda: None)
    used = jax.config.jax_enable_compilation_cache
    yield
    jax.config.update("jax_enable_compilation_cache", used)


@pytest.mark.slow
def test_the_default_experiment_as_json(process):
    done = process("bench", "--seconds", "0.01", "--repeats", "2", "--json")
    assert done.code == 0, done.err
    rows = done.json["results"]
    assert [(r["experiment"], r["mode"], r["dtype"]) for r in rows] == [
        ("digits/quickstart", "train", "f32"),
        ("digits/quickstart", "eval", "f32"),
    ]
    assert rows[0]["batch_size"] == 32
    assert rows[1]["batch_size"] % EVAL_ROWS["cpu"] == 0  # by the number of devices there
    for row in rows:
        assert set(row) >= KEYS
        assert row["spread"][0] <= row["images_per_second"] <= row["spread"][1]
        assert row["repeats"] == 2
        assert row["steps"] >= 2
        # Not below 1: other work on the machine may fall on the matrix product alone.
        peak = done.json["peak"][0]["peak_flops_per_second"]
        assert row["share_of_peak"] == pytest.approx(row["flops_per_second"] / peak)
        assert row["share_of_peak"] > 0
    assert done.json["environment"]["versions"]["jax"]
    assert "digits/quickstart" in done.err  # the table, for people


def test_every_combination_once():
    config = Config(dataset="digits", layers=(Flatten(), Dense(10)))
    cases = command._cases("x", config, ["train", "eval"], [50, 100], ["float32", "bfloat16"])
    assert [(case.mode, case.batch_size, case.dtype) for case in cases] == [
        ("train", 50, "f32"), ("train", 50, "bf16"), ("train", 100, "f32"), ("train", 100, "bf16"),
        ("eval", EVAL, "f32"), ("eval", EVAL, "bf16"),
    ]  # fmt: skip
    assert [case.batch_size for case in command._cases("x", config, ["train"], [], [])] == [32]


def test_a_table_and_a_file(flaxcnn, home):
    done = flaxcnn("bench", "recipes.py:small", "--batch-sizes", "50", "--dtype", "bf16",
                   "--output", "out.json", *QUICK)  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads((home / "out.json").read_text())
    assert [(r["mode"], r["batch_size"], r["dtype"]) for r in found["results"]] == [
        ("train", 50, "bf16"), ("eval", EVAL, "bf16"),
    ]  # fmt: skip
    assert [row["dtype"] for row in found["peak"]] == ["bf16"]
    name, header, *lines = done.out.splitlines()
    assert name == "recipes/small"
    assert header.split()[:3] == ["mode", "batch", "dtype"]
    assert lines[0].split()[:3] == ["train", "50", "bf16"]
    assert len({len(line) for line in [header, *lines[:2]]}) == 1  # aligned
    assert len(header) <= 80
    assert lines[2].startswith("peak bf16: ")
    assert lines[-1] == "results out.json"
    assert done.err.splitlines() == [
        "warning: --batch-sizes applies to training only; evaluation has its own batch size",
        "warning: bf16: a CPU emulates bfloat16 in float32 and gains nothing from it",
    ]


def test_synthetic_data_need_no_data(flaxcnn, home):
    (home / "mnist.py").write_text(
        (home / "recipes.py").read_text().replace('dataset="digits"', 'dataset="mnist"')
    )
    arguments = ("bench", "mnist.py:small", "--mode", "eval", *QUICK, "--json")
    assert flaxcnn(*arguments).code == 3
    done = flaxcnn(*arguments, "--synthetic")
    assert done.code == 0, done.err
    assert done.json["results"][0]["flops_per_image"] == 2 * 28 * 28 * 10


def test_a_trace_of_every_case(flaxcnn, home):
    done = flaxcnn("bench", "recipes.py:small", "--profile", "traces", *QUICK)
    assert done.code == 0, done.err
    assert "tensorboard --logdir traces" in done.out
    assert "https://ui.perfetto.dev" in done.out
    for case in ("train-100-f32", f"eval-{EVAL}-f32"):
        folder = home / "traces" / f"recipes-small-{case}"
        assert list(folder.rglob("perfetto_trace.json.gz"))
        assert list(folder.rglob("*.xplane.pb"))  # what TensorBoard reads


@pytest.mark.parametrize(
    ("name", "begins"), [("r.png", b"\x89PNG"), ("r.svg", b"<?xml"), ("r.PDF", b"%PDF")]
)
def test_a_plot_is_of_the_kind_that_its_name_says(flaxcnn, home, name, begins):
    (home / "a.json").write_text(json.dumps(measured(1)))
    (home / "b.json").write_text(json.dumps(measured(3)))
    done = flaxcnn("bench", "--compare", "a.json", "b.json", "--plot", name)
    assert done.code == 0, done.err
    assert (home / name).read_bytes().startswith(begins)


def test_a_plot_of_what_was_measured(flaxcnn, home):
    done = flaxcnn("bench", "recipes.py:small", "--quick", "--repeats", "2", "--seconds", "1e-6",
                   "--mode", "eval", "--plot", "rates.pdf")  # fmt: skip
    assert done.code == 0, done.err
    assert (home / "rates.pdf").read_bytes().startswith(b"%PDF")


def measured(times, experiment="x"):
    """What bench writes, of a machine that trains `times` as fast and evaluates 2 % faster."""
    rows = [
        {"experiment": experiment, "mode": mode, "batch_size": size, "dtype": "f32",
         "images_per_second": rate, "spread": [rate * 0.9, rate * 1.1]}
        for mode, size, rate in (("train", 64, 1000 * times), ("eval", 500, 4000 * 1.02))
    ]  # fmt: skip
    return {"results": rows, "environment": {"device": "cpu"}}


def test_two_files_side_by_side(flaxcnn, home):
    (home / "a.json").write_text(json.dumps(measured(1)))
    (home / "b.json").write_text(json.dumps(measured(3)))
    train, evaluation = flaxcnn("bench", "--compare", "a.json", "b.json", "--json").json["ratios"]
    assert (train["ratio"], train["apart"]) == (3, True)
    assert train["range"] == pytest.approx([3 * 0.9 / 1.1, 3 * 1.1 / 0.9])
    assert evaluation["apart"] == (evaluation["range"][0] > 1.0)
    assert train["mode"] == "train"
    text = flaxcnn("bench", "--compare", "a.json", "b.json").out
    assert "3x" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["a.json"], 2, "--compare takes two files that --output wrote (got 1)"),
        (["a.json", "other.json"], 2, "--compare: a and other have no case in common: "),
        (["a.json", "recipes.py"], 5, "recipes.py: is damaged"),
        (["a.json", "list.json"], 5, "list.json: is not what `flaxcnn bench --output` writes"),
    ],
)
def test_files_that_cannot_be_compared(flaxcnn, home, arguments, code, message):
    (home / "a.json").write_text(json.dumps(measured(1)))
    (home / "other.json").write_text(json.dumps(measured(1, "y")))
    (home / "list.json").write_text("[]")
    done = flaxcnn("bench", "--compare", *arguments)
    assert (done.code, done.out) == (code, "")
    assert message in done.err


@pytest.mark.parametrize(
    ("option", "name", "kinds"), [("--plot", "b.jpg", "--plot writes .pdf, .svg or .png"),
                                  ("--output", "b.csv", "--output writes .json")],
)  # fmt: skip
def test_other_kinds_of_files_are_refused_before_measuring(flaxcnn, option, name, kinds):
    done = flaxcnn("bench", option, name)
    assert done.code == 2
    assert kinds in done.err


def test_a_failed_case_is_a_row_and_exit_1(flaxcnn, home, monkeypatch):
    real = bench.Program.run

    def run(self):
        if self.case.batch_size == 100:
            raise RuntimeError("out of memory")
        real(self)

    monkeypatch.setattr(bench.Program, "run", run)
    done = flaxcnn("bench", "recipes.py:small", "--mode", "train", "--batch-sizes", "100,50",
                   "--output", "out.json", "--json", *QUICK)  # fmt: skip
    assert done.code == 1
    failed, row = done.json["results"]
    assert failed["error"] == "RuntimeError: out of memory"
    assert set(failed) >= KEYS
    assert row["images_per_second"] > 0
    assert json.loads((home / "out.json").read_text()) == done.json
    assert "failed: RuntimeError: out of memory" in done.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], "--repeats must be at least 1 (got 0)"),
        (["--seconds", "0"], "--seconds must be a finite number above 0 (got 0)"),
        (["--seconds", "nan"], "--seconds must be a finite number above 0 (got nan)"),
        (["--mode", "trian"], "--mode takes train, eval, separated by commas (got 'trian'); "
                              "did you mean 'train'?"),
        (["--dtype", "f32,fb16"], "--dtype takes f32, tf32, bf16, separated by commas (got "
                                  "'fb16'); did you mean 'bf16'?"),
        (["--dtype", "float64"], "--dtype takes f32, tf32, bf16, separated by commas (got "
                                 "'float64')"),
        (["--batch-sizes", "64,-1"], "--batch-sizes takes integers of at least 1, separated by "
                                     "commas (got '-1')"),
        (["--batch-sizes", ""], "--batch-sizes takes integers of at least 1, separated by "
                                "commas (got '')"),
        (["--batch-sizes", "64,2000"], "--batch-sizes must be at most 1437, the training rows of "
                                       "digits (got 2000)"),
        (["digits/quikstart"], "unknown experiment 'digits/quikstart', see `flaxcnn experiments "
                               "list`; did you mean 'digits/quickstart'?"),
        (["--runs", "3"], "--runs=3 needs --to-accuracy"),
        (["--to-accuracy", "94"], "--to-accuracy must be a share between 0 and 1, such as 0.94 "
                                  "(got 94)"),
        (["--to-accuracy", "0.9", "--runs", "0"], "--runs must be at least 1 (got 0)"),
        (["--to-accuracy", "0.9", "--dtype", "bf16"], "--dtype does not apply to "
         "--to-accuracy, which times whole runs; use -s precision=bfloat16"),
        (["--to-accuracy", "0.9", "--mode", "train"], "--mode does not apply to "
         "--to-accuracy, which times whole runs"),
        (["--to-accuracy", "0.9", "-s", "patience=3"], "patience=3 is decided between epochs, and "
         "a whole run is one program; use patience=none"),
        (["own.py:boxes", "--synthetic"], "--synthetic needs a data set of known shape, digits, "
         "mnist, fashion_mnist or cifar10 (got 'folder:boxes')"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_one_line_and_exit_2(flaxcnn, home, arguments, message):
    (home / "own.py").write_text(
        (home / "recipes.py").read_text().replace('"digits"', '"folder:boxes"')
        .replace("small =", "boxes =").replace("config=small", "config=boxes")
    )  # fmt: skip
    done = flaxcnn("bench", *arguments)
    assert (done.code, done.out, done.err) == (2, "", f"error: {message}\n")


def test_whole_runs_to_an_accuracy(flaxcnn, home):
    """Two runs of two epochs, against a bar that they meet and one that they do not."""
    done = flaxcnn("bench", "--to-accuracy", "0.5", "--runs", "2", "--output", "runs.json",
                   "recipes.py:small")  # fmt: skip
    assert done.code == 0, done.err
    document = json.loads((home / "runs.json").read_text())
    (race,) = document["races"]
    assert [run["seed"] for run in race["runs"]] == [0, 1]
    assert (race["train_rows"], race["test_rows"]) == (1437, 360)
    assert (race["epochs"], race["steps"], race["reached"]) == (2, 30, True)
    # three times 640 multiply-adds of an image, less the gradient of the images
    assert race["training_flops"] == (3 * 2 - 2) * 640 * 30 * 100
    assert race["seconds"]["min"] <= race["seconds"]["median"] <= race["seconds"]["max"]
    assert race["accuracy"]["mean"] == sum(run["accuracy"] for run in race["runs"]) / 2
    assert 0 < race["p"] < 1
    assert document["environment"]["backend"] == "cpu"
    assert "bar      0.5 reached by the mean, p = " in done.out
    again = flaxcnn("bench", "--to-accuracy", "0.999", "--runs", "1", "recipes.py:small", "--json")
    (race,) = again.json["races"]
    assert (race["reached"], race["p"], race["accuracy"]["sd"]) == (False, None, None)


def test_experiments_of_the_help_text_exist():
    for name in re.findall(r"[a-z]+-[a-z]+/[\w-]+", command.bench.__doc__):
        assert catalog.find(name).config is not None, name


def test_a_grid_has_the_answer_of_train(flaxcnn):
    grids = [e for e in flaxcnn("experiments", "list", "--json").json if e["refusal"]]
    trained = flaxcnn("train", grids[0]["name"])
    assert trained.code == 2
    assert flaxcnn("bench", grids[0]["name"]) == trained


@pytest.mark.parametrize("option", ["--output", "--plot"])
def test_a_file_that_cannot_be_written_is_refused_before_measuring(flaxcnn, option, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    done = flaxcnn("bench", option, "nowhere/file")
    assert done.code == 6
    assert done.err.startswith(f"error: {option} nowhere/file: cannot be written")


def test_a_profile_folder_that_cannot_be_made(flaxcnn):
    done = flaxcnn("bench", "--profile", "recipes.py/traces")
    assert done.code == 6
    assert done.err == "error: --profile recipes.py/traces: Not a directory\n"
