"""What a notebook shows of results: the figure that counts, escaped, without scripts."""

import re
import shutil

import made
import pytest
from browser import browser, program
from elements import Elements

from flaxcnn.engine.saved import Result
from flaxcnn.records.read import read, read_run

HOSTILE = "<script>alert(1)</script>"
KINDS = ["run", "study", "search"]


def result(kind, path, **more):
    """A finished result of a kind, whose records lie in `path`."""
    match kind:
        case "run":
            made.run(path, **more)
            return Result(**vars(read_run(path)), state=None)
        case "study":
            made.study(path)
            return read(path)
        case "search":
            made.search(path)
            return read(path)


def shown(value):
    return value._repr_html_()


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_is_headline_picture_and_table(tmp_path, kind):
    elements = Elements(shown(result(kind, tmp_path / kind)))
    tags = [tag for tag, _ in elements.tags]
    assert tags.count("svg") == 1
    assert tags.count("table") == 1
    assert not {"script", "link", "img", "iframe"} & set(tags)
    assert not [key for _, attrs in elements.tags for key in attrs if key.startswith("on")]
    text = " ".join(elements.text.split())
    figures = r"9\d\.\d\d %.* 95 % interval|0\.9\d{3}.* \[0\.\d{4}, \d\.\d{4}\]"
    assert re.search(figures, text), "figure and interval"
    assert "honest protocol" in text
    assert f"flaxcnn report {tmp_path / kind}" in text


def test_figures_are_those_of_the_records(tmp_path):
    run, study = (result(kind, tmp_path / kind) for kind in ("run", "study"))
    assert f"{100 * run.summary['test_accuracy']:.2f} %" in shown(run)
    found = study.summary["settings"][0]["metrics"]["test_accuracy"]
    assert f"{100 * found['mean']:.2f} %" in shown(study)
    assert f"± {100 * found['sd']:.2f} (standard deviation)" in shown(study)


def test_the_document_protocol_is_a_warning(tmp_path):
    config = made.recipe("epochs=6")
    assert (
        "doubtful" not in shown(result("run", tmp_path / "a", config=config)).split("</style>")[1]
    )
    (tmp_path / "a" / "summary.json").write_text(
        (tmp_path / "a" / "summary.json").read_text().replace('"honest"', '"document"')
    )
    html = shown(read(tmp_path / "a")).split("</style>")[1]
    assert 'class="flag doubtful">document protocol' in html


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_escaped(tmp_path, kind):
    found = result(kind, tmp_path / "<b>&")
    for file in found.path.glob("*.json*"):
        text = file.read_text().replace("digits/quickstart", HOSTILE)
        file.write_text(text.replace("unchanged", HOSTILE))
    elements = Elements(shown(read(found.path)))
    assert not {"script", "b"} & {tag for tag, _ in elements.tags}
    assert HOSTILE in elements.text
    assert "<b>&" in elements.text


def test_two_results_on_one_page_have_ids_of_their_own(tmp_path):
    found = [shown(result("run", tmp_path / name)) for name in ("a", "b")]
    ids = [{a["id"] for _, a in Elements(html).tags if "id" in a} for html in found]
    assert ids[0]
    assert not ids[0] & ids[1]
    for html, own in zip(found, ids, strict=True):
        used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', html))
        assert used <= own, "a picture uses its own parts"


def test_of_many_candidates_the_first_are_shown(tmp_path):
    found = result("search", tmp_path / "search")
    found.summary["candidates"] *= 10
    html = shown(found)
    assert "(the first 12 of 50)" in html
    assert html.count("<tr>") == 13


def test_a_result_needs_its_folder_no_more(tmp_path):
    found = result("run", tmp_path / "run")
    shutil.rmtree(found.path)
    assert "svg" in shown(found)
    assert repr(found) == f"Result(path={found.path!r})"


def test_a_picture_shows_itself(run):
    from flaxcnn.reports import curves

    picture = curves.learning(made.history(), "loss", 4)
    assert "<svg" in picture._repr_svg_()


# -- in a browser --------------------------------------------------------------------------------

# What a notebook puts around it; a fragment must be legible on whatever that is.
NOTEBOOKS = {"light": ("#ffffff", "#1b1f23"), "dark": ("#111111", "#e0e0e0")}
CONTRAST = """
(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const paper = luminance(parse(getComputedStyle(document.body).backgroundColor));
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].filter((n) => n.nodeType === 3)
      .map((n) => n.textContent).join("");
    if (e.tagName === "STYLE" || !own.trim() || !e.checkVisibility()) continue;
    const style = getComputedStyle(e);
    const ink = luminance(parse(e instanceof SVGElement ? style.fill : style.color));
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    found.push([ratio, own.trim().slice(0, 40)]);
  }
  return found;
})()
"""


@pytest.mark.slow
@pytest.mark.skipif(program() is None, reason="needs Chromium (Debian: apt install chromium)")
@pytest.mark.parametrize("mode", NOTEBOOKS)
def test_fragments_are_legible_in_any_notebook(tmp_path, mode):
    paper, ink = NOTEBOOKS[mode]
    parts = "".join(shown(result(kind, tmp_path / kind)) for kind in KINDS)
    file = tmp_path / "notebook.html"
    file.write_text(
        f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>x</title>'
        f'<body style="background:{paper};color:{ink};font-family:sans-serif">{parts}'
    )
    with browser(tmp_path / "chromium") as tab:
        for width in (375, 1000):
            tab.open(file, width)
            fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
            assert tab.run(fits)
            found = tab.run(CONTRAST)
            assert len(found) > 50
            assert [text for ratio, text in found if ratio < 4.5] == []
        tab.screenshot(tmp_path / "notebook.png")
        assert tab.messages == []
        assert tab.requests == [file.as_uri()] * 2
