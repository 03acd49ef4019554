"""What is built and installed is what was tested: recipes inside, and a run from anywhere."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SAFETY_NET = 600  # seconds after which a child process hangs for certain

pytestmark = pytest.mark.slow


def run(*command, cwd, **settings):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("FLAXCNN_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env={**clean, **settings},
        capture_output=True, text=True, timeout=SAFETY_NET, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    target = tmp_path_factory.mktemp("installed")
    run("-m", "pip", "install", "--no-deps", "--no-index", "--disable-pip-version-check",
        "--target", target, wheel, cwd=target)  # fmt: skip
    return target


@pytest.fixture
def away(tmp_path, installed):
    """(an empty folder, the settings under which python finds the installed package first)."""
    empty = tmp_path / "empty"
    empty.mkdir()
    return empty, {
        "PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu",
        "FLAXCNN_CACHE_DIR": str(tmp_path / "cache"), "FLAXCNN_DATA_DIR": str(tmp_path / "data"),
    }  # fmt: skip


def test_it_holds_the_package_the_recipes_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    recipes = {f"flaxcnn/experiments/{p.name}" for p in (ROOT / "experiments").glob("*.py")}
    modules = {str(p.relative_to(ROOT)) for p in (ROOT / "flaxcnn").rglob("*.py")}
    assert recipes
    page = {f"flaxcnn/reports/{name}" for name in ("page.html", "page.js", "fragment.html")}
    assert recipes | modules | page | {"flaxcnn/py.typed"} <= set(names)
    outside = [n for n in names if not n.startswith("flaxcnn/") and ".dist-info/" not in n]
    assert not outside
    assert not [n for n in names if "__pycache__" in n or n.startswith("tests")]
    assert any(n.endswith("licenses/LICENSE") for n in names)


def test_it_trains_from_an_empty_folder(away, installed):
    empty, settings = away
    where = run("-c", "import flaxcnn; print(flaxcnn.__file__)", cwd=empty, **settings).stdout
    assert Path(where.strip()) == installed / "flaxcnn" / "__init__.py"
    done = run("-m", "flaxcnn", "train", "-s", "epochs=1", "--json", cwd=empty, **settings)
    summary = json.loads(done.stdout)
    assert summary["experiment"] == "digits/quickstart"
    assert summary["epochs_run"] == 1
    assert [p.name for p in empty.iterdir()] == ["runs"]
    assert (empty / summary["run_dir"] / "summary.json").is_file()


def test_it_lists_all_experiments(away, installed):
    empty, settings = away
    done = run("-m", "flaxcnn", "experiments", "list", "--json", cwd=empty, **settings)
    assert len(json.loads(done.stdout)) == 38
    text = "from flaxcnn.recipe.catalog import experiments_folder; print(experiments_folder())"
    where = run("-c", text, cwd=empty, **settings).stdout
    assert Path(where.strip()) == installed / "flaxcnn" / "experiments"
