"""The page docs/catalogue.md: every transform, optimizer and schedule, as docstrings and tests have it.

``python tests/catalogue_page.py`` writes it anew; a test holds it to what this makes.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from catalogue import CATALOGUE, TORCH, Entry
from test_golden import DEVIATIONS, TRAJECTORIES, as_call, implemented

import pure_sgd as ps

PAGE = Path(__file__).parents[1] / "docs" / "catalogue.md"

INTRODUCTION = """\
# The catalogue

Every transform, optimizer and schedule of pure_sgd: its rule, where the rule comes from, what it equals, and
what it remembers. `tests/catalogue_page.py` writes this page from the docstrings and from the tables that
the tests are held to; `help(pure_sgd.adam)` has the arguments, the errors and an example.

**Rule.** `u` is what goes into a transform and, on the left of `=`, what comes out of it; `t` counts updates
from 1. Products, roots and powers of trees are taken entry by entry. An optimizer is a chain, and its rule is
the chain.

**Equals.** *Optax* and *torch.optim* stand here where a test holds the rule, with Optax's defaults or with
the options that the notes name, to theirs: in float64 to 12 digits of what Optax computed (7 where Optax
itself computes in float32, as it does its schedules), to 10 of torch.optim. *The paper* stands where neither
has the rule, or has another; the tests then follow the paper.

**State.** The numbers that are kept for a weight of `r` x `c` entries, `n = r c` of them, besides a few that
do not grow with it; with the options of the name's row in `tests/catalogue.py`.
"""


class Name(NamedTuple):
    """A public function and the docstring's parts."""

    name: str
    function: Callable[..., Any]
    summary: str
    equations: list[str]
    remarks: list[str]
    source: str


def read(name: str) -> Name:
    """What the docstring of a public function says."""
    function = getattr(ps, name)
    text = re.split(r"\n(?:Raises|Example|Args):\n", inspect.getdoc(function) or "")[0]
    summary, *paragraphs = text.split("\n\n")
    equations = [p for p in paragraphs if all(line.startswith("    ") for line in p.splitlines())]
    prose = " ".join(" ".join(p.split()) for p in paragraphs if p not in equations)
    prose, _, source = re.sub(r"\bSources: ", "Source: ", prose).partition("Source: ")
    sentences = re.split(r"(?<=\.) (?=[A-Z`])", prose)
    remarks = [s.strip() for s in sentences if re.search(r"Optax|torch\.|torch's|\bpaper", s)]
    remarks = [s for s in remarks if not re.fullmatch(r"The rule of (Optax|[ `.\w]|and of)*\.", s)]
    return Name(name, function, " ".join(summary.split()), equations, remarks, source.strip())


def markdown(text: str) -> str:
    """Prose of a docstring, with its links as this page's."""
    text = re.sub(r":\w+:`~?(\w+)`", lambda match: linked(match[1]), text)
    return text.replace("``", "`")


def linked(name: str) -> str:
    """A name as a link to what this page says of it."""
    return f"[{name}](#{name})" if name in vars(ps) else f"`{name}`"


def recipe(name: str) -> str:
    """The chain that an optimizer is, with the least that it must be told."""
    parameters = inspect.signature(getattr(ps, name)).parameters.values()
    values = {"learning_rate": 0.1, "l2_norm_clip": 1.0, "noise_multiplier": 1.0, "seed": 0}
    asked = {p.name for p in parameters if p.default is p.empty or p.name == "seed"}
    return repr(getattr(ps, name)(**{key: value for key, value in values.items() if key in asked}))


def optax_keys(name: str) -> list[str]:
    """The recorded trajectories of Optax that ``name`` is held to."""
    held = [key for key in implemented(TRAJECTORIES) if key not in DEVIATIONS]
    return [key for key in held if as_call(key).startswith(f"{name}(")]


def equals(name: str) -> str:
    """Whose rule it is shown to be."""
    found = ["Optax"] if optax_keys(name) else []
    found += [f"torch.optim.{other}" for other, names in TORCH.items() if name in names]
    return ", ".join(found) or ("the paper" if read(name).source else "")


def state_size(entry: Entry) -> str:
    """The numbers in the state for a matrix of r rows and c columns, but for those that are always there."""

    def kept(rows: int, columns: int) -> int:
        state = entry.build(**entry.hyperparams).init(torch.zeros(rows, columns))
        return sum(leaf.numel() for leaf in ps.tree.leaves(state))

    shapes = [(300, 500), (500, 300), (400, 700), (600, 600), (700, 300), (350, 800)]
    terms = {"n": lambda r, c: r * c, "r²": lambda r, c: r * r, "c²": lambda r, c: c * c}
    terms |= {"r": lambda r, c: r, "c": lambda r, c: c, "": lambda r, c: 1}
    design = torch.tensor([[term(r, c) for term in terms.values()] for r, c in shapes], dtype=torch.float64)
    sizes = torch.tensor([kept(r, c) for r, c in shapes], dtype=torch.float64)
    counts = torch.linalg.solve(design, sizes).round().long().tolist()
    parts = [
        f"{count} {term}" if count > 1 else term
        for count, term in zip(counts, terms, strict=True)
        if count and term
    ]
    return " + ".join(parts) or "none"


def described(name: str) -> list[str]:
    """The lines of the page about one name."""
    it = read(name)
    lines = [f"### {name}", "", markdown(it.summary), ""]
    rule = it.equations
    if not rule and it.function.__module__.startswith("pure_sgd.optimizers."):
        rule = [f"    {recipe(name)}"]
    for equation in rule:
        lines += [*equation.splitlines(), ""]
    facts = {"Notes": markdown(" ".join(it.remarks)), "Source": markdown(it.source)}
    return [*lines, *(f"{title}: {text}\n" for title, text in facts.items() if text)]


def summary_table(names: list[str]) -> list[str]:
    """One row a name."""
    lines = ["| | | equals | state |", "|---|---|---|---|"]
    for name in names:
        entries = [entry for row, entry in CATALOGUE.items() if row.split(" ")[0] == name]
        state = state_size(entries[0]) if entries else ""
        what = markdown(read(name).summary).replace("|", "\\|")
        lines.append(f"| {linked(name)} | {what} | {equals(name)} | {state} |")
    return [*lines, ""]


def families() -> dict[str, dict[str, list[str]]]:
    """Part of the page -> heading -> names: a family is a file, and its heading that file's first line."""
    functions = {name for name in vars(ps) if inspect.isfunction(getattr(ps, name))}
    schedules = {name for name in functions if getattr(ps, name).__module__.startswith("pure_sgd.schedules.")}
    found: dict[str, dict[str, list[str]]] = {}
    parts = {"Optimizers": "optimizers", "Transforms": "transforms", "Schedules": "schedules"}
    rows = {row.split(" ")[0] for row in CATALOGUE}
    for title, room in parts.items():
        groups: dict[str, list[str]] = defaultdict(list)
        for name in sorted(rows | schedules):
            module = getattr(ps, name).__module__
            if module.split(".")[1] == room:
                heading = (importlib.import_module(module).__doc__ or "").split("\n")[0]
                groups[heading].append(name)
        found[title] = dict(sorted(groups.items()))
    return found


def page() -> str:
    """The whole page."""
    lines = [INTRODUCTION]
    for title, groups in families().items():
        names = sorted(name for group in groups.values() for name in group)
        lines += [f"## The {len(names)} {title.lower()}", "", *summary_table(names)]
    for groups in families().values():
        for heading, names in groups.items():
            lines += [f"## {heading.rstrip('.')}", ""]
            for name in names:
                lines += described(name)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
