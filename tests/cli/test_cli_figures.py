"""`flaxcnn figures`: pictures for print, of the width and kind asked for."""

import re
import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "reports"))
import made


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    """Two studies of recipes that differ in a setting, one of a grid, and a run."""
    folder = tmp_path_factory.mktemp("studies")
    made.study(folder / "short", seeds=3)
    made.study(folder / "long", seeds=3, epochs=9)
    made.run(folder / "run")
    return folder


def test_figures_of_several(flaxcnn, studies, home):
    done = flaxcnn("figures", str(studies / "short"), str(studies / "long"), "--json")
    assert done.code == 0, done.err
    files = [Path(name) for name in done.json["figures"]]
    assert [file.stem for file in files] == ["accuracy", "loss", "seeds", "differences"]
    for file in files:
        content = file.read_bytes()
        assert content.startswith(b"%PDF")
        # 3.25 inches of 72 points
        assert float(re.search(rb"/MediaBox \[ *0 0 ([\d.]+)", content)[1]) == pytest.approx(234)
        assert b"/Type3" not in content  # which journals refuse
    before = [file.read_bytes() for file in files]
    flaxcnn("figures", str(studies / "short"), str(studies / "long"))
    assert [file.read_bytes() for file in files] == before


def test_kinds_fonts_and_widths(flaxcnn, studies, home):
    png = flaxcnn("figures", str(studies / "run"), "--format", "png", "--width", "10cm")
    assert png.code == 0, png.err
    with Image.open(home / "figures" / "accuracy.png") as image:
        assert image.width == pytest.approx(300 * 10 / 2.54, abs=1)
    assert (home / "figures" / "confusion.png").is_file()
    flaxcnn(
        "figures", str(studies / "short"), "--format", "svg", "--font", "serif", "--output", "s"
    )
    text = (home / "s" / "seeds.svg").read_text()
    assert "serif" in text
    assert ">test accuracy (%)</text>" in text  # text, no outlines


def test_one_seed_a_side_has_no_differences(flaxcnn, studies, home):
    done = flaxcnn("figures", str(studies / "run"), str(studies / "long"))
    assert done.code == 0
    assert "warning: no figure of differences: " in done.err
    assert not (home / "figures" / "differences.pdf").exists()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--format", "jpg"], 2, "--format must be pdf, svg or png (got 'jpg')"),
        (["--width", "3.25"], 2, "--width takes a number with in, cm, mm, pt (got '3.25')"),
        (["--width", "900mm"], 2, "--width must be from 1.5 to 20 inches"),
        (["--font", "sarif"], 2, "did you mean 'serif'"),
        (["--output", "a.pdf"], 2, "--output takes a folder"),
        (["--output", "recipes.py/here"], 6, "--output recipes.py/here: Not a directory"),
    ],
)
def test_what_cannot_be_drawn(flaxcnn, studies, options, code, message):
    done = flaxcnn("figures", str(studies / "short"), *options)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
