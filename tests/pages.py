"""The pages of the documentation as programs: what their Python fences do, and what they say it prints.

The fences of one page run in order and share their names. A ``text`` fence right after one is what it prints.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
FENCE = re.compile(r"^```python\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", re.MULTILINE | re.DOTALL)


class Snippet(NamedTuple):
    """A fence of a page."""

    line: int  # of its first line, from 1
    code: str
    shown: str | None  # what the page says that it prints; None: nothing is said


def snippets(page: str) -> Iterator[Snippet]:
    """The Python fences in the text of a page."""
    for found in FENCE.finditer(page):
        yield Snippet(page.count("\n", 0, found.start(1)) + 1, found[1], found[2])


def run(path: Path, after: Callable[[dict[str, Any]], None] = lambda names: None) -> None:
    """Run the fences of a page in order, and ``after(names)`` behind each."""
    page = path.read_text()
    # A module of its own: the compiler looks functions up in the module that they name.
    module = ModuleType(f"page_{path.stem}")
    sys.modules[module.__name__] = module
    names = vars(module)
    for snippet in snippets(page):
        # Blank lines before it: a traceback then shows the line of the page.
        program = compile("\n" * (snippet.line - 1) + snippet.code, str(path), "exec", dont_inherit=True)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(program, names)
        if snippet.shown is not None and printed.getvalue() != snippet.shown:
            raise AssertionError(
                f"{path}:{snippet.line} prints\n{printed.getvalue()}and not\n{snippet.shown}"
            )
        after(names)
