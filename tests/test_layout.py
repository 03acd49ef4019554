"""The tree is the one the README shows, and imports go down its list only."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "flaxcnn"
LONGEST_FILE = 370  # lines: about 300 and a margin; past it, the file has two subjects
LONGEST_FUNCTION = 60  # lines with docstring


def readme_modules():
    """Module paths in the order of the README's map, which is the order of imports."""
    block = (ROOT / "README.md").read_text().split("<!-- map -->")[1].split("<!-- /map -->")[0]
    folder, found = "", []
    for line in block.splitlines():
        if match := re.match(r"^    (\w+)/ ", line):
            folder = f"{match[1]}/"
        elif match := re.match(r"^(    |      )(\w+\.py) ", line):
            found.append((folder if len(match[1]) == 6 else "") + match[2])
    return found


MAP = readme_modules()
FILES = sorted(
    str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"
)


def imported_modules(path):
    """Modules of the package that a file imports anywhere, as paths."""
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            target = name.removeprefix("flaxcnn.").replace(".", "/") + ".py"
            if name.startswith("flaxcnn.") and (PACKAGE / target).is_file():
                yield target


def test_the_map_lists_every_file_once():
    assert sorted(MAP) == FILES


@pytest.mark.parametrize("path", FILES)
def test_imports_point_down_the_map(path):
    for target in imported_modules(path):
        assert MAP.index(target) < MAP.index(path), f"{path} imports {target}, which comes later"


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


def test_only_cnn_imports_linen_and_only_optim_builds_optimizers():
    # and the loop of Flax's own examples, which is what the package's is compared with
    allowed = ("model/cnn.py", "accelerators/plain.py")
    for path in FILES:
        text = (PACKAGE / path).read_text()
        assert ("flax.linen" in text) == (path in allowed), path


def test_no_catch_all_modules():
    assert not {Path(path).name for path in FILES} & {
        "utils.py",
        "common.py",
        "helpers.py",
        "misc.py",
    }
