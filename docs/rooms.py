"""Writes a page for each room of the package: its public names, and what their docstrings say."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from sphinx.application import Sphinx

import pure_sgd as ps

FOLDER = Path(__file__).parent / "api"
#: What nobody calls: the ground that the others stand on.
INTERNAL = {"functorch", "recipe"}
#: The rooms whose names are not all in the flat namespace: users write ``ps.theory.risk``.
OPEN = set(re.findall(r"^ *from \. import (\w+) as \1$", inspect.getsource(ps), re.MULTILINE))
SECTIONS = {"Args", "Attributes", "Example", "Raises", "Returns", "Source", "Yields"}


def rooms() -> list[ModuleType]:
    found = {module.name for module in pkgutil.iter_modules(ps.__path__)} - INTERNAL
    return [importlib.import_module(f"pure_sgd.{name}") for name in sorted(found)]


def public_names(room: ModuleType) -> dict[str, Any]:
    """The functions and classes that a room makes, by the names under which users find them."""
    found: dict[str, Any] = {}
    for name, value in sorted(vars(room).items(), key=lambda item: item[0].lower()):
        if not isinstance(value, (FunctionType, type)) or name.startswith(("_", "check_")):
            continue
        if not value.__module__.startswith(room.__name__):
            continue
        if getattr(ps, name, None) is value:
            found[f"pure_sgd.{name}"] = value
        elif room.__name__.partition(".")[2] in OPEN:
            found[f"{room.__name__}.{name}"] = value
    return found


def page(room: ModuleType) -> str:
    """A table of the names of a room with a line on each, then all that is to be said of them."""
    title = room.__name__.partition(".")[2]
    names = public_names(room)
    lines = [
        title,
        "=" * len(title),
        "",
        inspect.getdoc(room) or "",
        "",
        ".. autosummary::",
        "   :nosignatures:",
        "",
    ]
    lines += [f"   ~{name}" for name in names]
    for name, value in names.items():
        short = name.rpartition(".")[2]
        lines += ["", short, "-" * len(short), ""]
        lines.append(f".. auto{'class' if isinstance(value, type) else 'function'}:: {name}")
        # The fields of a record are in its signature.
        if isinstance(value, type) and not hasattr(value, "_fields"):
            lines.append("   :members:")
    return "\n".join(lines) + "\n"


def contents(shown: dict[str, ModuleType]) -> str:
    """The first page: each room with the first line of its docstring."""
    title = "Every public name"
    *others, last = [f"``{name}``" for name in shown if name in OPEN]
    apart = f"{', '.join(others)} and {last}"
    lines = [title, "=" * len(title), ""]
    lines += [f"By room, from the docstrings. All but those of {apart} lie flat in ``pure_sgd``.", ""]
    for name, room in shown.items():
        lines += [f":doc:`{name}`", f"   {(inspect.getdoc(room) or '').splitlines()[0]}", ""]
    return "\n".join([*lines, ".. toctree::", "   :hidden:", "", *(f"   {name}" for name in shown), ""])


def write_pages(app: Sphinx) -> None:
    FOLDER.mkdir(exist_ok=True)
    shown = {room.__name__.partition(".")[2]: room for room in rooms() if public_names(room)}
    pages = {f"{name}.rst": page(room) for name, room in shown.items()}
    pages["index.rst"] = contents(shown)
    for old in FOLDER.glob("*.rst"):
        if old.name not in pages:
            old.unlink()
    for name, text in pages.items():
        # An unchanged page keeps its date, and is not read again.
        if not (FOLDER / name).exists() or (FOLDER / name).read_text() != text:
            (FOLDER / name).write_text(text)


def show_as_written(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """A rule, an indented paragraph, is code; and a star or a bar in prose is only that."""
    paragraphs = "\n".join(lines).split("\n\n")
    for i, paragraph in enumerate(paragraphs):
        if paragraph.split(":\n")[0] in SECTIONS:
            break
        if all(line.startswith("    ") for line in paragraph.splitlines()):
            paragraphs[i] = "::\n\n" + paragraph.replace("``", "") if paragraph.strip() else ""
        else:
            parts = re.split("(``.*?``)", paragraph, flags=re.DOTALL)
            parts[::2] = [re.sub(r"([*|])", r"\\\1", prose) for prose in parts[::2]]
            paragraphs[i] = "".join(parts)
    lines[:] = "\n\n".join(paragraphs).split("\n")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write_pages)
    # Before napoleon, which has the usual priority of 500, reads the sections.
    app.connect("autodoc-process-docstring", show_as_written, priority=400)
    return {"parallel_read_safe": True}
