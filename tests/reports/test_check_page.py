"""The page of `flaxcnn data check`, and what it shows of images."""

import json

import made
import numpy as np
import pytest
from elements import Elements
from PIL import Image
from test_label_errors import keep
from typer.testing import CliRunner

from flaxcnn.cli.main import app
from flaxcnn.data.check import check, opener
from flaxcnn.records.read import read_study
from flaxcnn.reports.check import check_page
from flaxcnn.reports.label_errors import find_label_errors


@pytest.fixture
def pets(tmp_path):
    """Two splits of two classes, with one of everything that can be wrong."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat & <b>", "dog"):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                pixels = random.integers(0, 256, (12, 16, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    root = tmp_path / "pets"
    (root / "train" / "dog" / "bad.png").write_bytes(b"no image")
    (root / "train" / "dog" / "notes.txt").write_text("")
    again = (root / "train" / "dog" / "0.png").read_bytes()
    (root / "test" / "dog" / "leak.png").write_bytes(again)
    (root / "train" / "cat & <b>" / "torn.png").write_bytes(again)
    return root


def text(made_):
    return " ".join(Elements(made_.html).text.split())


def test_everything_wrong_is_on_the_page_with_its_images(pets):
    found = check_page(check(f"folder:{pets}"))
    shown, tags = text(found), Elements(found.html).tags
    assert "Images that can be used 18" in shown
    assert "1 file cannot be used, 1 group of exact duplicates" in shown
    assert "1 group of exact duplicates with different classes" in shown
    assert "1 group of exact duplicates across splits" in shown
    assert "train/dog/bad.png" in shown
    assert "Passed over: train/dog/notes.txt" in shown
    assert "across splits; classes cat & <b>, dog" in shown
    images = [attrs for tag, attrs in tags if tag == "img"]
    assert len(images) == 8 + 8 + 3  # eight of each class, and the three that are one
    assert {"train/dog/0.png", "test/dog/leak.png"} <= {attrs["alt"] for attrs in images}


def test_pixels_are_those_of_the_name(pets):
    show = opener(f"folder:{pets}")
    with Image.open(pets / "test" / "dog" / "2.png") as image:
        np.testing.assert_array_equal(show("test/dog/2.png"), np.asarray(image))
    data, show = made.digits(), opener("digits")
    np.testing.assert_array_equal(show("train row 5"), data.train.image[5])
    np.testing.assert_array_equal(show("test row 7"), data.test.image[7])


def test_validation_rows_are_at_the_end_of_train(tmp_path):
    image = np.arange(8 * 4, dtype=np.uint8).reshape(8, 2, 2)
    np.savez(tmp_path / "rows.npz", image=image, label=np.arange(8) % 2,
             validation_image=image[:3] + 100, validation_label=np.arange(3) % 2,
             test_image=image[:2] + 200, test_label=np.arange(2))  # fmt: skip
    show = opener(f"npz:{tmp_path}/rows.npz")
    np.testing.assert_array_equal(show("validation row 2")[..., 0], image[2] + 100)
    np.testing.assert_array_equal(show("test row 1")[..., 0], image[1] + 200)


def test_likely_label_errors_are_shown_with_what_they_are(tmp_path):
    path = made.study(tmp_path / "study", seeds=3)
    label = keep(path, made.digits())
    found = check_page(check("digits"), find_label_errors("digits", read_study(path)))
    shown = text(found)
    assert f"labelled {label[7]}" in shown
    assert f"{(label[7] + 1) % 10} 99.7 %" in shown
    assert "train row 7" in shown
    assert "1 label is likely wrong" in shown


def test_the_command_writes_page_and_json(tmp_path):
    path = made.study(tmp_path / "study", seeds=3)
    keep(path, made.digits())
    page = tmp_path / "check.html"
    words = ["data", "check", "digits", "--study", str(path), "--output", str(page), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert [one["image"] for one in told["label_errors"]["suspects"]] == ["train row 7"]
    assert "Labels that are likely wrong" in page.read_text()
    plain = CliRunner().invoke(app, words[:-1]).stdout
    assert "likely label errors: 1 of 1,797 rows" in plain
    assert "train row 7: labelled" in plain


def test_a_page_is_html(tmp_path):
    done = CliRunner().invoke(app, ["data", "check", "digits", "--output", str(tmp_path / "a.pdf")])
    assert done.exit_code == 2
