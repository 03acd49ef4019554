"""Imports go in one direction, and files and functions have one subject."""

import ast
import re
from pathlib import Path

import pytest

from docs.generate import IMPORT_ORDER, imported_modules, modules, part_of

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "flaxcnn"
LONGEST_FILE = 370  # lines: about 300 and a margin; past it, the file has two subjects
LONGEST_FUNCTION = 60  # lines with docstring
FILES = sorted(
    str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"
)


def test_import_order_names_every_package_and_module():
    assert sorted({part_of(path) for path in FILES}) == sorted(IMPORT_ORDER)


@pytest.mark.parametrize("path", FILES)
def test_imports_go_in_one_direction(path):
    for target in imported_modules(path):
        later = IMPORT_ORDER.index(part_of(target)) > IMPORT_ORDER.index(part_of(path))
        assert not later, f"{path} imports {target}, which comes later in IMPORT_ORDER"


@pytest.mark.parametrize(("one", "other"), [("reports", "engine"), ("reports", "model")])
def test_neighbours_do_not_know_each_other(one, other):
    """Both stand on `records/`: a page is made from records alone, and training draws nothing."""
    for path in FILES:
        for target in imported_modules(path):
            assert {part_of(path), part_of(target)} != {one, other}, f"{path} imports {target}"


def test_no_modules_import_each_other():
    assert sorted(modules()) == FILES  # raises where they do


@pytest.mark.parametrize("path", FILES)
def test_every_module_says_what_it_is(path):
    text = ast.get_docstring(ast.parse((PACKAGE / path).read_text()))
    assert text
    assert len(text.splitlines()[0]) <= 100


@pytest.mark.parametrize("path", FILES)
def test_files_and_functions_have_one_subject(path):
    text = (PACKAGE / path).read_text()
    assert text.count("\n") <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = node.end_lineno - node.lineno + 1
            nested = any(isinstance(n, ast.FunctionDef) for n in ast.walk(node) if n is not node)
            assert nested or length <= LONGEST_FUNCTION, f"{path}: {node.name} has {length} lines"


def test_recipes_import_only_recipes():
    for path in (ROOT / "experiments").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flaxcnn"):
                allowed = ("flaxcnn.recipe", "flaxcnn.errors")
                assert node.module.startswith(allowed), f"{path.name}: {node.module}"


def test_only_networks_import_linen_and_only_optim_builds_optimizers():
    # and the loop of Flax's own examples, which is what the package's is compared with
    allowed = (
        "model/cnn.py",
        "model/modules.py",
        "model/foreign.py",
        "nn.py",
        "accelerators/plain.py",
    )
    for path in FILES:
        text = (PACKAGE / path).read_text()
        imports = bool(re.search(r"^(import|from) flax\.linen", text, re.M))
        assert imports == (path in allowed), path


def test_no_catch_all_modules():
    assert not {Path(path).name for path in FILES} & {
        "utils.py",
        "common.py",
        "helpers.py",
        "misc.py",
    }
