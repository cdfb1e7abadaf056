"""The package reads from the top of the list down: imports point up it, and files stay small."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath

import pytest

PACKAGE = Path(__file__).parents[1] / "pure_sgd"

LAYERS = (
    "errors",
    "hints",
    "arguments",
    "recipe",
    "functorch",
    "tree",
    "random",
    "data",
    "models",
    "losses",
    "gradients",
    "schedules",
    "projections",
    "transforms",
    "optimizers",
    "training",
    "distributed",
    "bridges",
    "theory",
    "plotting",
    "__init__",
)
LONGEST_FILE = 300
NAMES_OF_NOTHING = {"utils", "misc", "common", "core", "helpers", "_src"}

Sources = dict[str, str]
"""Path from the folder that holds the package, such as ``pure_sgd/tree.py``, to source."""


def module_name(path: str) -> str:
    """``pure_sgd/data/order.py`` -> ``pure_sgd.data.order``; a folder goes by its own name."""
    return ".".join(PurePosixPath(path).with_suffix("").parts).removesuffix(".__init__")


def layer_of(module: str) -> str:
    """The second word of a module's name; the package's own file has none."""
    return [*module.split("."), "__init__"][1]


def imported_names(path: str, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The full dotted names that a statement asks for; dots start at the folder of its file."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
        return
    folder = PurePosixPath(path).parent.parts
    start = folder[: len(folder) - node.level + 1] if node.level else ()
    stem = [*start, *([node.module] if node.module else [])]
    yield from (".".join([*stem, alias.name]) for alias in node.names)


def imports(path: str, source: str) -> Iterator[tuple[int, str, bool]]:
    """Line, dotted name and whether importing the file runs it, of every import in it."""

    def visit(node: ast.AST, runs: bool) -> Iterator[tuple[int, str, bool]]:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for name in imported_names(path, node):
                yield node.lineno, name, runs
        waits = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or (
            isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        )
        for child in ast.iter_child_nodes(node):
            yield from visit(child, runs and not waits)

    return visit(ast.parse(source), True)


def upward_and_cyclic_imports(sources: Sources) -> list[str]:
    """Imports within the package that do not point up the list, and cycles inside a folder."""
    modules = {module_name(path): path for path in sources}
    root = next(iter(sources)).split("/")[0]
    complaints: list[str] = []
    siblings: dict[str, set[str]] = {}
    for path, source in sources.items():
        here = module_name(path)
        siblings[here] = set()
        if layer_of(here) not in LAYERS:
            complaints.append(f"{path}: {layer_of(here)} is not in the list of layers")
            continue
        for line, name, runs in imports(path, source):
            if name.split(".")[0] != root:
                continue
            # What is imported is either a module or something in one.
            there = name if name in modules or name == root else name.rpartition(".")[0]
            if layer_of(there) == "plotting" and not runs:
                continue  # what draws itself asks for its picture when it is drawn
            if layer_of(there) not in LAYERS:
                complaints.append(f"{path}:{line}: {there} is not in the list of layers")
            elif layer_of(there) == layer_of(here):
                siblings[here].add(there)
            elif LAYERS.index(layer_of(there)) > LAYERS.index(layer_of(here)):
                complaints.append(f"{path}:{line}: {there} comes after {layer_of(here)}")
    try:
        TopologicalSorter(siblings).prepare()
    except CycleError as cycle:
        complaints.append(f"cycle: {' -> '.join(cycle.args[1])}")
    return complaints


def misplaced_libraries(sources: Sources) -> list[str]:
    """Imports of optree outside the tree, and of matplotlib where it is not drawn with."""
    complaints: list[str] = []
    for path, source in sources.items():
        for line, name, runs in imports(path, source):
            library = name.split(".")[0]
            if library == "optree" and layer_of(module_name(path)) != "tree":
                complaints.append(f"{path}:{line}: only tree imports optree")
            if library == "matplotlib" and layer_of(module_name(path)) != "plotting":
                complaints.append(f"{path}:{line}: only plotting imports matplotlib")
            elif library == "matplotlib" and runs:
                complaints.append(f"{path}:{line}: matplotlib is imported inside functions only")
    return complaints


def shapeless_files(sources: Sources) -> list[str]:
    """Files too long for one idea, or whose name says nothing of it."""
    complaints: list[str] = []
    for path, source in sources.items():
        # The flat namespace is a list to look things up in, and as long as the list is.
        length = len(
            [line for line in source.splitlines() if not re.match(r"from \S+ import (\w+) as \1$", line)]
        )
        if length > LONGEST_FILE:
            complaints.append(f"{path}: {length} lines, at most {LONGEST_FILE}")
        for word in set(PurePosixPath(path).with_suffix("").parts) & NAMES_OF_NOTHING:
            complaints.append(f"{path}: {word} names no idea")
    return complaints


def optimizers_that_calculate(sources: Sources) -> list[str]:
    """Arithmetic where chains are named: a sum, a product, a root belongs into a transform."""
    complaints: list[str] = []
    for path, source in sources.items():
        if layer_of(module_name(path)) != "optimizers":
            continue
        for node in ast.walk(ast.parse(source)):
            # A bar is a type such as ``float | None``.
            if isinstance(node, ast.BinOp) and not isinstance(node.op, ast.BitOr):
                complaints.append(f"{path}:{node.lineno}: {ast.unparse(node)} is arithmetic")
    return complaints


CHECKS = (upward_and_cyclic_imports, misplaced_libraries, shapeless_files, optimizers_that_calculate)


@pytest.mark.parametrize("check", CHECKS)
def test_the_package_keeps_to_the_list(check):
    files = sorted(PACKAGE.rglob("*.py"))
    sources = {path.relative_to(PACKAGE.parent).as_posix(): path.read_text() for path in files}
    assert check(sources) == []


WELL_MADE = {
    "p/__init__.py": "from .errors import E\nfrom .transforms import chain",
    "p/errors.py": "import math\nclass E(ValueError): ...",
    "p/tree.py": "import optree\nfrom .errors import E",
    "p/transforms/__init__.py": "from .chain import chain\nfrom .clip import clip",
    "p/transforms/chain.py": "from .. import tree\nfrom ..tree import map",
    "p/transforms/clip.py": "from .chain import chain\nfrom . import chain\nimport p.tree",
    "p/optimizers/sgd.py": "def sgd(rate: float | None = None): ...",
    "p/training/records.py": "class History:\n    def plot(self):\n        from ..plotting import draw",
    "p/plotting.py": "if TYPE_CHECKING:\n    import matplotlib\ndef draw():\n    import matplotlib",
}


@pytest.mark.parametrize("check", CHECKS)
def test_a_well_made_package_draws_no_complaint(check):
    assert check(WELL_MADE) == []


@pytest.mark.parametrize(
    "path, source, complaint",
    [
        ("p/errors.py", "from .tree import map", "p/errors.py:1: p.tree comes after errors"),
        ("p/errors.py", "import p.tree as t", "p/errors.py:1: p.tree comes after errors"),
        ("p/errors.py", "from p import tree", "p/errors.py:1: p.tree comes after errors"),
        (
            "p/tree.py",
            "def map():\n    if True:\n        from .transforms.chain import chain",
            "p/tree.py:3: p.transforms.chain comes after tree",
        ),
        ("p/tree.py", "import p", "p/tree.py:1: p comes after tree"),
        ("p/tree.py", "from . import apply", "p/tree.py:1: p comes after tree"),
        (
            "p/transforms/chain.py",
            "from ..training.state import TrainState",
            "p/transforms/chain.py:1: p.training.state comes after transforms",
        ),
        ("p/tree.py", "from .plotting import draw", "p/tree.py:1: p.plotting comes after tree"),
        ("p/tree.py", "from .solvers import cg", "p/tree.py:1: p.solvers is not in the list"),
        ("p/solvers.py", "", "p/solvers.py: solvers is not in the list"),
        ("p/transforms/chain.py", "from .clip import clip", "cycle: p.transforms."),
        ("p/transforms/chain.py", "from . import clip", "cycle: p.transforms."),
        ("p/transforms/chain.py", "from ..transforms import x", "cycle: p.transforms"),
        ("p/transforms/tree.py", "import optree", "p/transforms/tree.py:1: only tree imports"),
        ("p/losses.py", "from optree import tree_map", "p/losses.py:1: only tree imports"),
        ("p/theory/rate.py", "def f():\n    import matplotlib", "rate.py:2: only plotting imp"),
        ("p/plotting.py", "import matplotlib.pyplot as plt", "plotting.py:1: matplotlib is imp"),
        ("p/theory/rate.py", "\n" * 301, "p/theory/rate.py: 301 lines, at most 300"),
        ("p/optimizers/sgd.py", "def f(x):\n    return 2 * x", "p/optimizers/sgd.py:2: 2 * x is arith"),
        ("p/theory/utils.py", "", "p/theory/utils.py: utils names no idea"),
        ("p/theory/_src/rate.py", "", "p/theory/_src/rate.py: _src names no idea"),
    ],
)
def test_each_violation_draws_its_complaint(path, source, complaint):
    sources = {**WELL_MADE, path: source}
    found = [text for check in CHECKS for text in check(sources)]
    assert len(found) == 1
    assert complaint in found[0]
