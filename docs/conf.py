"""How `make docs-site` makes a site of these pages. They are plain Markdown, and read the same where a forge shows them.

A page named in PARTS is the table of contents of its part: the pages that its lists link to, in that order. A page that stands in
none comes last in the reference. A link that leads nowhere and an anchor that is not there are warnings, and warnings are errors.
"""

from __future__ import annotations

import posixpath
import re
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PARTS = ("index", "how-to/index", "reference", "explanation")
LISTED = re.compile(r"^\s*- (?P<entry>.*)", re.MULTILINE)
LINK = re.compile(r"\]\(([^)#:]+)\.md\)")

project = "batchsched"
author = "The batchsched team"
copyright = author  # noqa: A001 - Sphinx's name
version = release = version_of("batchsched")
extensions = ["myst_parser"]
myst_heading_anchors = 4
source_suffix = {".md": "markdown"}
suppress_warnings = ["misc.highlighting_failure"]  # Mermaid diagrams stay text here: what draws them would come from a network
html_theme = "furo"
html_title = f"batchsched {version}"
html_copy_source = False
html_show_sphinx = False


def listed(text: str, page: str) -> list[str]:
    """The pages that the entries of a page's lists link to, by their names from the root of the documentation."""
    here = posixpath.dirname(page)
    found = (posixpath.normpath(posixpath.join(here, target)) for entry in LISTED.findall(text) for target in LINK.findall(entry))
    return [name for name in dict.fromkeys(found) if not name.startswith("..")]


def unlisted(app: Sphinx) -> list[str]:
    """The pages that stand in no part's lists."""
    named = {name for part in PARTS for name in listed(Path(app.srcdir, f"{part}.md").read_text("utf-8"), part)}
    return sorted(app.env.found_docs - named - {PARTS[0]})


def add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Give a part's page its table of contents, which its own list already shows."""
    if page in PARTS:
        names = listed(source[0], page) + (unlisted(app) if page == "reference" else [])
        pages = "\n".join(f"/{name}" for name in names)
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls first."""
    app.connect("source-read", add_contents)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
