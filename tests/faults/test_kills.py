"""SIGKILL again and again at random moments: the bits and rows of what nobody touched.

SOAK_KILLS sets how often a run is killed; studies and searches are killed two fifths as often.
"""

import os
import random
import subprocess
import sys
import time

import pytest
from faulty import LAYERS, Train, names, records

from flaxcnn.records.files import read_lines

KILLS = int(os.environ.get("SOAK_KILLS", "50"))
MOST_SECONDS = 8  # of a start: most of them begin to train, some are killed while they import

pytestmark = pytest.mark.soak


def killed(start, kills, draws):
    """Start it, kill it, and so on -> (exit code, stderr) of the last start, left alone."""
    began = time.monotonic()
    for number in range(kills):
        child = start()
        try:
            _, err = child.communicate(timeout=draws.uniform(0, MOST_SECONDS))
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
        else:
            pytest.fail(f"it ended before it was killed {number + 1} times: {err}")
    child = start()
    _, err = child.communicate()
    print(f"{kills} times killed: {time.monotonic() - began:.0f} s")
    return child.returncode, err


@pytest.fixture
def draws():
    seed = random.randrange(2**32)
    print(f"seed of the moments: {seed}")  # shown if the test fails
    return random.Random(seed)


@pytest.mark.parametrize("way", [(), ("-s", "input=stream", "-s", "workers=1")],
                         ids=["resident", "streamed"])  # fmt: skip
def test_a_run(home, draws, way):
    epochs = 40 * KILLS
    began = time.monotonic()
    assert Train(home / "quiet", *way, epochs=epochs).ended()[0] == 0
    print(f"quiet: {time.monotonic() - began:.0f} s")
    run = home / "run"
    start = lambda: Train(run, "--resume-if-any", *way, epochs=epochs).child  # noqa: E731
    code, err = killed(start, KILLS, draws)
    assert code == 0, err
    assert records(run) == records(home / "quiet")
    assert names(run) == names(home / "quiet")


SMALL = ("-s", "patience=none", "-s", "batch_size=500", "-s", LAYERS, "-s", "determinism=exact")


@pytest.mark.parametrize(
    ("command", "record"),
    [(("study", "digits/quickstart", "--seeds", "12", "--study-dir"), "study.json"),
     (("search", "digits/quickstart", "--grid", "learning_rate=0.01,0.001,0.0001", "--folds", "4",
       "--search-dir"), "search.json")],
    ids=["study", "search"],
)  # fmt: skip
def test_many_runs(home, draws, command, record):
    kills = max(KILLS * 2 // 5, 1)
    more = (*SMALL, "-s", f"epochs={12 * KILLS}")

    def start(folder):
        resume = ["--resume"] if (home / folder / "plan.json").is_file() else []
        return subprocess.Popen(
            [sys.executable, "-m", "flaxcnn", *command, folder, *more, *resume],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    began = time.monotonic()
    quiet = start("quiet")
    _, err = quiet.communicate()
    assert quiet.returncode == 0, err
    print(f"quiet: {time.monotonic() - began:.0f} s")
    code, err = killed(lambda: start("killed"), kills, draws)
    assert code == 0, err
    assert rows_of(home / "killed") == rows_of(home / "quiet")
    names = [sorted(p.name for p in (home / name).glob("*")) for name in ("quiet", "killed")]
    assert names[0] == names[1]
    assert record in names[0]


def rows_of(folder):
    """(weights or score of each run by its key), each once."""
    rows = [row for file in folder.rglob("runs.jsonl") for row in read_lines(file)]
    keys = [row["run"] for row in rows]
    assert len(set(keys)) == len(keys)
    return {row["run"]: (row.get("params_digest"), row["val_loss"]) for row in rows}
