"""Follows every link of the finished site that stays in it."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError


class Links(HTMLParser):
    """What a page points to, and what in it can be pointed to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.targets.add(value)
            elif value and name in ("id", "name"):
                self.names.add(value)


def broken(site: Path) -> list[str]:
    """Each link within ``site`` that leads nowhere, with the page that it is on."""
    pages = {path: Links(path.read_text()) for path in sorted(site.rglob("*.html"))}
    found: list[str] = []
    for page, links in pages.items():
        for target in sorted(links.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            there = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            place = unquote(parts.fragment)
            if not there.exists() or (place and there in pages and place not in pages[there].names):
                found.append(f"{page.relative_to(site)}: {target}")
    return found


def check(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html" and (lost := broken(Path(app.outdir).resolve())):
        raise ExtensionError("links that lead nowhere:\n" + "\n".join(lost))


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", check)
    return {"parallel_read_safe": True}
