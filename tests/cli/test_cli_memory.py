"""What does not fit the memory: a sentence, and what fits is done and kept."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits what a process asks for"),
]
SAFETY_NET = 300  # seconds after which a child process hangs for certain
# So that no machine tries to give what is asked for: 3e5 x 1e5 weights of 4 bytes are 120 GB.
LIMIT_KIB = 40 * 1024**2
UNITS = 300_000
WIDTHS = f"8,{UNITS}"
LAYERS = (
    'layers=[{"type":"flatten"},{"type":"dense","units":16},'
    '{"type":"dense","units":100000},{"type":"dense","units":10}]'
)


@pytest.fixture
def limited(home):
    """`flaxcnn` in a process that may not ask for more than LIMIT_KIB -> (code, stdout, stderr)."""

    def run(*arguments):
        done = subprocess.run(
            ["sh", "-c", f'ulimit -v {LIMIT_KIB} && exec "$@"', "sh",
             sys.executable, "-m", "flaxcnn", *arguments],
            env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True,
            timeout=SAFETY_NET, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_run(limited, home):
    code, _, said = limited("train", "-s", LAYERS.replace("16", str(UNITS)), "--run-dir", "run")
    assert code == 1
    warning, error = said.splitlines()  # the disk is too small for it, too
    assert warning.startswith("warning: ")
    assert error.startswith("error: out of memory (")
    assert "a smaller batch_size" in error
    assert json.loads((home / "run" / "status.json").read_text())["status"] == "failed"


@pytest.mark.soak
def test_a_search_leaves_such_candidates_out(limited, home):
    words = ("search", "-s", LAYERS, "-s", "epochs=1", "--grid", f"layers.1.units={WIDTHS}",
             "--folds", "2", "--search-dir", "found")  # fmt: skip
    code, out, said = limited(*words)
    assert code == 0, said
    assert "winner" in out
    found = json.loads((home / "found" / "search.json").read_text())
    assert {row["label"] for row in found["candidates"]} == {"unchanged", "layers.1.units=8"}
    assert (found["planned"], found["trained"]) == (4, 4)
    (dropped,) = found["dropped"]
    assert dropped["label"] == f"layers.1.units={UNITS}"
    assert "out of memory (" in dropped["reason"]
    assert f"layers.1.units={UNITS}" in (home / "found" / "report.html").read_text()
    code, out, said = limited(*words, "--resume")  # there might be more memory now
    assert code == 0, said
    assert "\nrun " not in out
    assert json.loads((home / "found" / "search.json").read_text())["dropped"] == [dropped]


def test_a_study_ends_the_other_runs_first(limited, home):
    code, out, said = limited("study", "-s", LAYERS, "-s", "epochs=1", "--seeds", "2", "--grid",
                              f"layers.1.units={UNITS},8", "--study-dir", "found")  # fmt: skip
    assert code == 1
    assert "run   2/4" in out
    assert f"error: out of memory: 2 of 4 runs do not fit (layers.1.units={UNITS} (2 " in said
    settings = json.loads((home / "found" / "study.json").read_text())["settings"]
    assert [(one["runs"], one["complete"]) for one in settings] == [(2, 0), (2, 2)]
    assert json.loads((home / "found" / "status.json").read_text())["status"] == "failed"
    code, _, said = limited("report", "found")
    assert code == 0, said
