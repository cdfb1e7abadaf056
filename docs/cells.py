"""Says where a line of code in a table may go on below: after a bracket, sooner than within a name."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

CELL = re.compile("<td>.*?</td>", re.DOTALL)
CALL = re.compile(r"(?<=\w\()(?=[^)<])")


def let_break(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Put a hint there that is not copied with the code, as a space of no width would be."""
    if "body" in context:
        context["body"] = CELL.sub(lambda cell: CALL.sub("<wbr>", cell[0]), context["body"])


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("html-page-context", let_break)
    return {"parallel_read_safe": True}
