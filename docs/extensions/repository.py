"""Make links to the repository's files work on the site as they do where the sources are read.

A page may include a file from outside of `docs`: links to that file then lead to the page, and the
links in it are read from the file's directory. Any other file is offered for download. What isn't
there is MyST's warning, which fails the build.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent.parent
ROOT = DOCS.parent
_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
_INCLUDE = re.compile(r"^```\{include\} (\S+)$", re.MULTILINE)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the extension."""
    included = _included()

    def source_read(app: Sphinx, docname: str, content: list[str]) -> None:
        page = DOCS / f"{docname}.md"
        content[0] = repoint(content[0], page.parent, page.parent, included)

    def include_read(app: Sphinx, path: Path, parent: str, content: list[str]) -> None:
        page = DOCS / f"{app.env.docname}.md"  # `parent` is without its directory
        content[0] = repoint(content[0], (DOCS / path).resolve().parent, page.parent, included)

    app.connect("source-read", source_read)
    app.connect("include-read", include_read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def repoint(text: str, base: Path, page: Path, included: dict[Path, Path]) -> str:
    """Return Markdown written in the directory `base` as it must be in the directory `page`."""

    def new(link: re.Match[str]) -> str:
        file, fragment = (base / link[1]).resolve(), link[2] or ""
        file = included.get(file, file)
        return f"]({os.path.relpath(file, page)}{fragment})"

    return _LINK.sub(new, text)


def _included() -> dict[Path, Path]:
    """Return the files outside of `docs` that are pages by inclusion, with their pages."""
    return {
        (page.parent / name).resolve(): page
        for page in DOCS.rglob("*.md")
        for name in _INCLUDE.findall(page.read_text(encoding="utf-8"))
    }
