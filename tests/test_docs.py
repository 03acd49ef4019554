"""What the documentation says is what the program does."""

import ast
import doctest
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlparse

import pytest
import yaml

import flaxcnn
from docs import generate
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
from flaxcnn.recipe.config import Config
from flaxcnn.results.rows import Results
from flaxcnn.results.table import page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text()
PAGES = {str(path.relative_to(ROOT)): path.read_text() for path in (
    *sorted(DOCS.rglob("*.md")), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md",
                                                            "cloud/README.md")))}  # fmt: skip
COMMANDS = dict(generate.commands())
TRAINING = {module for name, module in flaxcnn._LAZY.items() if name != "history"}
LONGEST_README = 180  # lines that a newcomer reads to the end
GROUPS = "list|show|run|table|gallery|prepare|verify|path|check"
COMMAND = re.compile(rf"flaxcnn [a-z-]+(?: (?:{GROUPS})\b)?")


def shell(text):
    """What a page tells one to type: lines of shell blocks, and code in sentences."""
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)).replace("\\\n", " ")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    lines = blocks.splitlines() + re.findall(r"`([^`\n]+)`", prose)
    return [line.split(" #")[0] for line in lines if re.match(r"flaxcnn [a-z]", line)]


def named(page):
    return pytest.param(PAGES[page], id=page)


ALL = [named(page) for page in PAGES]


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_is_documented_and_has_an_example(words):
    assert f"## {words}\n" in (DOCS / "reference" / "commands.md").read_text()
    assert words in COMMANDS[words].help


@pytest.mark.parametrize("words", COMMANDS)
def test_every_option_has_a_help_text(words):
    for parameter in COMMANDS[words].params:
        assert getattr(parameter, "help", "") or parameter.name == "help", parameter.name


@pytest.mark.parametrize("text", ALL)
def test_commands_that_pages_name_exist(text):
    for line in shell(text):
        words = COMMAND.match(line)[0]
        assert words in COMMANDS or any(known.startswith(f"{words} ") for known in COMMANDS), line


@pytest.mark.parametrize("text", ALL)
def test_options_that_pages_use_exist(text):
    for line in shell(text):
        words = COMMAND.match(line)[0]
        known = {option for name, command in COMMANDS.items() if name.startswith(words)
                 for parameter in command.params for option in parameter.opts}  # fmt: skip
        for option in re.findall(r" (--[a-z][a-z-]+)", line.partition(" -- ")[0]):
            assert option in known, line


@pytest.mark.parametrize("text", ALL)
def test_settings_that_pages_use_exist(text):
    for key in re.findall(r"(?:-s|--grid) (\w+)", text):
        assert key in {*Config.__dataclass_fields__, "KEY"}, key


def test_exit_codes_are_the_documented_ones():
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", generate.exit_codes(), re.M)}
    classes = (FlaxcnnError, ConfigError, DataError, DivergedError, CheckpointError, WriteError,
               PeerLostError)  # fmt: skip
    assert documented == {0, 130, *(each.exit_code for each in classes)}


def test_environment_variables_are_documented():
    documented = set(
        re.findall(r"`(FLAXCNN_\w+)`", (DOCS / "reference/environment.md").read_text())
    )
    used = {name for path in (ROOT / "flaxcnn").rglob("*.py")
            for name in re.findall(r"FLAXCNN_[A-Z_]+\b", path.read_text())}  # fmt: skip
    settings = {f"FLAXCNN_{key.upper()}" for key in Config.__dataclass_fields__}
    assert {name for name in used if name.split("__")[0] not in settings} - {
        "FLAXCNN_"
    } <= documented


@pytest.mark.parametrize("text", ALL)
def test_experiments_that_pages_name_exist(text):
    for name in re.findall(r"(?<!/)\b((?:digits|mnist|fashion|cifar)-?\w*/[\w-]+)", text):
        assert name in catalog.experiments() or name in catalog.zoo(), name


# -- pages ---------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert README.count("\n") <= LONGEST_README


@pytest.mark.parametrize("path", generate.PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_generated_parts_are_current(path):
    text = path.read_text()
    assert generate.with_blocks(text) == text, "run: python -m docs.generate"


def test_every_generated_part_has_a_page():
    text = "\n".join(path.read_text() for path in generate.PAGES)
    for name in generate.BLOCKS:
        assert text.count(f"\n<!-- {name} -->\n") == 1, name


def site():
    """mkdocs.yml as a dict, and the pages of its navigation."""
    loaded = yaml.safe_load((ROOT / "mkdocs.yml").read_text())

    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        entries = entry.values() if isinstance(entry, dict) else entry
        return [page for each in entries for page in pages(each)]

    return loaded, pages(loaded["nav"])


def test_every_page_is_in_the_navigation():
    _, pages = site()
    assert len(set(pages)) == len(pages)
    own = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    assert own <= set(pages)
    hooks = (DOCS / "hooks.py").read_text()
    for included in set(pages) - own:
        assert f'"{included}"' in hooks


def test_the_site_loads_nothing_from_elsewhere():
    loaded, _ = site()
    assert loaded["theme"]["font"] is False
    assert not any("://" in each for each in loaded["extra_css"])
    for text in PAGES.values():
        assert not re.search(r"!\[[^\]]*\]\(https?:|<(?:script|img|iframe|link)\b", text)


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)


@pytest.mark.parametrize("text", ALL)
def test_code_in_pages_is_code(text):
    for code in blocks(text.split("<!-- api -->")[0], "python"):
        compile(code, "page", "exec", ast.PyCF_ONLY_AST)
    for code in blocks(text, "toml"):
        tomllib.loads(code)


@pytest.mark.parametrize("text", ALL)
def test_recipes_in_pages_can_be_built(text):
    for code in blocks(text.split("<!-- api -->")[0], "python"):
        if "# my_models.py" in code:
            names = {}
            exec(code, names)
            assert any(isinstance(value, Config) for value in names.values())


@pytest.mark.parametrize("text", ALL)
def test_files_that_pages_name_exist(text):
    for path in re.findall(r"[` ]([\w./-]+/[\w.-]+\.(?:py|sh|yaml))\b", text):
        roots = (ROOT, ROOT / "flaxcnn", DOCS)
        assert any((root / path).exists() for root in roots), path


def slug(heading):
    """The anchor that code hosts and mkdocs make of a heading."""
    text = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower())
    return re.sub(r"\s+", "-", text.strip())


def anchors(text):
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose, re.M)}


@pytest.mark.parametrize("name", [*PAGES, "CHANGELOG.md", "experiments/RESULTS.md",
                                  "benchmarks/NOTES.md"])  # fmt: skip
def test_links_lead_somewhere(name):
    text = re.sub(r"^```.*?^```", "", (ROOT / name).read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            url = urlparse(target)
            assert url.scheme == "https", target
            assert re.fullmatch(r"[\w-]+(\.[\w-]+)+", url.netloc), target
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file.read_text()), target


def test_citation_is_valid():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == flaxcnn.__version__
    assert citation["license"] == tomllib.loads((ROOT / "pyproject.toml").read_text())[
        "project"]["license"]  # fmt: skip


# -- versions, results, imports ------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("file", "extras"),
    [("constraints.txt", ["test", "docs"]), ("constraints-newest.txt", ["test"])],
)
def test_constraints_pin_every_dependency_without_hosts(file, extras):
    text = (ROOT / file).read_text()
    pinned = {re.split("==", line)[0].lower().replace("_", "-")
              for line in text.splitlines() if "==" in line}  # fmt: skip
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = project["dependencies"] + [
        one for extra in extras for one in project["optional-dependencies"][extra]
    ]
    names = {re.match(r"[A-Za-z0-9-]+", one)[0].lower() for one in needed}
    assert names <= pinned
    assert "://" not in text
    excluded = re.findall(r"!=([\d.]+)", project["dependencies"][0])
    assert not any(f"jax=={one}\n" in text for one in excluded)


def examples():
    """Every module with examples in its docstrings; those that train are slow."""
    for path in sorted((ROOT / "flaxcnn").rglob("*.py")):
        if ">>>" in (text := path.read_text()):
            name = str(path.relative_to(ROOT).with_suffix("")).replace("/", ".")
            slow = pytest.mark.slow if "import jax" in text or name in TRAINING else ()
            yield pytest.param(name, marks=slow)


@pytest.mark.parametrize("name", list(examples()))
def test_examples_in_docstrings(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(
        importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert result.attempted
    assert not result.failed


def test_import_is_light():
    """`import flaxcnn` and the command line's own modules load neither jax nor numpy."""
    heavy = {"jax", "numpy", "rich", "matplotlib", "jinja2"}
    code = f"import flaxcnn, flaxcnn.cli.main, sys; print({heavy} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_every_public_name_is_there():
    assert sorted([*flaxcnn._LAZY, *flaxcnn._MODULES]) == sorted(flaxcnn.__all__)
    assert set(flaxcnn.__all__) <= set(dir(flaxcnn))
    for name in flaxcnn.__all__:
        assert getattr(flaxcnn, name).__doc__, name
        assert callable(getattr(flaxcnn, name)) or name in flaxcnn._MODULES, name
    assert flaxcnn.layers.Conv(8, 3).filters == 8
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        flaxcnn.tarin  # noqa: B018
