"""One HTML file that holds everything: what a report is made of, and how it is written.

A kind of record (run, study, several of them) gives a `Page`; nothing here knows what it is about.
Texts are plain; the template escapes them all.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

import flaxcnn
from flaxcnn.records.tables import Table
from flaxcnn.reports import style
from flaxcnn.reports.commands import shell_path
from flaxcnn.reports.style import Picture

TEMPLATE = Path(__file__).with_name("page.html")
SCRIPTS = [Path(__file__).with_name(name) for name in ("page.js", "charts.js")]
FRAGMENT = Path(__file__).with_name("fragment.html")
MOST = 12  # lines of a table in a fragment


@dataclass
class Section:
    """A part of the page under a heading."""

    name: str  # in its address
    title: str
    text: str = ""
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    folded: list[Table] = field(default_factory=list)  # shown when asked for
    commands: list[tuple[str, str]] = field(default_factory=list)  # what it does, the command


@dataclass
class Page:
    """A report: the figure that counts, what to beware of, and then the rest."""

    title: str
    figure: str  # the headline's number
    meaning: str  # what it is, in words
    flag: str  # of the protocol
    doubtful: bool  # whether the flag is a warning
    facts: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    text: str = ""  # for a terminal, beside the headline
    sections: list[Section] = field(default_factory=list)

    def draw(
        self, section: Section, what: str, function: Callable[..., Picture], *args: Any
    ) -> None:
        """Add a picture; one that cannot be drawn becomes a warning, and the page goes on."""
        try:
            section.pictures.append(function(*args))
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            self.warnings.append(f"The picture of {what} could not be drawn ({cause[:200]}).")

    @property
    def pictures(self) -> list[Picture]:
        """All of them."""
        return [picture for section in self.sections for picture in section.pictures]


@dataclass(frozen=True)
class Rendered:
    """The page as HTML, and each picture as an SVG file of its own."""

    html: str
    svgs: dict[str, str]
    warnings: list[str]
    text: str  # the headline and what else a terminal can show


def render(page: Page) -> Rendered:
    """The page as HTML; a picture that cannot be written becomes a warning."""
    svgs, inlined = _drawn(page)
    page.sections = [s for s in page.sections if s.pictures or s.tables or s.folded or s.commands]
    script = "\n".join(path.read_text(encoding="utf-8").strip() for path in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    html = _fill(TEMPLATE, page=page, svg=inlined, script=Markup(script), script_digest=digest)
    text = f"{page.title}\n{page.figure}\n{page.flag}" + (f"\n\n{page.text}" if page.text else "")
    return Rendered(html, svgs, list(page.warnings), style.clean(text))


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
    for section in page.sections:
        for picture in list(section.pictures):
            try:
                svgs[picture.name] = style.svg(picture)
                inlined[picture.name] = Markup(style.inline(picture, svgs[picture.name]))
            except Exception as error:
                section.pictures.remove(picture)
                cause = f"{type(error).__name__}: {error}"
                page.warnings.append(f"{picture.title}: could not be drawn ({cause[:200]}).")
    return svgs, inlined


def _fill(template: Path, **values: Any) -> str:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["clean"] = style.clean
    compiled = environment.from_string(template.read_text(encoding="utf-8"))
    return compiled.render(colours=style.COLOURS, version=flaxcnn.__version__, **values)
