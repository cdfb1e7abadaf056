"""A step of two ranks with half of a batch each, beside one rank with that half, and with the whole batch.

Ranks are processes of one thread that talk through gloo. Parameters are compared: those of two ranks are
those of one rank with the whole batch. The peer is ``DistributedDataParallel`` for the same model as a
module, compiled where ours is. It leaves the loss of each rank as it is; ours is that of all rows.
"""

from __future__ import annotations

import atexit
import copy
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from noise_cases import Case, fill, layers, make_case
from rounds import Group, Line, Results, Row, Settings, Way
from torch import distributed, nn

import pure_sgd as ps

RATE, MOMENTUM = 0.01, 0.9
HALF, WHOLE, TOGETHER = "one rank, half the batch", "one rank, the whole batch", "two ranks"
PEER = "DistributedDataParallel"

#: What binds where two ranks take longer.
WHY = {
    "tiny": "a message takes gloo 0.45 ms, however small",
    "mlp128": "2.7 MB to and fro take as long as half of the batch",
    "transformer": "two ranks share one memory",
}
WHY_EAGER = "one rank's own eager step takes longer than torch's, which is in place"

Work = Callable[[], list[torch.Tensor]]  # takes the steps of one call; the parameters after them

#: What this process has prepared, if it is a rank.
WORKS: dict[str, Work] = {}


def tiny() -> Case:
    """A linear model of 42 parameters at 32 examples."""
    model, module = ps.models.mlp((20, 2)), nn.Sequential(nn.Linear(20, 2))
    params, x = model.init(ps.random.key(0)), ps.random.normal(ps.random.key(1), (32, 20))

    def loss(params: Any, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return ps.losses.softmax_cross_entropy_with_integer_labels(model.apply(params, x), label)

    places = fill(module, layers("mlp", params), params)
    return Case("mlp", params, (x, torch.arange(32) % 2), loss, module, places)


CASES: dict[str, Callable[[], Case]] = {
    "tiny": tiny,
    "mlp128": partial(make_case, "mlp", 128),
    "transformer": partial(make_case, "transformer", 64),
}
#: Steps of one call, uncompiled and compiled: some 0.1 s, beside which it is nothing to tell the ranks.
STEPS = {"tiny": (50, 200), "mlp128": (8, 16), "transformer": (2, 3)}


def ours(case: Case, loss: Callable[..., Any], batch: Any, compiled: bool, steps: int) -> Work:
    tx = ps.sgd(RATE, MOMENTUM)
    step = ps.make_step(loss, tx)
    step = ps.compile_step(step, donate=True) if compiled else step
    state = ps.init_train_state(case.params, tx)

    def work() -> list[torch.Tensor]:
        nonlocal state
        for _ in range(steps):
            state, _ = step(state, batch)
        return ps.tree.leaves(state.params)

    return work


def peer(case: Case, batch: Any, compiled: bool, steps: int) -> Work:
    module = copy.deepcopy(case.module)
    parameters = list(module.parameters())
    module = nn.parallel.DistributedDataParallel(module)
    optimizer = torch.optim.SGD(parameters, RATE, MOMENTUM, fused=True)
    x, labels = batch

    def loss_of_batch(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(module(x).flatten(0, -2), labels.flatten())

    evaluate = torch.compile(loss_of_batch) if compiled else loss_of_batch

    def work() -> list[torch.Tensor]:
        for _ in range(steps):
            optimizer.zero_grad()
            evaluate(x, labels).backward()
            optimizer.step()
        return case.in_order([parameter.detach() for parameter in parameters])

    return work


def prepare(name: str, kind: str, compiled: bool) -> None:
    """On each rank: one way to train a case."""
    from ranks import mesh_of

    case, mesh, steps = CASES[kind](), mesh_of(2), STEPS[kind][compiled]
    half = tuple(leaf.chunk(2)[distributed.get_rank()] for leaf in case.batch)
    loss = ps.empirical_risk(case.loss)
    if name == PEER:
        WORKS[name] = peer(case, half, compiled, steps)
    elif name == TOGETHER:
        WORKS[name] = ours(case, ps.distributed.data_parallel(loss, mesh), half, compiled, steps)
    else:
        WORKS[name] = ours(case, loss, half if name == HALF else case.batch, compiled, steps)


def take_steps(name: str, tell: bool = False) -> list[torch.Tensor]:
    """On each rank: one call of a way, of which those of one rank leave the second at rest."""
    first = distributed.get_rank() == 0
    params = WORKS[name]() if first or name in (TOGETHER, PEER) else []
    return [leaf.clone() for leaf in params] if first and tell else []


def group(kind: str, compiled: bool, settings: Settings) -> Group:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import ranks

    stack = ExitStack()
    pool = stack.enter_context(ranks.started(2))
    atexit.register(stack.close)

    def set_up(name: str) -> Callable[[], Any]:
        pool(prepare, name, kind, compiled)
        return lambda: pool(take_steps, name)

    def read(name: str, found: Any) -> Results:
        what = HALF if name == HALF else WHOLE
        return {f"params of {what}": pool(take_steps, name, True)[0]}

    ways = {name: Way(partial(set_up, name), partial(read, name)) for name in (WHOLE, HALF, TOGETHER, PEER)}
    return Group(name_of(kind, compiled), ways, rows(kind, compiled), STEPS[kind][compiled])


def rows(kind: str, compiled: bool) -> list[Row]:
    return [
        Row((TOGETHER,), (HALF,), 1.25, why=WHY[kind]),
        Row((TOGETHER,), (WHOLE,), 1.0, why=WHY[kind]),
        Row((TOGETHER,), (PEER,), 1.0, faster=True, why="" if compiled else WHY_EAGER),
    ]


def name_of(kind: str, compiled: bool) -> str:
    return f"ranks/{kind}, {'compiled' if compiled else 'eager'}"


GROUPS: dict[str, Callable[[Settings], Group | list[Line]]] = {
    name_of(kind, compiled): partial(group, kind, compiled) for kind in CASES for compiled in (False, True)
}
