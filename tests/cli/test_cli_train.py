"""`flaxcnn train`: what it prints, where its settings come from, what it leaves behind."""

import json

import pytest
import typer

from flaxcnn.cli import train
from flaxcnn.recipe.config import Config


def settings(flaxcnn, *arguments):
    """(config, origins) that --print-config --json shows."""
    done = flaxcnn("train", "recipes.py:small", "--print-config", "--json", *arguments)
    assert done.code == 0, done.err
    return done.json["config"], done.json["origins"]


def test_json_is_one_document_and_text_goes_to_stderr(trained):
    done, run = trained
    assert json.loads((run / "summary.json").read_text()) == {
        k: v for k, v in done.json.items() if k != "run_dir"
    }
    assert done.json["run_dir"] == str(run)
    lines = done.err.splitlines()
    assert "650 parameters on digits, 3 epochs of batch 100, seed 0, honest protocol" in done.err
    assert [x[:11] for x in lines if x.startswith("epoch")] == [f"epoch   {i}/3" for i in (1, 2, 3)]
    assert f"test accuracy {done.json['test_accuracy']:.4f}" in done.err
    assert f"run    {run}" in done.err


def test_a_suspicious_value_is_warned_of_and_trained(trained):
    warnings = [x for x in trained[0].err.splitlines() if x.startswith("warning:")]
    assert warnings == ["warning: patience=3 never stops a run of epochs=3"]


def test_text_goes_to_stdout_and_the_run_to_its_place(flaxcnn, home, monkeypatch):
    monkeypatch.setenv("FLAXCNN_RUNS_DIR", str(home / "elsewhere"))
    done = flaxcnn("train", "recipes.py:small", "-s", "epochs=1", "--seed", "7",
                   "-s", "optimizer=adam", "-s", "optimizer.epsilon=0.1")  # fmt: skip
    assert done.code == 0, done.err
    (run,) = (home / "elsewhere" / "recipes" / "small").iterdir()
    assert run.name.endswith("-seed7")
    assert "epoch   1/1" in done.out
    short = run.relative_to(home)
    assert f"report {short / 'report.html'}" in done.out
    assert f"next   flaxcnn report {short} --open" in done.out
    assert done.out.endswith(
        "flaxcnn study recipes.py:small --seeds 8 -s epochs=1 -s optimizer=adam "
        "-s optimizer.epsilon=0.1\n"
    )
    assert (run / "report.html").stat().st_size > 50_000
    assert len(list(run.glob("plots/*.svg"))) >= 6
    assert done.err == (
        "warning: optimizer.epsilon=0.1 is so large that Adam hardly moves; "
        "the usual value is 1e-7\n"
    )
    assert json.loads((run / "config.json").read_text())["learning_rate"] == 1e-3


def test_divergence_exits_4(flaxcnn):
    done = flaxcnn(
        "train", "recipes.py:small", "-s", "learning_rate=1e38", "--run-dir", "run", "--json"
    )
    assert done.code == 4
    assert done.json["exit_code"] == 4
    assert "learning_rate (now 1e+38)" in done.json["error"]
    assert done.err.splitlines()[-1] == f"error: {done.json['error']}"


def test_every_source_overrides_the_one_before_it(flaxcnn, home, monkeypatch):
    """defaults < experiment < --config < FLAXCNN_* < -s."""
    (home / "five.toml").write_text("seed = 5\nepochs = 5\nbatch_size = 5\n")
    seen = [settings(flaxcnn)]
    seen.append(settings(flaxcnn, "--config", "five.toml"))
    monkeypatch.setenv("FLAXCNN_SEED", "6")
    monkeypatch.setenv("FLAXCNN_EPOCHS", "6")
    seen.append(settings(flaxcnn, "--config", "five.toml"))
    seen.append(settings(flaxcnn, "--config", "five.toml", "-s", "seed=7"))
    found = [[config[key] for key in ("batch_size", "epochs", "seed")] for config, _ in seen]
    assert found == [[100, 2, 0], [5, 5, 5], [5, 6, 6], [5, 6, 7]]
    origins = seen[-1][1]
    assert origins["batch_size"] == "file five.toml"
    assert origins["epochs"] == "environment"
    assert origins["seed"] == "command line"
    assert origins["patience"] == "experiment"


def test_toml_json_and_assignments_say_the_same(flaxcnn, home):
    (home / "a.toml").write_text('optimizer = {type = "sgd", momentum = 0.9}\nlearning_rate = 1.0')
    (home / "a.json").write_text(
        '{"optimizer": {"type": "sgd", "momentum": 0.9}, "learning_rate": 1}'
    )
    texts = ("-s", "optimizer=sgd", "-s", "optimizer.momentum=0.9", "-s", "learning_rate=1.0")
    found = [
        settings(flaxcnn, *arguments)[0]
        for arguments in (("--config", "a.toml"), ("--config", "a.json"), texts)
    ]
    assert found[0] == found[1] == found[2]
    assert found[0]["optimizer"]["momentum"] == 0.9


def test_a_command_is_a_function_with_plain_values(capsys):
    train.train("recipes.py:small", assignments=["epochs=3"], print_config=True, as_json=True)
    assert json.loads(capsys.readouterr().out)["config"]["epochs"] == 3
    with pytest.raises(typer.Exit) as ended:
        train.train("recipes.py:smal", as_json=True)
    assert ended.value.exit_code == 2
    assert "did you mean 'small'?" in json.loads(capsys.readouterr().out)["error"]


def test_printed_config_names_origins_and_trains_nothing(flaxcnn, home):
    before = sorted(home.iterdir())
    done = flaxcnn("train", "recipes.py:small", "--print-config", "-s", "optimizer.momentum=0.9")
    shown = done.out.splitlines()
    groups = [line for line in shown if line.startswith("# ")]
    assert groups == ["# data", "# model", "# optimisation", "# evaluation", "# execution"]
    lines = dict(line.split(" = ", 1) for line in shown if line not in groups)
    assert set(lines) == set(Config.__dataclass_fields__)
    assert lines["epochs"] == "2  # experiment"
    assert lines["optimizer"].endswith("# experiment; optimizer.momentum from command line")
    assert sorted(home.iterdir()) == before


def test_the_printed_config_is_a_config(flaxcnn):
    done = flaxcnn("train", "recipes.py:small", "--print-config", "--json")
    config = Config.from_dict(done.json["config"])
    assert config.fingerprint() == done.json["fingerprint"]


def test_a_variable_that_means_nothing_is_said(flaxcnn, monkeypatch):
    monkeypatch.setenv("FLAXCNN_EPOCS", "3")
    monkeypatch.setenv("FLAXCNN_OPTIMIZER__MOMENTUM", "0.5")
    done = flaxcnn("train", "recipes.py:small", "--print-config", "--json")
    assert done.code == 0
    assert done.err == (
        "warning: ignoring unknown environment variable FLAXCNN_EPOCS; did you mean 'EPOCHS'?\n"
    )
    assert done.json["config"]["optimizer"]["momentum"] == 0.5


def test_experiments_of_a_file_have_their_own_names(flaxcnn):
    for name in ("recipes.py:small", "recipes.py:mine/named"):
        assert flaxcnn("train", name, "--print-config").code == 0


def test_without_a_name_it_is_the_quickstart(flaxcnn):
    done = flaxcnn("train", "--print-config", "--json")
    assert done.json["config"]["dataset"] == "digits"
    named = flaxcnn("train", "digits/quickstart", "--print-config", "--json")
    assert named.json == done.json


def test_the_document_protocol_is_flagged(flaxcnn):
    honest = flaxcnn("train", "mnist-ladder/model10", "--print-config", "--json")
    document = flaxcnn(
        "train", "mnist-ladder/model10", "--protocol", "document", "--print-config", "--json"
    )
    assert honest.json["config"]["protocol"] == "honest"
    assert document.json["config"]["protocol"] == "document"
    assert document.json["fingerprint"] != honest.json["fingerprint"]


# -- directories ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "holds a run already; add --resume to continue it"),
        (("--resume", "--seed", "9"), "different recipe: seed (seed was 0, now 9)"),
        (("--resume", "-s", "epochs=2"), "which run directory"),
    ],
)
def test_a_run_that_is_there(flaxcnn, copied, arguments, says):
    before = {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()}
    done = flaxcnn("train", "recipes.py:small", "-s", "patience=3", "--run-dir", copied, *arguments)
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert says in done.err
    assert {p: p.read_bytes() for p in copied.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--run-dir", "full"), 2, "holds thesis.tex but no run"),
        (("--run-dir", "recipes.py"), 6, "recipes.py"),
        (("--run-dir", "recipes.py/run"), 6, "recipes.py/run: Not a directory"),
        (("--run-dir", "nothing", "--resume"), 5, "--resume: there is no run in nothing"),
        (("--resume",), 5, "no run of this recipe and seed in runs/recipes/small"),
    ],
)
def test_places_that_cannot_be(flaxcnn, home, arguments, code, says):
    (home / "full").mkdir()
    (home / "full" / "thesis.tex").write_text("")
    before = sorted(home.rglob("*"))
    done = flaxcnn("train", "recipes.py:small", *arguments)
    assert done.code == code
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert says in done.err
    assert [p for p in sorted(home.rglob("*")) if "__pycache__" not in str(p)] == before


@pytest.mark.slow
def test_the_second_start_compiles_nothing_and_neither_does_a_resume(process, tmp_path):
    """Every program comes out of the kept ones: none is added, and the bits are the same."""
    kept = tmp_path / "cache" / "compiled"
    first = process("train", "recipes.py:small", "--json")
    programs = sorted(path.name for path in kept.rglob("*-cache"))
    assert programs
    second = process("train", "recipes.py:small", "--run-dir", "second", "-s", "epochs=4", "--json")
    third = process("train", "recipes.py:small", "--json")
    assert (first.code, second.code, third.code) == (0, 0, 0)
    assert "error" not in (second.err + third.err).lower()  # XLA's complaints of its own entries
    assert sorted(path.name for path in kept.rglob("*-cache")) == programs
    assert third.json["params_digest"] == first.json["params_digest"]


@pytest.mark.slow
def test_no_cache_keeps_nothing(process, tmp_path):
    done = process("train", "recipes.py:small", "--no-cache")
    assert done.code == 0, done.err
    assert not (tmp_path / "cache" / "compiled").exists()
