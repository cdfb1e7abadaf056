"""The formulas of docs/scaling.md, as they stand there, beside what processes really move and hold."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pages import DOCS, run
from ranks import mesh_of
from torch import distributed
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.debug import CommDebugMode
from traffic import received

import pure_sgd as ps

WORLD, STEPS = 4, 3
PLANS = {"data parallel": None, "ZeRO-1": "optimizer", "full sharding": "all"}
model = ps.models.mlp((784, 512, 512, 10))


def example_loss(params: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (model.apply(params, x) - y).square().mean()


def prepared(number: int, plan: str | None) -> tuple[Callable[..., Any], ps.TrainState]:
    mesh, tx = mesh_of(number), ps.adam(1e-3)
    step = ps.make_step(ps.distributed.data_parallel(ps.empirical_risk(example_loss), mesh), tx)
    state = ps.init_train_state(model.init(ps.random.key(0)), tx)
    if plan is None:
        return step, state
    return ps.distributed.on_shards(step), ps.distributed.shard(state, mesh, plan)


def counted(number: int, plan: str | None) -> tuple[float, int]:
    """The bytes that this rank receives in a step, and those that it holds."""
    step, state = prepared(number, plan)
    batch = torch.ones(2, 784), torch.ones(2, 10)
    state, _ = step(state, batch)
    seen: list[int] = []
    for steps in (0, STEPS):
        before = received()
        for _ in range(steps):
            state, _ = step(state, batch)
        distributed.barrier()
        seen.append(received() - before)
        distributed.barrier()
    leaves = ps.tree.leaves((state.params, state.opt_state))
    own = [leaf.to_local() if isinstance(leaf, DTensor) else leaf for leaf in leaves]
    return (seen[1] - seen[0]) / STEPS, sum(leaf.nbytes for leaf in own)


def formulas() -> dict[str, Any]:
    found: dict[str, Any] = {}
    run(DOCS / "scaling.md", found.update)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what its sockets have received")
@pytest.mark.parametrize("number", [2, 4])
def test_a_step_moves_and_holds_what_the_page_says(ranks, number):
    page, parameters = formulas(), sum(leaf.numel() for leaf in ps.tree.leaves(model.init(ps.random.key(0))))
    for name, plan in PLANS.items():
        moved, held = page["moved"](name, parameters, number), page["held"](name, parameters, number)
        for bytes_moved, bytes_held in ranks(counted, number, plan):
            assert bytes_moved == pytest.approx(moved, rel=0.01), name
            # A row is not cut in two.
            assert bytes_held == pytest.approx(held, rel=0.01), name


def collectives() -> int:
    step, state = prepared(2, None)
    with CommDebugMode() as seen:
        step(state, (torch.ones(2, 784), torch.ones(2, 10)))
    return seen.get_total_counts()


def test_a_step_of_data_parallel_is_one_message(ranks):
    assert ranks(collectives) == [1, 1, 1, 1]
