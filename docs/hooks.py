"""mkdocs hooks: pages whose source is elsewhere in the repository, and links that leave docs/.

A page links to files as they are in the repository, so the links work on a code host too. In the
site a link to an included file becomes a link to its page, and a link to any other file of the
repository becomes plain text. A link to nothing stays, and mkdocs refuses it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
INCLUDED = {  # file in the repository -> page or file of the site
    "experiments/RESULTS.md": "results.md",
    "benchmarks/NOTES.md": "benchmarks/notes.md",
    "cloud/README.md": "howto/cloud.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/results/peers-cpu.svg": "images/peers-cpu.svg",
    "benchmarks/results/study-scaling-cpu.svg": "images/study-scaling-cpu.svg",
    "benchmarks/results/keras-notebook-cpu.svg": "images/keras-notebook-cpu.svg",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the included files."""
    for source, page in INCLUDED.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point the links of a page at the site."""
    origins = {site: source for source, site in INCLUDED.items()}
    uri = page.file.src_uri
    origin = origins.get(uri, f"docs/{uri}")
    return LINK.sub(lambda match: rewritten(match, origin, uri), markdown)


def rewritten(match: re.Match[str], origin: str, uri: str) -> str:
    """One link of the page `uri` whose source is the file `origin`."""
    image, text, target = match.groups()
    path, _, anchor = target.partition("#")
    if not path or "://" in target or target.startswith("mailto:"):
        return match[0]
    full = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path))
    if full in INCLUDED:
        site = INCLUDED[full]
    elif (ROOT / full).is_dir():
        return text
    elif full.startswith("docs/"):
        site = full.removeprefix("docs/")
    elif (ROOT / full).exists():
        return text  # a file of the repository that the site does not have
    else:
        return match[0]
    relative = posixpath.relpath(site, posixpath.dirname(uri) or ".")
    return f"{image}[{text}]({relative}{'#' + anchor if anchor else ''})"
