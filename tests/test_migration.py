"""Every cell of docs/migration.md runs, and the two of a row make the same numbers."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import torch
from pages import DOCS

STEPS = 20
PAGE = (DOCS / "migration.md").read_text()

#: How both train with an optimizer that a cell has made.
TRAINING = (
    """\
state = tx.init(weights)
for _ in range(STEPS):
    updates, state = tx.update(grad(risk)(weights), state, params=weights)
    weights = torchopt.apply_updates(weights, updates, inplace=False)
w = weights["weight"]
""",
    """\
w = ps.fit(risk, tx, params, data, steps=STEPS)[0].params["weight"]
""",
)


class Row(NamedTuple):
    """What a table says of a task; ``setup`` is what the section begins with."""

    task: str
    library: str
    setup: tuple[str, str]
    cells: tuple[str, str]


def rows() -> Iterator[Row]:
    for section in PAGE.split("\n## ")[1:]:
        library = section.splitlines()[0]
        theirs, ours = re.findall(r"^```py\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
        for line in re.findall(r"^\| [^|].*$", section, re.MULTILINE):
            task, *cells = line.strip("| ").split(" | ")
            left, right = ("\n".join(part.strip("`") for part in cell.split("<br>")) for cell in cells)
            yield Row(task, library, (theirs, ours), (left, right))


ROWS = list(rows())


def outcome(row: Row, column: int) -> torch.Tensor:
    """What the last line of a cell makes; of an optimizer, the weights where it leads."""
    torch.manual_seed(0)
    names: dict[str, Any] = {"features": torch.randn(64, 5), "labels": torch.randn(64), "STEPS": STEPS}
    names |= {name: torch.nn.Linear(5, 1) for name in ("module", "other")}
    exec(row.setup[column], names)
    exec(row.cells[column], names)
    if ast.unparse(ast.parse(row.cells[column]).body[-1]).startswith("tx ="):
        exec(TRAINING[column], names)
        return names["w"]
    last = ast.parse(row.cells[column]).body[-1]
    assert isinstance(last, ast.Assign)
    target = last.targets[0]
    made = target.elts[0] if isinstance(target, ast.Tuple) else target
    return names[ast.unparse(made)]


@pytest.mark.filterwarnings("ignore:We've integrated functorch:FutureWarning")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.library.split()[0]}: {row.task}")
def test_both_cells_of_a_row_make_the_same(row: Row):
    if "torchopt" in row.setup[0]:
        pytest.importorskip("torchopt")
    theirs, ours = outcome(row, 0).detach(), outcome(row, 1).detach()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_no_row_is_lost():
    assert [row.library for row in ROWS].count("TorchOpt") >= 15
    assert len(ROWS) == PAGE.count("\n| ") - 2


def test_every_optimizer_differs_from_plain_sgd():
    """A row whose optimizer does nothing of its own would compare as well."""
    made = [row for row in ROWS if row.cells[1].startswith("tx =") and "\n" not in row.cells[1]]
    plain = outcome(made[0], 1)
    assert made[0].task == "SGD"
    for row in made[1:]:
        assert float((outcome(row, 1) - plain).abs().max()) > 1e-3, row.task
