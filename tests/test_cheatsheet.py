"""Every cell of the cheatsheet runs, and the cells of a row make the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cheatsheet import LIBRARIES, PAGE, ROWS, SETUP, Row, page

STEPS = 20
FEATURES = np.sin(np.arange(320.0)).reshape(64, 5).astype(np.float32)
LABELS = (FEATURES @ np.arange(5.0, dtype=np.float32) > 0).astype(np.float32)
WEIGHTS = np.linspace(-1, 1, 5).astype(np.float32)
CURVATURE = np.linspace(0.5, 2, 5).astype(np.float32)

ALL = [row for rows in ROWS.values() for row in rows]

#: How a column trains with the optimizer that its cell has made, and where the weights are then.
TRAINING = (
    """\
for _ in range(STEPS):
    optimizer.zero_grad()
    F.mse_loss(model(features), labels).backward()
    optimizer.step()
    if "scheduler" in globals():
        scheduler.step()
w = model.weight
""",
    """\
opt_state = tx.init(params)
for _ in range(STEPS):
    updates, opt_state = tx.update(jax.grad(risk)(params, features, labels), opt_state, params)
    params = optax.apply_updates(params, updates)
w = params["w"]
""",
    """\
w = ps.fit(risk, tx, params, data, steps=STEPS)[0].params["w"]
""",
)


def given(column: int) -> dict[str, Any]:
    """What the page says that every cell of a column finds, with the same weights in all three."""
    if LIBRARIES[column] == "Optax":
        make: Any = pytest.importorskip("jax.numpy").asarray
    else:
        make = torch.tensor
    labels = LABELS[:, None] if column == 0 else LABELS
    names: dict[str, Any] = {"features": make(FEATURES), "labels": make(labels), "STEPS": STEPS}
    names["params"] = {"w": make(WEIGHTS), "b": make(np.float32(0.5))}
    names["h"] = {"w": make(CURVATURE), "b": make(np.float32(1))}
    exec(SETUP[column], names)
    if column == 0:
        with torch.no_grad():
            names["model"].weight.copy_(torch.tensor(WEIGHTS))
            names["model"].bias.fill_(0.5)
    return names


def outcome(row: Row, column: int) -> np.ndarray[Any, Any]:
    """What the cell makes, as a flat array."""
    names = given(column)
    exec(row.cells[column] or "", names)
    if row.same is None:
        exec(TRAINING[column], names)
    same = row.same or "w"
    found = eval(same if isinstance(same, str) else same[column], names)
    return np.ravel(found.detach().numpy() if isinstance(found, torch.Tensor) else np.asarray(found))


@pytest.mark.parametrize("column", [0, 1], ids=LIBRARIES[:2])
@pytest.mark.parametrize("row", ALL, ids=lambda row: row.task)
def test_a_cell_makes_what_ours_makes(row: Row, column: int, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if row.cells[column] is not None:
        np.testing.assert_allclose(outcome(row, column), outcome(row, 2), rtol=2e-4, atol=1e-6)


def test_every_task_differs_from_plain_sgd():
    """A row whose optimizer does nothing of its own would compare as well."""
    plain = next(row for row in ALL if row.task == "SGD")
    others = [row for row in ALL if row.same is None and row is not plain]
    assert others
    for row in others:
        assert np.abs(outcome(row, 2) - outcome(plain, 2)).max() > 1e-3, row.task


def test_the_page_is_current():
    assert PAGE.read_text() == page(), "write it anew: python tests/cheatsheet.py"
