"""`flaxcnn train` on a folder of images of differing size, streamed, and what can be asked then."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

STREAMED = ("-s", "input=stream", "-s", "workers=1", "-s", "resize.height=8", "-s",
            "resize.width=8", "-s", "resize.train=random_crop", "-s",
            "resize.evaluate=center_crop", "-s", "layers.1.units=2")  # fmt: skip


@pytest.fixture
def pictures(home):
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (home / "pictures" / name).mkdir(parents=True)
        for i in range(20):
            size = tuple(random.integers(8, 14, 2))
            coarse = random.integers(0, 256, (3, 3), np.uint8)
            Image.fromarray(coarse).resize(size).save(home / "pictures" / name / f"{i}.png")
    return home / "pictures"


@pytest.mark.slow
def test_a_streamed_run_from_training_to_prediction(flaxcnn, pictures):
    recipe = ("recipes.py:small", "-s", f"dataset=folder:{pictures}", *STREAMED)
    done = flaxcnn("train", *recipe, "--run-dir", "run")
    assert done.code == 0, done.err
    epochs = [line for line in done.out.splitlines() if line.startswith("epoch")]
    assert all("  stall " in line and "%" in line for line in epochs)
    done = flaxcnn("evaluate", "run", "--json")
    assert done.code == 0, done.err
    assert done.json["equal"]
    done = flaxcnn("predict", "run", pictures / "cat" / "3.png", "--json")
    assert done.code == 0, done.err
    assert done.json[0]["class"] in ("cat", "dog")
    done = flaxcnn("reproduce", "run")
    assert done.code == 0, done.err


@pytest.mark.slow
def test_workers_may_change_when_a_run_goes_on(flaxcnn, pictures, monkeypatch):
    monkeypatch.setenv("FLAXCNN_RUNS_DIR", "runs")
    recipe = ("recipes.py:small", "-s", f"dataset=folder:{pictures}", *STREAMED)
    first = flaxcnn("train", *recipe, "--json")
    again = flaxcnn("train", *recipe, "-s", "workers=0", "--resume", "--json")
    assert again.code == 0, again.err
    assert again.json["run_dir"] == first.json["run_dir"]
    done = flaxcnn("train", *recipe, "-s", "input=auto", "-s", "data_memory=999999", "--resume",
                   "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["run_dir"] == first.json["run_dir"]


def test_another_form_of_the_data_is_refused_on_resume_and_changes_no_record(flaxcnn, pictures):
    size = ("-s", "resize.height=8", "-s", "resize.width=8", "-s", "layers.1.units=2")
    recipe = ("recipes.py:small", "-s", f"dataset=folder:{pictures}", *size, "--run-dir", "run")
    assert flaxcnn("train", *recipe, "-s", "input=resident").code == 0
    before = Path("run/config.json").read_bytes()
    done = flaxcnn("train", *recipe, "-s", "input=stream", "-s", "workers=0", "--resume")
    assert done.code == 3
    assert "or not in the same form; resume it with -s input=resident" in done.err
    assert Path("run/config.json").read_bytes() == before


@pytest.mark.parametrize("arguments", [("study", "--seeds", "2"), ("bench",)])
def test_what_holds_its_data_refuses_to_stream(flaxcnn, home, arguments):
    text = (home / "recipes.py").read_text()
    (home / "streamed.py").write_text(text.replace("epochs=2", 'epochs=2, input="stream"'))
    done = flaxcnn(arguments[0], "streamed.py:small", *arguments[1:])
    assert done.code == 2, done.err
    assert "holds its data on the device" in done.err
    assert done.err.count("error: ") == 1
