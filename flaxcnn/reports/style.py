"""One look for every picture: a fixed colour for each split, and ink that suits any background.

Pictures are drawn without background and with `INK`, which is legible on white and on black. In a
page the ink becomes the colour of the text around it, and each colour of `COLOURS` a CSS variable
with a lighter value for dark mode. Colours are Okabe and Ito's, which the colour-blind can tell
apart, and never alone: line styles, markers and signs mean the same in print without colour.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import matplotlib.colors
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from flaxcnn.reports.charts import Chart

INK = "#767676"  # contrast of 4.5 to both white and black
# Name -> (on white and in print, on black).
COLOURS = {
    "train": ("#0072b2", "#56b4e9"),
    "clean_train": ("#a8558a", "#cc79a7"),
    "validation": ("#bf5300", "#f0842c"),
    "test": ("#00805e", "#2fb592"),
    "error": ("#b3261e", "#ff8a80"),
    # Recipes beside each other, which are no splits
    "side_1": ("#2459ba", "#82b1ff"),
    "side_2": ("#ad4700", "#ffa05c"),
    "side_3": ("#00765f", "#41cfa8"),
    "side_4": ("#983d84", "#e394ce"),
    "side_5": ("#785f00", "#dfc24a"),
    "side_6": ("#006f82", "#5ccbe0"),
    "side_7": ("#5b6068", "#b6bcc4"),
    "side_8": ("#b02749", "#ff8fa3"),
}
TRAIN, CLEAN_TRAIN, VALIDATION, TEST, ERROR = (light for light, _ in list(COLOURS.values())[:5])
SIDES = 8
PAPERS = ("#ffffff", "#14171a")  # of a page, light and dark
STEPS = 8  # of shades of a matrix's cells
DASHES = ("", "7 4", "2 3", "9 3 2 3")  # of a chart's lines, as SVG has them
LINES = {"train": "-", "clean_train": ":", "val": "--", "test": "-."}  # by prefix in the records
MARKERS = "osD^vP*Xh<>p"  # with COLOURS' first four: 12 runs before a pair repeats
TITLE = "title"  # of the drawing of a picture's title, which a page says itself
HEADROOM = 0.3  # inches that it takes
WIDTH = 4.8  # inches: as wide as a phone, so that text keeps its size there
# Bold colour up to 80 % only: text in ink stays legible on the strongest cell in both modes.
SHADES = LinearSegmentedColormap.from_list("shades", [(0, 0.447, 0.698, 0), (0, 0.447, 0.698, 0.8)])
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "flaxcnn", "svg.fonttype": "none", "text.parse_math": False,
    "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "axes.titlecolor": INK,
    "xtick.color": INK, "ytick.color": INK, "grid.color": INK, "grid.alpha": 0.25,
    "grid.linewidth": 0.6, "axes.grid": True, "axes.axisbelow": True, "axes.spines.top": False,
    "axes.spines.right": False, "axes.facecolor": "none", "figure.facecolor": "none",
    "legend.frameon": False, "lines.linewidth": 1.6, "lines.markersize": 4,
    "axes.formatter.useoffset": False, "image.cmap": "gray",
}  # fmt: skip

styled = matplotlib.rc_context(STYLE)  # decorates each function that draws


@dataclass(frozen=True)
class Picture:
    """A drawing with a text alternative, computed from the data it shows.

    A page says the title above it and the `insight` below it; `alt` is read to those who cannot see
    it. Where there is a `chart`, a page with scripts draws that in place of the figure.
    """

    name: str  # of its file
    title: str
    alt: str
    figure: Figure
    insight: str = ""  # one line, what to notice
    chart: Chart | None = None

    def _repr_svg_(self) -> str:
        """How a notebook shows it."""
        return svg(self)


def blank(height: float, width: float = WIDTH) -> Figure:
    """An empty figure, in inches."""
    return Figure(figsize=(width, height))


def panel(
    figure: Figure, left: float, bottom: float, right: float = 0.12, top: float = 0.36
) -> Axes:
    """Axes with margins in inches: a layout engine would take longer than the drawing."""
    width, height = figure.get_size_inches()
    return figure.add_axes(
        (left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height)
    )


def pair_of(number: int) -> tuple[str, str]:
    """(colour, marker) of a run among several."""
    shades = list(COLOURS.values())[:4]
    return shades[number % len(shades)][0], MARKERS[number % len(MARKERS)]


def side_of(number: int) -> tuple[str, str]:
    """(name of a colour in CSS, dashes) of a recipe among several, in a chart."""
    return f"side-{number % SIDES + 1}", DASHES[number // SIDES % len(DASHES)]


def shades() -> dict[str, tuple[str, str, str, str]]:
    """Class in CSS -> fill of a matrix's cell on white and on black, and the ink on each.

    `right-0` to `right-8` are of the diagonal, `wrong-0` to `wrong-8` of errors.
    """
    found = {}
    for kind, name, most in (("right", "test", 0.55), ("wrong", "error", 0.85)):
        colours = COLOURS[name]
        for step in range(STEPS + 1):
            share = 0.06 + (most - 0.06) * step / STEPS
            light, dark = (_mixed(paper, colour, share)
                           for paper, colour in zip(PAPERS, colours, strict=True))  # fmt: skip
            found[f"{kind}-{step}"] = (light, dark, ink_on(light), ink_on(dark))
    return found


def _mixed(paper: str, colour: str, share: float) -> str:
    below, above = (matplotlib.colors.to_rgb(one) for one in (paper, colour))
    red, green, blue = ((1 - share) * a + share * b for a, b in zip(below, above, strict=True))
    return matplotlib.colors.to_hex((red, green, blue))


def ink_on(colour: str) -> str:
    """Black or white, whichever stands out more from a colour."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
              for c in matplotlib.colors.to_rgb(colour)]  # fmt: skip
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if luminance > 0.179 else "#ffffff"


def clean(text: str) -> str:
    """Text that XML can hold: control characters are replaced."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "�", text)


def short(text: str, most: int) -> str:
    """At most so many characters, the end of longer ones cut."""
    text = clean(" ".join(text.split()))
    return text if len(text) <= most else text[: most - 1] + "…"


def heading(axes: Axes, title: str) -> None:
    """The title, above the whole picture's left edge."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    height = figure.get_size_inches()[1]
    figure.text(0.02, 1 - 0.06 / height, clean(title), va="top", ha="left", weight="bold", size=10,
                gid=TITLE)  # fmt: skip


def margin(names: Sequence[str]) -> float:
    """Inches that tick labels of size 8 need."""
    return 0.12 + 0.075 * max((len(name) for name in names), default=0)


@styled
def svg(picture: Picture) -> str:
    """The drawing as SVG text, equal for equal data."""
    file = io.StringIO()
    FigureCanvasSVG(picture.figure).print_svg(
        file, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    return file.getvalue()


def _without_headroom(match: re.Match[str]) -> str:
    points = 72 * HEADROOM
    return f'viewBox="0 {points:g} {match[1]} {float(match[2]) - points:g}"'


def inline(picture: Picture, text: str) -> str:
    """SVG text as an element of a page: no prologue, no title, ids of its own, its colours."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body, titled = re.subn(f'<g id="{TITLE}">.*?</g>', "", body, count=1, flags=re.DOTALL)
    if titled:
        body = re.sub(r'viewBox="0 0 (\S+) (\S+)"', _without_headroom, body, count=1)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(
        r' id="([^"]+)"',
        lambda match: f' id="{picture.name}-{match[1]}"' if match[1] in used else "",
        body,
    )
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{picture.name}-", body)
    body = re.sub(r" font-family: [^;]*;", "", body)
    # A third of the file: turns by nothing, and the indentation
    body = re.sub(r' transform="rotate\(-0 [^)]*\)"', "", body)
    body = re.sub(r"\n +", "\n", body)
    body = body.replace(INK, "currentColor")
    for name, (light, _) in COLOURS.items():
        body = body.replace(light, f"var(--{name.replace('_', '-')})")
    # A size in CSS, so that it can shrink; the words go to who cannot see it.
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    return body.replace("<svg", f'<svg role="img" aria-labelledby="{picture.name}-alt"', 1)
