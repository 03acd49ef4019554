"""`flaxcnn evaluate` and `flaxcnn predict` on a finished run."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def images(home, digit):
    """Three digits as PNG files, and what the recorded logits say of them."""
    for i in range(3):
        Image.fromarray(digit[1][i]).save(home / f"{i}.png")
    return [home / f"{i}.png" for i in range(3)]


def probabilities(run):
    with np.load(run / "predictions.npz") as found:
        logits = found["logits"].astype(np.float64)
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("split", "key"), [("test", "test"), ("validation", "val"), ("train", "train")]
)
def test_evaluate_gives_the_figures_of_the_summary(flaxcnn, trained, split, key):
    summary, run = trained[0].json, trained[1]
    found = flaxcnn("evaluate", run, "--split", split, "--json").json
    assert found["equal"] is True
    for name in ("loss", "accuracy"):
        assert found[f"{key}_{name}"] == summary[f"{key}_{name}"]
    if split == "test":
        text = flaxcnn("evaluate", run).out
        assert f"test accuracy {summary['test_accuracy']:.4f}" in text
        assert "equal to the run's summary" in text


def test_evaluate_says_when_the_summary_is_another(flaxcnn, copied):
    summary = json.loads((copied / "summary.json").read_text())
    (copied / "summary.json").write_text(json.dumps({**summary, "test_accuracy": 1.0}))
    assert flaxcnn("evaluate", copied).code == 5  # it is not what was written
    (copied / "digests.json").unlink()
    assert flaxcnn("evaluate", copied, "--json").json["equal"] is False
    assert "the run's summary has" in flaxcnn("evaluate", copied).out


def test_evaluate_refuses_other_data(flaxcnn, copied):
    data = json.loads((copied / "data.json").read_text())
    (copied / "data.json").write_text(json.dumps({**data, "digest": "0" * 64}))
    (copied / "digests.json").unlink()
    done = flaxcnn("evaluate", copied, "--json")
    assert done.code == done.json["exit_code"] == 3
    assert "this is other data" in done.json["error"]


def test_evaluate_refuses_a_damaged_checkpoint(flaxcnn, copied):
    # The digest, and not the bytes: a read that fails inside Orbax leaves threads that complain
    for file in (copied / "checkpoints").glob("*/progress/metadata"):
        record = json.loads(file.read_text())
        file.write_text(json.dumps({**record, "digest": "0" * 64}))
    done = flaxcnn("evaluate", copied)
    assert done.code == 5
    assert done.err.startswith("error: checkpoint of epoch ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("nowhere",), 5, "nowhere: holds no finished run (no summary.json); there is no such"),
        (("recipes.py",), 5, "recipes.py: holds no finished run"),
        (("RUN", "--split", "tset"), 2, "--split must be test, validation or train "
         "(got 'tset'); did you mean 'test'?"),
    ],
)  # fmt: skip
def test_evaluate_what_is_not_there(flaxcnn, trained, home, arguments, code, says):
    done = flaxcnn("evaluate", *(trained[1] if a == "RUN" else a for a in arguments))
    assert done.code == code
    assert done.err.count("\n") == 1
    assert says in done.err
    assert not (home / "nowhere").exists()


def test_predict_names_the_class_and_the_three_likeliest(flaxcnn, trained, images):
    expected = probabilities(trained[1])
    found = flaxcnn("predict", trained[1], *images, "--json").json
    assert [row["image"] for row in found] == [str(path) for path in images]
    for row, one in zip(found, expected, strict=False):
        best = np.argsort(-one)[:3]
        assert [top["class"] for top in row["top"]] == [str(i) for i in best]
        assert row["class"] == str(best[0])
        np.testing.assert_allclose(
            [top["probability"] for top in row["top"]], one[best], rtol=1e-4, atol=1e-6
        )
    text = flaxcnn("predict", trained[1], *images).out.splitlines()
    assert len(text) == 3
    first = found[0]
    assert text[0].startswith(f"{images[0]}: {first['class']} ({first['probability']:.4f})  top 3:")


def test_predict_another_size_only_when_told(flaxcnn, trained, home, digit):
    Image.fromarray(digit[0]).resize((16, 16), Image.Resampling.NEAREST).save(home / "big.png")
    done = flaxcnn("predict", trained[1], "big.png")
    assert done.code == 3
    assert "big.png: must be 8x8 (got 16x16); --resize scales it" in done.err
    assert flaxcnn("predict", trained[1], "big.png", "--resize", "--json").code == 0


def test_predict_reads_folders_and_writes_a_table(flaxcnn, trained, home, images):
    (home / "photos" / "deeper").mkdir(parents=True)
    for place, image in zip(("b.png", "a.png", "deeper/c.png"), images, strict=True):
        (home / "photos" / place).write_bytes(image.read_bytes())
    (home / "photos" / "notes.txt").write_text("no image")
    (home / "photos" / ".hidden.png").write_text("no image")
    found = flaxcnn("predict", trained[1], "photos", images[0], "--csv", "found.csv", "--json").json
    names = ["photos/a.png", "photos/b.png", "photos/deeper/c.png", str(images[0])]
    assert [row["image"] for row in found] == names
    with (home / "found.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == names
    for row, told in zip(rows, found, strict=True):
        assert row["class"] == told["class"]
        assert float(row[f"p_{told['class']}"]) == told["probability"]
        every = sum(float(row[f"p_{digit}"]) for digit in range(10))
        assert every == pytest.approx(1, abs=1e-6)  # probabilities are float32
    (home / "empty").mkdir()
    done = flaxcnn("predict", trained[1], "empty")
    assert (done.code, done.err) == (3, "error: empty: there is no image file in this folder\n")
    done = flaxcnn("predict", trained[1], "photos", "--csv", "nowhere/found.csv")
    assert done.code != 0
    assert done.err.count("\n") == 1


def png(image):
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def jpeg(image):
    out = io.BytesIO()
    image.save(out, "JPEG")
    return out.getvalue()


BAD = {
    "missing": ("a.png", None, "image a.png: there is no such file"),
    "text": ("a.png", lambda: b"not an image", "a.png cannot be read as PNG, JPEG"),
    "empty": ("a.png", lambda: b"", "a.png cannot be read as PNG, JPEG"),
    "cut short": (
        "a.jpg",
        lambda: jpeg(Image.new("L", (8, 8)))[:-40],
        "a.jpg is damaged or cut short",
    ),
    "16-bit": (
        "a.png",
        lambda: png(Image.fromarray(np.zeros((8, 8), np.uint16))),
        "a.png has mode I;16, 16 bits; convert it to 8-bit grey or RGB",
    ),
    "CMYK": ("a.jpg", lambda: jpeg(Image.new("CMYK", (8, 8))), "a.jpg has mode CMYK"),
    "misnamed": ("a.jpg", lambda: png(Image.new("L", (8, 8))), "a.jpg is a PNG file"),
    "other suffix": (
        "a.tif",
        lambda: png(Image.new("L", (8, 8))),
        "*.webp, *.bmp or *.gif (got .tif extension)",
    ),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("resize", [False, True])
def test_predict_refuses_a_bad_image_in_one_line(flaxcnn, trained, home, images, case, resize):
    name, content, says = BAD[case]
    if content:
        (home / name).write_bytes(content())
    done = flaxcnn("predict", trained[1], images[0], name, *(["--resize"] if resize else []))
    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert says in done.err
    assert "<_io" not in done.err, "a file is named by its path"
