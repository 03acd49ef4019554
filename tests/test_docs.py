"""What the documentation says is what the program does."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.main import get_command

import flaxcnn
from flaxcnn.cli.main import app
from flaxcnn.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DivergedError,
    FlaxcnnError,
    PeerLostError,
    WriteError,
)
from flaxcnn.recipe import catalog
from flaxcnn.recipe.config import GROUPS
from flaxcnn.recipe.fields import table
from flaxcnn.results.rows import Results
from flaxcnn.results.table import page

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def commands(group, prefix="flaxcnn"):
    """(words, command) of every command a user can type."""
    for name, command in group.commands.items():
        words = f"{prefix} {name}"
        if hasattr(command, "commands"):
            yield from commands(command, words)
        else:
            yield words, command


COMMANDS = dict(commands(get_command(app)))


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_is_in_the_readme_and_has_an_example(words):
    assert re.search(rf"`{words}[ `]", README), f"README does not name `{words}`"
    assert words in COMMANDS[words].help


@pytest.mark.parametrize("words", COMMANDS)
def test_every_option_has_a_help_text(words):
    for parameter in COMMANDS[words].params:
        assert getattr(parameter, "help", "") or parameter.name == "help", parameter.name


def test_commands_named_in_the_readme_exist():
    for words in re.findall(r"`(flaxcnn [a-z]+(?: (?:list|show|prepare|verify|path))?)", README):
        assert words in COMMANDS or any(known.startswith(f"{words} ") for known in COMMANDS), words


def test_the_table_of_settings_is_the_declared_one():
    """It is generated: `flaxcnn.recipe.fields.table(*flaxcnn.recipe.config.GROUPS)` renders it."""
    shown = README.split("<!-- settings -->")[1].split("<!-- /settings -->")[0]
    assert shown.strip() == table(*GROUPS)


def test_exit_codes_are_the_documented_ones():
    table = README.split("<!-- exit codes -->")[1].split("<!-- /exit codes -->")[0]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)}
    classes = (FlaxcnnError, ConfigError, DataError, DivergedError, CheckpointError, WriteError,
               PeerLostError)  # fmt: skip
    assert documented == {0, 130, *(each.exit_code for each in classes)}


def test_experiments_named_in_the_readme_exist():
    for name in re.findall(r"\b((?:digits|mnist|fashion|cifar)-?\w*/[\w-]+)", README):
        assert name in catalog.experiments(), name


def test_version_is_in_the_changelog():
    assert re.search(rf"^## \[{re.escape(flaxcnn.__version__)}\]", changelog(), re.M)


def changelog():
    return (ROOT / "CHANGELOG.md").read_text()


def test_results_page_is_generated():
    """RESULTS.md is what its records give: figures are never typed."""
    folder = catalog.experiments_folder()
    results = Results(folder / "results")
    assert (folder / "RESULTS.md").read_text() == page(results)
    for row in results.rows():
        assert row["environment"]["source_revision"], row["experiment"]


def test_constraints_pin_every_dependency_without_hosts():
    text = (ROOT / "constraints.txt").read_text()
    pinned = {re.split("==", line)[0].lower().replace("_", "-")
              for line in text.splitlines() if "==" in line}  # fmt: skip
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = project["dependencies"] + project["optional-dependencies"]["test"]
    names = {re.match(r"[A-Za-z0-9-]+", one)[0].lower() for one in needed}
    assert names <= pinned
    assert "://" not in text


def test_import_is_light():
    """`import flaxcnn` and the command line's own modules load neither jax nor numpy."""
    heavy = {"jax", "numpy", "rich", "matplotlib", "jinja2"}
    code = f"import flaxcnn, flaxcnn.cli.main, sys; print({heavy} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_every_public_name_is_there():
    assert sorted(flaxcnn._LAZY) == sorted(flaxcnn.__all__)
    for name in flaxcnn.__all__:
        assert callable(getattr(flaxcnn, name)), name
        assert getattr(flaxcnn, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        flaxcnn.tarin  # noqa: B018
