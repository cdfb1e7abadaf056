"""What the pages of the documentation show runs, and prints what they say it prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import DOCS, PAGES, run, snippets

PROGRAMS = [page for page in PAGES if any(snippets(page.read_text()))]


@pytest.mark.parametrize("page", PROGRAMS, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_a_page_prints_what_it_shows(page: Path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_every_linked_file_is_there(page: Path):
    """Those that the build makes are linked in its own check."""
    links = re.findall(r"\]\(([\w./-]+\.\w+)[)#]", page.read_text())
    made = ("pictures/", "api/", "benchmarks.md")
    missing = [link for link in links if not (page.parent / link).exists()]
    assert [link for link in missing if not link.removeprefix("../").startswith(made)] == []


def test_a_page_that_prints_something_else_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```python\nprint(x + 1)\n```\n\n```text\n3\n```\n")
    with pytest.raises(AssertionError, match=r"page.md:6 prints\n2\nand not\n3"):
        run(page)


def test_a_program_that_fails_names_its_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nx = 1\nx.lost\n```\n")
    with pytest.raises(AttributeError) as failure:
        run(page)
    assert failure.traceback[-1].path == page
    assert failure.traceback[-1].lineno + 1 == 5
