"""One run through a schedule of faults: the bits, records and files of a quiet one in the end.

SOAK_SCHEDULES=500 sets how many schedules are drawn (`make soak`); CI has the first two.
"""

import json
import os
import random
import subprocess
import sys

import numpy as np
import orbax.checkpoint as ocp
import pytest
from faulty import Train, names, records

from flaxcnn.errors import ConfigError
from flaxcnn.fault_points import ACTIONS, POINTS, planned

COUNT = int(os.environ.get("SOAK_SCHEDULES", "10"))
IN_CI = 2
FIRST = int(os.environ.get("SOAK_FIRST", "0"))  # number of the first, to repeat one
EPOCHS = 8
STARTS = 3  # with a fault each, before the last one
EXIT = {"kill": -9, "term": 75, "enospc": 0, "erofs": 6, "eio": 6, "clock": 0}
# The same bits on any number of devices
EXACT = ("-s", "determinism=exact", "-s", "virtual_shards=2")


def test_points_and_actions_by_name():
    assert planned("record.append:kill:3") == {"record.append": [(3, "kill")]}
    for text in ("record.append", "nowhere:kill", "record.append:explode", "record.append:kill:x"):
        with pytest.raises(ConfigError, match="FLAXCNN_FAULT must be POINT:ACTION"):
            planned(text)
    assert set(EXIT) == set(ACTIONS)


def test_nothing_is_planned_by_itself():
    code = "from flaxcnn import fault_points; assert fault_points._plan is None"
    subprocess.run([sys.executable, "-c", code], check=True)


def start(run, *more, **environment):
    return Train(run, *EXACT, "--resume-if-any", *more, epochs=EPOCHS, env=environment)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """The run without faults."""
    run = tmp_path_factory.mktemp("quiet") / "run"
    code, err = start(run).ended()
    assert code == 0, err
    return run


def whole(folder):
    """Whether a checkpoint can be read: a process may be killed while it removes one."""
    try:
        json.loads((folder / "progress" / "metadata").read_text())
        ocp.PyTreeCheckpointer().restore(folder / "state")
    except Exception:  # of many classes
        return False
    return True


def flip_newest(run, draws):
    """A bit in every 64th byte of the newest checkpoint, where an older one is whole."""
    folders = [p for p in (run / "checkpoints").glob("*") if p.name.isdecimal()]
    folders.sort(key=lambda folder: int(folder.name))
    if not any(map(whole, folders[:-1])):
        return
    for file in folders[-1].rglob("*"):
        if file.is_file() and file.stat().st_size > 64:
            data = np.fromfile(file, np.uint8)
            data[draws.randrange(64) :: 64] ^= 1 << draws.randrange(8)
            data.tofile(file)


@pytest.mark.parametrize(
    "number",
    [pytest.param(number, marks=pytest.mark.slow if number < IN_CI else pytest.mark.soak)
     for number in range(FIRST, FIRST + COUNT)],
)  # fmt: skip
def test_a_schedule(home, quiet, number):
    draws, run = random.Random(number), home / "run"
    for _ in range(STARTS):
        action = draws.choice(sorted(ACTIONS))
        fault = f"{draws.choice(POINTS)}:{action}:{draws.randint(1, EPOCHS)}"
        code, err = start(
            run, FLAXCNN_FAULT=fault, JAX_NUM_CPU_DEVICES=draws.choice(["1", "2"])
        ).ended()
        assert code in (0, EXIT[action]), (fault, code, err)
        if draws.random() < 0.3 and not (run / "summary.json").is_file():
            flip_newest(run, draws)
    code, err = start(run).ended()
    assert code == 0, err
    assert records(run) == records(quiet)
    assert names(run) == names(quiet)
