"""`flaxcnn data`: list, prepare, verify, path."""

import json
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def npz(home):
    image = np.zeros((40, 6, 6), np.uint8)
    np.savez(home / "rows.npz", image=image, label=np.arange(40) % 4)
    return home / "rows.npz"


def test_list(flaxcnn):
    done = flaxcnn("data", "list", "--json")
    assert (done.code, done.err) == (0, "")
    found = {entry["name"]: entry for entry in done.json}
    assert list(found) == ["digits", "mnist", "fashion_mnist", "cifar10"]
    assert found["digits"]["prepared"] is True
    assert found["mnist"]["prepared"] is False
    assert found["cifar10"]["shape"] == [32, 32, 3]
    lines = flaxcnn("data", "list").out.splitlines()
    assert lines[1].split()[:6] == ["digits", "8x8x1", "10", "1437", "360", "yes"]
    assert lines[2].split()[5] == "no"


def test_path(flaxcnn, npz, tmp_path):
    assert Path(flaxcnn("data", "path", "digits").out.strip()).is_file()
    assert flaxcnn("data", "path", "mnist").out == f"{tmp_path / 'data' / 'mnist'}\n"
    done = flaxcnn("data", "path", f"npz:{npz}", "--json")
    assert done.json == {"name": f"npz:{npz}", "path": str(npz)}


@pytest.mark.parametrize("name", ["digits", "npz:rows.npz"])
def test_what_needs_no_preparation_is_read_as_a_check(flaxcnn, npz, name):
    prepared = flaxcnn("data", "prepare", name, "--json")
    assert prepared.json["name"] == name
    assert prepared.err == ""
    verified = flaxcnn("data", "verify", name, "--json")
    assert verified.err == ""
    assert verified.json["ok"] is True
    assert len(verified.json["digest"]) == 64
    shown = flaxcnn("data", "verify", name).out
    assert f"{name}: intact, digest {verified.json['digest']}" in shown
    assert f"{name} is ready in " in flaxcnn("data", "prepare", name).out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("verify", "mnist"),
            "mnist is not prepared; prepare it with `flaxcnn data prepare mnist`",
        ),
        (("verify", "mnsit"), "did you mean 'mnist'?"),
        (("path", "mnsit"), "did you mean 'mnist'?"),
        (("prepare", "mnist", "--from", "nowhere"), "archives: there is no folder"),
        (("prepare", "mnist", "--from", "."), "lacks archives of mnist"),
        (("prepare", "folder:nowhere"), "folder:nowhere: there is no such folder"),
        (("prepare", "tfds:../mnist"), "tfds:../mnist: write it as NAME"),
    ],
)
def test_errors_are_one_line(flaxcnn, arguments, says):
    done = flaxcnn("data", *arguments, "--json")
    assert done.code == done.json["exit_code"] == 3
    assert says in done.json["error"]
    assert done.err == f"error: {done.json['error']}\n"
    assert json.loads(done.out)["exit_code"] == 3


def test_neither_archives_nor_network(flaxcnn, monkeypatch):
    def offline(*_, **__):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", offline)
    for command in (("data", "prepare", "mnist"), ("train", "mnist-ladder/model10")):
        done = flaxcnn(*command)
        assert done.code == 3
        error = done.err.splitlines()[-1]
        assert "set FLAXCNN_ARCHIVES=DIR or run `flaxcnn data prepare mnist --from DIR`" in error
        assert "or go online" in error
    assert not Path("runs").exists()


@pytest.fixture
def table(home):
    """csv: 24 cats and 6 dogs, grey images of 8x8, and a dog as a transparent WebP."""
    random, lines = np.random.default_rng(0), ["path,label"]
    for i in range(30):
        name = "dog" if i % 5 == 0 else "cat"
        pixels = random.integers(0, 100, (8, 8), np.uint8) + (100 if name == "dog" else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(home / f"{i}.png")
        lines.append(f"{i}.png,{name}")
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(home / "white.webp", lossless=True)
    (home / "pets.csv").write_text("\n".join(lines))
    return "dataset=csv:pets.csv"


def test_a_table_is_trained_on_evenly_and_a_file_classified(flaxcnn, home, table):
    two = ("train", "recipes.py:small", "-s", table, "-s", "layers.1.units=2", "-s", "validation=6")
    done = flaxcnn(*two, "--run-dir", "plain")
    assert done.code == 0, done.err
    assert "classes are imbalanced: 'dog' has 4 training rows, 'cat' 14; class_weight=" in done.err
    assert "the data has no test split: a fixed fifth of its rows (6)" in done.err
    page = (home / "plain" / "report.html").read_text()
    assert "Classes are imbalanced" in page
    done = flaxcnn(*two, "-s", "sampling=balanced", "-s", "class_weight.dog=2", "--run-dir", "even")
    assert done.code == 0, done.err
    assert "imbalanced" not in done.err
    config = json.loads((home / "even" / "config.json").read_text())
    assert config["class_weight"] == {"type": "classweights", "dog": 2.0}
    found = flaxcnn("predict", "even", "white.webp", "--json").json
    assert found[0]["class"] in ("cat", "dog")


@pytest.mark.parametrize(("settings", "says", "code"), [
    (("class_weight.cow=2",), "csv:pets.csv has no class 'cow'", 2),
    (("class_weight=balanced", "sampling=balanced"), "use one of them", 2),
    (("dataset=csv:pet.csv",), "csv:pet.csv: there is no such file", 3),
    (("dataset=hf:/nowhere",), "hf:/nowhere: there is no folder /nowhere", 3),
    (("dataset=digits", "channels=rgb"), "channels=rgb applies to folder:, csv: or hf:", 2),
])  # fmt: skip
def test_what_does_not_fit_is_one_line(flaxcnn, home, table, settings, says, code):
    options = [
        word for setting in (table, "layers.1.units=2", *settings) for word in ("-s", setting)
    ]
    done = flaxcnn("train", "recipes.py:small", *options, "--run-dir", "none")
    assert done.code == code
    assert says in done.err
    assert done.err.count("\n") == 1
    assert not (home / "none").exists()


def test_check_says_what_is_wrong(flaxcnn, home, table):
    for name, files in (("cat", (1, 2, 3)), ("dog", (0, 5, 10, 15))):
        (home / "pets" / name).mkdir(parents=True)
        for i in files:
            (home / "pets" / name / f"{i}.png").write_bytes((home / f"{i}.png").read_bytes())
    (home / "pets" / "cat" / "5.png").write_bytes((home / "5.png").read_bytes())
    (home / "pets" / "dog" / "bad.png").write_text("no image")
    done = flaxcnn("data", "check", "folder:pets")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "folder:pets: 8 images of 2 classes"
    assert lines[2].split() == ["cat", "4"]
    assert "cannot be used: 1" in lines
    assert "  cat/5.png = dog/5.png (classes cat, dog)" in lines
    found = flaxcnn("data", "check", "folder:pets", "--json").json
    assert found["ok"] is False
    assert found["exact"][0]["images"] == ["cat/5.png", "dog/5.png"]


def test_show_draws_a_sheet(flaxcnn, npz, home):
    done = flaxcnn(
        "data", "show", f"npz:{npz}", "-s", 'augment=["flip","mixup"]', "-s", "validation=0.2",
        "--rows", "3", "--epochs", "2", "--json", "-o", str(home / "sheet.png"),
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert len(done.json["rows"]) == 3
    with Image.open(home / "sheet.png") as picture:
        assert min(picture.size) > 200


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-s", 'augment=["hue"]'), "augment: hue: works on images of three channels"),
        (("-s", 'augment=["mixupp"]'), "did you mean 'mixup'?"),
        (("-o", "sheet.gif"), "--output must be .png, .svg or .pdf (got '.gif')"),
        (("-o", "no/such/sheet.png"), "cannot write no/such/sheet.png (No such file"),
    ],
)
def test_show_refuses(flaxcnn, arguments, says):
    done = flaxcnn("data", "show", "digits", "--rows", "2", "--epochs", "1", *arguments)
    assert done.code != 0
    assert says in done.err
    assert done.err.count("\n") == 1
