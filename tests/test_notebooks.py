"""Notebooks are whole files without outputs, and their cells run in order, in an empty folder."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb"))
SAFETY_NET = 600  # seconds after which a child process hangs for certain

# What a kernel does with cells: run them in one namespace, and show the value of the last line.
RUNNER = """
import ast, json, sys

shown, namespace = [], {"__name__": "__main__"}
for number, source in enumerate(json.load(sys.stdin)):
    tree = ast.parse(source, f"cell {number}")
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, f"cell {number}", "exec"), namespace)
    if last is None:
        continue
    value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), namespace)
    for kind in ("html", "svg"):
        if hasattr(value, f"_repr_{kind}_"):
            shown.append([kind, getattr(value, f"_repr_{kind}_")()])
with open("shown.json", "w") as file:
    json.dump(shown, file)
"""


def cells(notebook, kind):
    found = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_nbformat_4_5_without_outputs(notebook):
    found = json.loads(notebook.read_text())
    assert set(found) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    assert (found["nbformat"], found["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in found["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in found["cells"]:
        assert re.fullmatch(r"[a-zA-Z0-9-_]{1,64}", cell["id"])
        assert isinstance(cell["metadata"], dict)
        assert all(isinstance(line, str) for line in cell["source"])
        assert all(line.endswith("\n") for line in cell["source"][:-1])
        own = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            assert set(cell) == own | {"execution_count", "outputs"}
            assert (cell["execution_count"], cell["outputs"]) == (None, [])
        else:
            assert cell["cell_type"] == "markdown"
            assert set(cell) == own


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_run(notebook, tmp_path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("FLAXCNN_")}
    folders = {"FLAXCNN_DATA_DIR": str(tmp_path / "data"), "FLAXCNN_CACHE_DIR": str(tmp_path / "c")}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER], input=json.dumps(cells(notebook, "code")), cwd=tmp_path,
        env={**clean, **folders, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True, timeout=SAFETY_NET, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""  # which a notebook shows in red
    shown = json.loads((tmp_path / "shown.json").read_text())
    assert [kind for kind, _ in shown].count("html") >= 3
    assert [kind for kind, _ in shown].count("svg") >= 3
    for kind, text in shown:
        assert "<svg" in text, kind
    html = [text for kind, text in shown if kind == "html"]
    assert any("document protocol" in text for text in html)
    assert any("Study of ladder/model1" in text for text in html)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_lines_fit_a_notebook(notebook):
    for text in cells(notebook, "code") + cells(notebook, "markdown"):
        assert max(map(len, text.splitlines())) <= 105
