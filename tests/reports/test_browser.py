"""Pages in headless Chromium: nothing fails, nothing overflows, everything can be seen and used."""

import base64
import json
import re
from pathlib import Path

import made
import pytest
from browser import browser, program

from flaxcnn.api.report import compared
from flaxcnn.reports.report import write

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(program() is None, reason="needs Chromium (Debian: apt install chromium)"),
]

# A rule set of our own, after WCAG 2.2: what is found is a sentence each.
RULES = """
(() => {
  const found = [];
  const parse = (text) => {
    const numbers = text.match(/[\\d.]+/g).map(Number);
    return numbers.length === 3 ? [...numbers, 1] : numbers;
  };
  const luminance = (rgb) => rgb.slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (a, b) => {
    const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (high + 0.05) / (low + 0.05);
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] === 1) return colour;
      if (colour[3] > 0) found.push(`${e.tagName}: a background that is half transparent`);
    }
    return [255, 255, 255, 1];
  };
  let texts = 0;
  for (const e of document.querySelectorAll("body *")) {
    if (["SCRIPT", "STYLE"].includes(e.tagName)) continue;
    const own = [...e.childNodes].filter((n) => n.nodeType === 3)
      .map((n) => n.textContent).join("");
    if (!own.trim() || !e.checkVisibility()) continue;
    texts += 1;
    const style = getComputedStyle(e);
    const ink = parse(e instanceof SVGElement ? style.fill : style.color);
    const ratio = contrast(ink, behind(e));
    if (ratio < 4.5) found.push(`contrast ${ratio.toFixed(2)}: ${own.trim().slice(0, 40)}`);
  }
  if (texts < 50) found.push(`only ${texts} texts were looked at`);
  if (!document.documentElement.lang) found.push("no language");
  if (!document.title) found.push("no title");
  if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
  if (document.querySelectorAll("main").length !== 1) found.push("not one main");
  let level = 1;
  for (const h of document.querySelectorAll("h1,h2,h3,h4")) {
    const now = Number(h.tagName[1]);
    if (now > level + 1) found.push(`heading ${now} after ${level}`);
    level = now;
  }
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push(`id ${id} twice`);
  for (const e of document.querySelectorAll("img"))
    if (!e.alt.trim()) found.push("an image without words");
  for (const e of document.querySelectorAll("svg:not([aria-hidden])")) {
    const name = document.getElementById(e.getAttribute("aria-labelledby"));
    if (!name || !name.textContent.trim()) found.push("a picture without words");
  }
  for (const e of document.querySelectorAll("button, a, summary"))
    if (!e.textContent.trim()) found.push(`${e.tagName} without a name`);
  for (const e of document.querySelectorAll("a[href^='#']"))
    if (!document.querySelector(e.getAttribute("href"))) found.push(`nothing at ${e.href}`);
  for (const e of document.querySelectorAll("*"))
    if (e.checkVisibility() && e.scrollWidth > e.clientWidth + 1
        && ["auto", "scroll"].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0)
      found.push(`${e.tagName} scrolls, but not by keyboard`);
  for (const table of document.querySelectorAll("table")) {
    if (!table.getAttribute("aria-label")) found.push("a table without a name");
    for (const th of table.querySelectorAll("th"))
      if (!["col", "row"].includes(th.scope)) found.push("a header without scope");
  }
  for (const e of document.querySelectorAll("button, summary, nav a")) {
    const box = e.getBoundingClientRect();
    if (e.checkVisibility() && (box.height < 24 || box.width < 24))
      found.push(`${e.textContent.trim()}: ${box.width}x${box.height} is too small a target`);
  }
  return found;
})()
"""
IMAGES = """
Promise.all([...document.querySelectorAll("image, img")].map((e) => {
  const image = new Image();
  image.src = e.src || e.href.baseVal;
  return image.decode().then(() => image.naturalWidth);
}))
"""


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Kind -> its HTML file."""
    folder = tmp_path_factory.mktemp("reports")
    run, grid = made.run(folder / "run"), made.study(folder / "grid", seeds=4, diverged={1},
        grid={"learning_rate": [0.1, 0.01], "batch_size": [32, 64, 128]})  # fmt: skip
    paths = {"run": [run], "study": [made.study(folder / "study")], "grid": [grid]}
    paths["search"] = [made.search(folder / "search")]
    found = {kind: write(own)[0] for kind, own in paths.items()}
    other = made.study(folder / "other", epochs=9)
    two = write([folder / "study", other], folder / "two.html", compare=compared)[0]
    several = write([run, grid], folder / "several.html")[0]
    return {**found, "several": several, "two": two, "index": write([folder])[0]}


KINDS = ["run", "study", "grid", "search", "several", "two", "index"]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("kind", KINDS)
def test_a_page_can_be_seen_and_used_by_everyone(tab, pages, kind, width, dark):
    tab.messages.clear()
    tab.requests.clear()
    tab.open(pages[kind], width, dark)
    assert tab.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    tab.run("document.querySelectorAll('details').forEach((e) => (e.open = true))")
    assert tab.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert tab.run(RULES) == []
    assert tab.messages == []
    assert [url for url in tab.requests if not url.startswith("data:")] == [pages[kind].as_uri()]
    assert tab.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)"
    )


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("document.querySelector('.meaning').style.color = '#aaa'", "contrast 2."),
        ("document.querySelector('.plot > svg text').style.fill = '#999'", "contrast 2."),
        ("document.querySelector('figcaption').textContent = ''", "a picture without words"),
        ("document.querySelector('main').innerHTML = '<img>'", "an image without words"),
        ("document.querySelector('.scroll').removeAttribute('tabindex')", "not by keyboard"),
        ("document.querySelector('h2').id = 'content'", "id content twice"),
        ("document.querySelector('th button').textContent = ''", "BUTTON without a name"),
    ],
)
def test_the_rules_find_what_is_wrong(tab, pages, fault, says):
    tab.open(pages["grid"], 375)
    tab.run(fault)
    assert any(says in text for text in tab.run(RULES))


@pytest.mark.parametrize("kind", KINDS)
def test_every_image_is_whole(tab, pages, kind):
    tab.open(pages[kind])
    widths = tab.run(IMAGES)
    assert all(widths)
    assert len(widths) >= {"run": 200, "study": 0, "grid": 1, "search": 1}.get(kind, 0)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("kind", ["run", "grid"])
def test_axe_finds_nothing(tab, pages, kind, dark):
    axe = pytest.importorskip("axe_core_python", reason="needs pip install axe-core-python")
    script = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    found = "axe.run().then((all) => all.violations.map((one) => one.id))"
    for fault, rules in (
        (";", []),
        ("document.querySelector('main').id = ''", ["region", "skip-link"]),
    ):
        tab.open(pages[kind], 375, dark)
        tab.run("document.querySelectorAll('details').forEach((e) => (e.open = true))")
        tab.run(f"{fault};{script};1")
        assert tab.run(found) == rules


CHART = "document.querySelector('figure[data-chart]')"


def test_a_chart_tells_its_values_and_hides_lines(tab, pages):
    tab.open(pages["study"])
    assert tab.run(f"{CHART}.querySelectorAll('path.each').length") == 2 * 8
    chart = json.loads(tab.run(f"{CHART}.dataset.chart"))
    tab.run(f"{CHART}.querySelector('svg[tabindex]').focus()")
    press(tab, "ArrowLeft")
    text = tab.run(f"{CHART}.querySelector('.tip').textContent")
    assert text.startswith(f"epoch {chart['lines'][0]['x'][-1]}")
    for line in chart["lines"]:
        assert f"{line['name']} {100 * line['y'][-1]:.2f} %" in text
    press(tab, "ArrowLeft")
    assert tab.run(f"{CHART}.querySelector('.tip').textContent").startswith("epoch 5")
    tab.run(f"{CHART}.querySelector('.bar button.line').click()")
    assert tab.run(f"{CHART}.querySelectorAll('path.line').length") == len(chart["lines"]) - 1
    drawn = f"{CHART}.querySelector('path.line').getAttribute('d')"
    linear = tab.run(drawn)
    tab.run(f"[...{CHART}.querySelectorAll('.bar button')].at(-1).click()")
    assert tab.run(drawn) != linear
    assert tab.messages == []


def test_the_axis_is_chosen(tab, pages):
    """And the marks of epochs move along with their lines."""
    tab.open(pages["run"])
    chart = json.loads(tab.run(f"{CHART}.dataset.chart"))
    names = f"[...{CHART}.querySelectorAll('.bar option')].map((one) => one.value)"
    assert tab.run(names) == ["epoch", "step", "seconds"]
    also = chart["lines"][0]["also"]
    best = f"+{CHART}.querySelector('line.mark').getAttribute('x1')"
    shares = []
    for axis in ("epoch", "step", "seconds"):
        tab.run(f"""(() => {{ const choice = {CHART}.querySelector('.bar select');
          choice.value = '{axis}'; choice.dispatchEvent(new Event('change')); }})()""")
        assert tab.run(f"{CHART}.querySelectorAll('text.name')[0].textContent") == axis
        last = {"epoch": chart["lines"][0]["x"], **also}[axis][-1]
        tab.run(f"{CHART}.querySelector('svg[tabindex]').focus()")
        press(tab, "ArrowLeft")
        head = tab.run(f"{CHART}.querySelector('.tip .head').textContent")
        assert head == f"{axis} {float(f'{last:.4g}'):g}"
        shares.append(tab.run(best))
    assert shares == pytest.approx([shares[0]] * 3, abs=1)  # each epoch takes as long in this run
    assert tab.messages == []


def test_a_cell_of_the_matrix_opens_its_images(tab, pages):
    tab.open(pages["run"])
    shown = """[...document.querySelectorAll('.gallery')]
      .filter((e) => e.checkVisibility()).map((e) => e.id)"""
    assert len(tab.run(shown)) == 1
    cell = "[...document.querySelectorAll('.matrix a')].at(-1)"
    tab.run(f"{cell}.focus()")
    press(tab, "Enter")
    assert tab.run(shown) == [tab.run(f"{cell}.getAttribute('href')")[1:]]
    assert tab.run("document.querySelector('.matrix .share').checkVisibility()") is False
    tab.run("document.querySelector('.bar:has(+ div > .matrix) button').click()")
    assert tab.run("document.querySelector('.matrix .share').checkVisibility()") is True


def test_without_scripts_the_page_reads(tab, pages):
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(pages["run"], 375)
        fits = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert tab.run(fits)
        figures = "[...document.querySelectorAll('figure')]"
        assert tab.run(f"{figures}.every((e) => e.querySelector('svg path'))")
        assert tab.run("document.querySelectorAll('.gallery.open img').length") > 0
        assert tab.run("document.querySelector('.copy, .bar')") is None
    finally:
        tab.call("Emulation.setScriptExecutionDisabled", value=False)


KEYS = {"Enter": 13, "ArrowLeft": 37, "ArrowRight": 39}


def press(tab, key):
    text = {"text": "\r"} if key == "Enter" else {}
    for kind in ("keyDown", "keyUp"):
        tab.call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                 windowsVirtualKeyCode=KEYS[key], **text)  # fmt: skip


def test_a_comparison_is_two_sheets_of_paper(tab, pages):
    tab.open(pages["two"])
    found = tab.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
    assert len(re.findall(rb"/Type\s*/Page\b", base64.b64decode(found["data"]))) <= 2


def test_tables_sort_by_keyboard(tab, pages):
    tab.open(pages["run"])
    column = """[...document.querySelectorAll("table")].find((t) => t.ariaLabel.startsWith("Each"))
      .querySelectorAll("tbody td:nth-child(3)")"""
    recall = f"[...{column}].map((cell) => parseFloat(cell.textContent))"
    before = tab.run(recall)
    assert before != sorted(before)
    tab.run(
        """document.querySelector('table[aria-label^="Each"] th:nth-child(3) button').focus()"""
    )
    for order, said in ((sorted(before), "ascending"), (sorted(before)[::-1], "descending")):
        press(tab, "Enter")
        assert tab.run(recall) == order
        sort = """document.querySelector('table[aria-label^="Each"] th:nth-child(3)').ariaSort"""
        assert tab.run(sort) == said
