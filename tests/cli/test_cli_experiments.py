"""`flaxcnn`, its help and `flaxcnn experiments`: everything that must come at once, without jax."""

import json
import os
import subprocess
import sys

import pytest

import flaxcnn as package
from flaxcnn.cli.main import app
from flaxcnn.recipe import catalog

COUNT = 38  # the documents' 34, three ablations and the quickstart
MODELS = [name for name, e in catalog.experiments().items() if e.kind == "model" and e.document]
COMMANDS = [
    ("train",),
    ("evaluate",),
    ("predict",),
    ("experiments", "list"),
    ("experiments", "show"),
    ("experiments", "run"),
    ("experiments", "table"),
    ("experiments", "gallery"),
    ("data", "list"),
    ("data", "prepare"),
    ("data", "verify"),
    ("data", "path"),
    ("doctor",),
]


def test_every_command_is_here():
    """So that a new one gets its help and its --json looked at."""
    found = {(c.name or c.callback.__name__,) for c in app.registered_commands} | {
        (group.name, (c.name or c.callback.__name__).rstrip("_"))
        for group in app.registered_groups
        for c in group.typer_instance.registered_commands
    }
    assert set(COMMANDS) <= found


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_an_example_and_the_options(flaxcnn, command):
    done = flaxcnn(*command, "--help")
    assert (done.code, done.err) == (0, "")
    assert f"  flaxcnn {' '.join(command)}" in done.out.split("Example", 1)[1]
    assert "--json" in done.out


def test_no_arguments_show_the_help(flaxcnn):
    done = flaxcnn()
    assert done.code == 0
    assert done.out == flaxcnn("--help").out
    assert all(f"\n  {command[0]} " in done.out for command in COMMANDS)


def test_groups_without_a_command_list(flaxcnn):
    assert flaxcnn("experiments").out == flaxcnn("experiments", "list").out
    assert flaxcnn("data").out == flaxcnn("data", "list").out


def test_list_has_an_entry_for_every_experiment(flaxcnn):
    done = flaxcnn("experiments", "list", "--json")
    assert (done.code, done.err) == (0, "")
    assert len(done.json) == COUNT
    for entry in done.json:
        assert {"name", "dataset", "params", "document"} <= set(entry)
        assert isinstance(entry["name"], str)
        assert entry["params"] is None or entry["params"] > 0
    assert len({entry["name"] for entry in done.json}) == COUNT
    lines = flaxcnn("experiments", "list").out.splitlines()
    assert len(lines) == COUNT + 1
    for line, entry in zip(lines[1:], done.json, strict=True):
        assert line.startswith(entry["name"] + " ")


def test_there_are_28_models():
    assert len(MODELS) == 28


@pytest.mark.parametrize("name", MODELS)
def test_show_every_model(flaxcnn, name):
    done, text = (
        flaxcnn("experiments", "show", name, "--json"),
        flaxcnn("experiments", "show", name),
    )
    assert (done.code, done.err) == (text.code, text.err) == (0, "")
    found = done.json
    assert found["name"] == name
    assert found["params"] == found["totals"]["params"] == sum(r["params"] for r in found["layers"])
    lines = text.out.splitlines()
    for row in found["layers"]:
        assert any(x.startswith(f"{row['name']} ") and f" {row['params']:,} " in x for x in lines)
    assert f"total parameters      {found['params']:,} (" in text.out


def test_show_what_is_no_model(flaxcnn):
    others = [name for name in catalog.experiments() if name not in MODELS]
    for name in others:
        assert flaxcnn("experiments", "show", name).code == 0
        assert flaxcnn("experiments", "show", name, "--json").json["name"] == name


def test_show_one_of_a_file(flaxcnn):
    done = flaxcnn("experiments", "show", "recipes.py:small", "--json")
    assert done.json["params"] == 650
    assert [row["name"] for row in done.json["layers"]] == ["flatten", "dense"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("trian",), "did you mean 'train'?"),
        (("experiments", "shwo", "x"), "did you mean 'show'?"),
        (("experiments", "show", "mnist-lader/model10"), "did you mean 'mnist-ladder/model10'?"),
        (("experiments", "show", "model10"), "did you mean 'mnist-ladder/model10'?"),
        (("experiments", "show", "recipes.py:smal"), "did you mean 'small'?"),
        (("experiments", "show", "nowhere.py:small"), "no file nowhere.py"),
        (("experiments", "show"), "missing argument"),
        (("train", "--epochs", "3"), "no such option: --epochs"),
        (("train", "a", "b"), "unexpected extra argument"),
        (("train", "--seed", "x"), "invalid value for '--seed'"),
    ],
)
def test_a_wrong_command_line_is_one_line_with_the_near_miss(flaxcnn, arguments, says):
    done = flaxcnn(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert says in done.err.lower()
    asked = flaxcnn(*arguments, "--json")
    assert (asked.code, asked.json["exit_code"]) == (2, 2)
    if "--json" not in asked.json["error"]:  # a command that does not exist knows no option either
        assert done.err == f"error: {asked.json['error']}\n"


# -- in a process of its own ---------------------------------------------------------------------

WITHOUT_JAX = """
import sys
from flaxcnn.cli.main import main
try:
    main({arguments!r})
except SystemExit as end:
    assert not end.code, end.code
found = {{'jax', 'tensorflow_datasets', 'sklearn', 'orbax'}} & set(sys.modules)
assert not found, found
"""


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["train", "--help"], ["bench", "--help"], ["experiments", "list"],
     ["train", "--print-config"], ["experiments", "show", "mnist-ladder/model10"],
     ["experiments", "run", "--help"], ["experiments", "table", "--help"],
     ["experiments", "gallery", "--help"], ["data", "--help"], ["--version"]],
    ids=" ".join,
)  # fmt: skip
def test_what_must_come_at_once_imports_no_jax(process, arguments):
    done = process(code=WITHOUT_JAX.format(arguments=arguments))
    assert done.code == 0, done.err


def test_python_m_flaxcnn(process):
    done = process("--version")
    assert (done.code, done.out, done.err) == (0, f"flaxcnn {package.__version__}\n", "")
    assert process("experiments", "show", "model99").code == 2


@pytest.mark.parametrize("arguments", [("experiments", "list"), ("experiments", "list", "--json")])
def test_a_reader_that_has_enough(arguments):
    """`flaxcnn ... | head -1`: the pipe is closed before anything is written to it."""
    child = subprocess.Popen(
        [sys.executable, "-m", "flaxcnn", *arguments], env=dict(os.environ),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    child.stdout.close()
    error = child.stderr.read().decode()
    child.stderr.close()
    assert child.wait(300) == 0
    assert error == ""


def test_json_is_ascii_or_utf8_whatever_the_locale(process):
    done = process("experiments", "list", "--json", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert done.code == 0, done.err
    assert len(json.loads(done.out)) == COUNT
