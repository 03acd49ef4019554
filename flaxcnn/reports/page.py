"""One HTML file that holds everything: what a report is made of, and how it is written.

A kind of record (run, study, several of them) gives a `Page`; nothing here knows what it is about.
Texts are plain but for `code` between backticks; the template escapes them all.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup, escape

import flaxcnn
from flaxcnn.records.tables import Table
from flaxcnn.reports import style
from flaxcnn.reports.commands import shell_path
from flaxcnn.reports.sparkline import sparkline
from flaxcnn.reports.style import Picture
from flaxcnn.reports.tiles import Galleries, Matrix, Tiles

HERE = Path(__file__).parent
TEMPLATE, FRAGMENT = HERE / "page.html", HERE / "fragment.html"
CSS = HERE / "page.css"
SCRIPTS = [HERE / name for name in ("page.js", "charts.js")]
MOST = 12  # lines of a table in a fragment
HALF, WHOLE = 6, 12  # of the twelve columns of a page


@dataclass(frozen=True)
class Facts:
    """Names and values under a title."""

    title: str
    facts: Sequence[tuple[str, str]]


Content = Picture | Table | Tiles | Matrix | Galleries | Facts


class Block(NamedTuple):
    """A part of a section, as wide as so many of twelve columns; several stand on one another."""

    content: Content | list[Content]
    span: int = WHOLE


class Versus(NamedTuple):
    """A figure beside the one that counts, on one axis: places in percent of it."""

    name: str
    text: str
    at: float
    colour: str  # a name of `style.COLOURS` in CSS
    low: float | None = None
    high: float | None = None


@dataclass
class Section:
    """A part of the page under a heading: blocks, then pictures, tables and what is folded."""

    name: str  # in its address
    title: str
    text: str = ""
    pictures: list[Picture] = field(default_factory=list)  # half as wide as the page
    tables: list[Table] = field(default_factory=list)  # as wide as the page
    folded: list[Table] = field(default_factory=list)  # shown when asked for
    commands: list[tuple[str, str]] = field(default_factory=list)  # what it does, the command
    blocks: list[Block] = field(default_factory=list)

    def add(self, content: Content | list[Content], span: int = WHOLE) -> None:
        """Add a block."""
        self.blocks.append(Block(content, span))

    @property
    def all_blocks(self) -> list[Block]:
        """Everything that is not folded."""
        pictures = [Block(picture, HALF) for picture in self.pictures]
        return [*self.blocks, *pictures, *(Block(table) for table in self.tables)]

    @property
    def drawn(self) -> list[Picture]:
        """All of its pictures."""
        found: list[Picture] = []
        for block in self.all_blocks:
            parts = block.content if isinstance(block.content, list) else [block.content]
            found += (part for part in parts if isinstance(part, Picture))
        return found


@dataclass
class Page:
    """A report: the figure that counts, what to beware of, and then the rest."""

    title: str
    figure: str  # the headline's number
    meaning: str  # what it is, in words
    flag: str  # of the protocol
    doubtful: bool  # whether the flag is a warning
    facts: list[tuple[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # what makes the figures wrong
    warnings: list[str] = field(default_factory=list)  # what is worth a look
    notes: list[str] = field(default_factory=list)  # what is as it should be, and good to know
    text: str = ""  # for a terminal, beside the headline
    sections: list[Section] = field(default_factory=list)
    label: str = ""  # what the figure is, in a word or two
    interval: Sequence[str] = ()  # how well it is known, in parts that lines do not break
    versus: list[Versus] = field(default_factory=list)  # what it is compared with
    words: str = ""  # the recipe, in a sentence or two
    trust: list[tuple[str, str]] = field(default_factory=list)  # yes, no or open; of what
    lead: Picture | None = None  # beside the figure
    files: list[Picture] = field(default_factory=list)  # only written as files
    tables: dict[str, str] = field(default_factory=dict)  # written beside it: name -> text

    def draw(
        self, section: Section, what: str, function: Callable[..., Picture], *args: Any,
        span: int | None = None,
    ) -> None:  # fmt: skip
        """Add a picture; one that cannot be drawn becomes a warning, and the page goes on."""
        if picture := self.drawn(what, function, *args):
            if span is None:
                section.pictures.append(picture)
            else:
                section.add(picture, span)

    def drawn(self, what: str, function: Callable[..., Picture], *args: Any) -> Picture | None:
        """A picture; None and a warning if it cannot be drawn."""
        try:
            return function(*args)
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            self.warnings.append(f"The picture of {what} could not be drawn ({cause[:200]}).")
        return None

    @property
    def pictures(self) -> list[Picture]:
        """All that it shows."""
        lead = [self.lead] if self.lead else []
        return [*lead, *(picture for section in self.sections for picture in section.drawn)]


@dataclass(frozen=True)
class Rendered:
    """The page as HTML, and each picture as an SVG file of its own."""

    html: str
    svgs: dict[str, str]
    warnings: list[str]  # problems, then what is worth a look, then notes
    text: str  # the headline and what else a terminal can show
    tables: dict[str, str] = field(default_factory=dict)  # files beside it: name -> text


def render(page: Page) -> Rendered:
    """The page as HTML; a picture that cannot be written becomes a warning."""
    svgs, inlined = _drawn(page)
    page.sections = [s for s in page.sections if s.all_blocks or s.folded or s.commands]
    script = "\n".join(path.read_text(encoding="utf-8").strip() for path in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    css = Markup(CSS.read_text(encoding="utf-8").strip())
    html = _fill(TEMPLATE, page=page, svg=inlined, script=Markup(script), script_digest=digest,
                 css=css, shades=style.shades())  # fmt: skip
    said = " ".join(filter(None, [page.label, page.figure, *page.interval]))
    text = "\n".join(filter(None, [page.title, said, page.flag, page.text and f"\n{page.text}"]))
    told = [*page.problems, *page.warnings, *page.notes]
    return Rendered(html, svgs, told, style.clean(text), page.tables)


def render_fragment(page: Page, path: Path) -> str:
    """A short page as a part of another one, such as a notebook: no script, its colours.

    Args:
        page: only with the pictures and tables to show.
        path: of the records; it makes the ids of pictures unique.
    """
    own = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    for section in page.sections:
        section.pictures = [replace(p, name=f"{p.name}-{own}") for p in section.pictures]
        section.tables = [_cut(table) for table in section.tables]
    _, inlined = _drawn(page)
    return _fill(FRAGMENT, page=page, svg=inlined, command=f"flaxcnn report {shell_path(path)}")


def _cut(table: Table) -> Table:
    if len(table.rows) <= MOST:
        return table
    caption = f"{table.caption} (the first {MOST} of {len(table.rows)})"
    return replace(table, caption=caption, rows=table.rows[:MOST])


def _drawn(page: Page) -> tuple[dict[str, str], dict[str, Markup]]:
    """Each picture by name, as a file and as an element of the page."""
    svgs, inlined = {}, {}
    for picture in [*page.pictures, *page.files]:
        try:
            svgs[picture.name] = style.svg(picture)
            inlined[picture.name] = Markup(style.inline(picture, svgs[picture.name]))
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            page.warnings.append(f"{picture.title}: could not be drawn ({cause[:200]}).")
            _leave_out(page, picture)
    return svgs, inlined


def _leave_out(page: Page, picture: Picture) -> None:
    if page.lead is picture:
        page.lead = None
    for section in page.sections:
        section.pictures = [one for one in section.pictures if one is not picture]
        section.blocks = [block for block in section.blocks if block.content is not picture]


def prose(text: str) -> Markup:
    """Text with `code` between backticks, escaped.

    >>> prose("see `a < b`")
    Markup('see <code>a &lt; b</code>')
    """
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(style.clean(text)))))


def _kind(content: Content | list[Content]) -> str:
    return "stack" if isinstance(content, list) else type(content).__name__.lower()


def _fill(template: Path, **values: Any) -> str:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(clean=style.clean, prose=prose, kind=_kind, sparkline=sparkline)
    compiled = environment.from_string(template.read_text(encoding="utf-8"))
    return compiled.render(colours=style.COLOURS, version=flaxcnn.__version__, **values)
