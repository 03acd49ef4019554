"""Pictures and tables for papers: of the width and kind asked for."""

import csv
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

import flaxcnn as package
from flaxcnn.errors import ConfigError
from flaxcnn.records.read import read

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


def test_python_draws_what_the_command_draws(flaxcnn, studies, home):
    pair = [studies / "short", studies / "long"]
    done = flaxcnn("figures", *map(str, pair), "--width", "8.5cm", "--json")
    drawn = package.figures(read(pair[0]), str(pair[1]), width="8.5cm", output=home / "again")
    assert [Path(name).name for name in done.json["figures"]] == [file.name for file in drawn]
    for name, file in zip(done.json["figures"], drawn, strict=True):
        assert Path(name).read_bytes() == file.read_bytes()
    with pytest.raises(ConfigError, match=r"^width must be from 1\.5 to 20 inches \(got '99in'"):
        package.figures(pair[0], width=99)
    with pytest.raises(ConfigError, match=r"^format must be pdf, svg or png \(got 'jpg'\)"):
        package.figures(pair[0], format="jpg")
    with pytest.raises(ConfigError, match="name runs or studies"):
        package.figures()


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


# -- tables --------------------------------------------------------------------------------------


@pytest.fixture
def compared(flaxcnn, studies):
    """`flaxcnn compare` of the two studies with more words."""
    return lambda *words: flaxcnn("compare", str(studies / "short"), str(studies / "long"), *words)


def test_a_table_for_latex(compared):
    text = compared("--format", "latex").out
    assert r"\begin{tabular}{@{}lrlllll@{}}" in text
    first, second = (line for line in text.splitlines() if line.endswith(r"\\") and "pm" in line)
    assert first.startswith("6 & 3 & 0.")  # the setting that differs is the first column
    assert second.startswith("9 & 3 & 0.")
    assert first.endswith(r"& reference \\")
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    for sign in ("%", "_", "#"):
        assert not re.search(rf"(?<!\\){sign}", body), sign
    assert body.count("{") == body.count("}")


def test_a_table_for_a_spreadsheet(compared, home):
    assert compared("--output", "found.csv").code == 0
    with (home / "found.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    found = compared("--json").json
    values = list(found["sides"][1]["values"].values())
    assert (first["side"], second["side"]) == ("epochs=6", "epochs=9")
    assert float(second["mean"]) == pytest.approx(sum(values) / 3)
    test = found["comparisons"][0]["comparison"]
    assert float(second["difference"]) == pytest.approx(test["difference"])
    assert float(second["difference_low"]) == pytest.approx(test["interval"][0])
    assert first["p"] == ""


@pytest.mark.parametrize(
    ("name", "begins"), [("a.md", "|  | seeds |"), ("a.tex", "% needs"), ("a.json", "{\n"),
                         ("a.txt", "          seeds")],
)  # fmt: skip
def test_a_file_is_of_the_kind_that_its_name_says(compared, home, name, begins):
    done = compared("--output", name)
    assert (done.code, done.out) == (0, f"{name}\n")
    assert (home / name).read_text().startswith(begins)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--output", "a.pdf"), "--output writes .txt, .md, .tex, .csv or .json"),
        (("--output", "a.csv", "--format", "latex"), "--output writes .tex, by the name"),
        (("--format", "latx"), "did you mean 'latex'"),
    ],
)
def test_other_kinds_are_refused(compared, words, message):
    done = compared(*words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
