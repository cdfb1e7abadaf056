"""An update alone: gradients are given, parameters, optimizer state and the average of the parameters change.

20 million parameters in 20 leaves are limited by memory: plain loops that read and write the same numbers
once are the floor. 300 leaves of 64 numbers are limited by what a call costs. The learning rate follows a
cosine, which the peers are given as a number. All of a state is compared after STEPS steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import peak_memory
import plain_loops
import torch
from rounds import Group, Line, Ratio, Results, Row, Settings, Way, line
from torch.optim.swa_utils import get_ema_multi_avg_fn

import pure_sgd as ps

STEPS = 4
MOMENTUM, AVERAGE, MAX_NORM = 0.9, 0.99, 1.0
RATE, DECAY_STEPS = 0.1, 100_000

Leaves = list[torch.Tensor]


class Kind(NamedTuple):
    """A rule, in this library and in torch."""

    transform: ps.GradientTransformation
    optimizer: Callable[..., torch.optim.Optimizer]  # of parameters, with fused or foreach
    clips: bool
    memory: dict[str, str]  # what the rule remembers: our name, torch's name


KINDS = {
    "sgd": Kind(
        ps.sgd(ps.cosine_decay_schedule(RATE, DECAY_STEPS), momentum=MOMENTUM, weight_decay=1e-4),
        partial(torch.optim.SGD, momentum=MOMENTUM, weight_decay=1e-4),
        False,
        {"trace": "momentum_buffer"},
    ),
    "adamw": Kind(
        ps.chain(
            ps.clip_by_global_norm(MAX_NORM),
            ps.adamw(ps.cosine_decay_schedule(RATE, DECAY_STEPS), weight_decay=1e-2),
        ),
        partial(torch.optim.AdamW, weight_decay=1e-2),
        True,
        {"mu": "exp_avg", "nu": "exp_avg_sq"},
    ),
}


class Case(NamedTuple):
    """How many leaves of how many numbers follow which rule."""

    kind: Kind
    leaves: int
    size: int
    device: torch.device = torch.device("cpu")

    def start(self) -> tuple[Leaves, Leaves]:
        """First parameters, and the gradients of every step."""
        torch.manual_seed(0)
        params, grads = ([torch.randn(self.size) for _ in range(self.leaves)] for _ in range(2))
        return [leaf.to(self.device) for leaf in params], [leaf.to(self.device) for leaf in grads]


def warmed(work: Callable[[], Any]) -> Callable[[], Any]:
    """After all but one of the steps whose result is compared."""
    for _ in range(STEPS - 1):
        work()
    return work


def ours(case: Case) -> Callable[[], ps.TrainState]:
    tx = ps.chain(case.kind.transform, ps.params_ema(AVERAGE))
    params, grads = case.start()

    def step(state: ps.TrainState, grads: Leaves) -> tuple[ps.TrainState, dict[str, torch.Tensor]]:
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        return ps.TrainState(state.step + 1, ps.apply_updates(state.params, updates), opt_state), {}

    compiled = ps.compile_step(step, donate=True)
    state = ps.init_train_state(params, tx)

    def work() -> ps.TrainState:
        nonlocal state
        state, _ = compiled(state, grads)
        return state

    return warmed(work)


def read_ours(case: Case, state: ps.TrainState) -> Results:
    nodes = [node for _, node in ps.tree.walk(state.opt_state)]
    memory = {
        name: next(getattr(node, name) for node in nodes if hasattr(node, name)) for name in case.kind.memory
    }
    return copied(params=state.params, average=ps.eval_params(state.opt_state, state.params), **memory)


def of_torch(case: Case, how: str) -> Callable[[], tuple[torch.optim.Optimizer, Leaves]]:
    """``how`` is fused or foreach."""
    values, grads = case.start()
    params: Leaves = [torch.nn.Parameter(value) for value in values]
    for parameter, grad in zip(params, grads, strict=True):
        parameter.grad = grad
    average = [value.clone() for value in values]
    optimizer = case.kind.optimizer(params, lr=0.1, **{how: True})
    follow = get_ema_multi_avg_fn(AVERAGE)  # torch._foreach_lerp_
    count = 0

    @torch.no_grad()
    def work() -> tuple[torch.optim.Optimizer, Leaves]:
        nonlocal count
        optimizer.param_groups[0]["lr"] = rate_at(count)
        if case.kind.clips:
            torch.nn.utils.clip_grad_norm_(params, MAX_NORM)
        optimizer.step()
        follow(average, params, None)
        count += 1
        return optimizer, average

    return warmed(work)


def read_torch(case: Case, result: tuple[torch.optim.Optimizer, Leaves]) -> Results:
    optimizer, average = result
    params = optimizer.param_groups[0]["params"]
    memory = {name: [optimizer.state[p][theirs] for p in params] for name, theirs in case.kind.memory.items()}
    return copied(params=params, average=average, **memory)


def floor(case: Case, make: Callable[..., Callable[[float], None]]) -> Callable[[], list[Leaves]]:
    params, grads = case.start()
    streams = [params, grads, [torch.zeros_like(p) for p in params], [p.clone() for p in params]]
    run = make(streams, MOMENTUM, 1e-4, 1 - AVERAGE)
    count = 0

    def work() -> list[Leaves]:
        nonlocal count
        run(rate_at(count))
        count += 1
        return streams

    return warmed(work)


def read_floor(streams: list[Leaves]) -> Results:
    params, _, trace, average = streams
    return copied(params=params, trace=trace, average=average)


def rate_at(step: int) -> float:
    return RATE * (1 + math.cos(math.pi * step / DECAY_STEPS)) / 2


def copied(**values: Leaves) -> Results:
    return {name: [leaf.detach().clone() for leaf in leaves] for name, leaves in values.items()}


def group(name: str, settings: Settings) -> Group:
    case, bound, why = CASES[name]
    leaves = min(case.leaves, QUICK_LEAVES, QUICK // case.size) if settings.quick else case.leaves
    case = case._replace(leaves=leaves, device=settings.device)
    ways = {"compiled": Way(partial(ours, case), partial(read_ours, case))}
    for how in ("fused", "foreach"):
        ways[how] = Way(partial(of_torch, case, how), partial(read_torch, case))
    rows = [Row(("compiled",), ("fused", "foreach"), bound, True, why)]
    if name == "update/20M":
        loops = plain_loops.loops(settings.device)
        ways.update({kind: Way(partial(floor, case, make), read_floor) for kind, make in loops.items()})
        rows.append(Row(("compiled",), tuple(loops), 1.15))
    return Group(name.replace(str(CASES[name][0].leaves), str(leaves)), ways, rows)


def memory(settings: Settings) -> list[Line]:
    leaf = LARGE.size * 4
    extra = peak_memory.extra_of(str(Path(__file__).with_name("update_memory.py"))) / leaf
    row = Row(("compiled",), (), 1.0)
    return [line("update/memory", "compiled", "state + one leaf", row, Ratio(extra, extra, extra))]


LARGE = Case(KINDS["sgd"], 20, 1_000_000)
QUICK = 5_000_000  # numbers
QUICK_LEAVES = 100  # three hundred compile for a minute
#: With how many times faster than torch to be, and what binds.
CASES = {
    "update/20M": (
        LARGE,
        1.3,
        "eight numbers move for each parameter in torch, seven here: 1.14 is the most",
    ),
    "update/adamw": (LARGE._replace(kind=KINDS["adamw"]), 1.3, "thirteen numbers move in torch, ten here"),
    "update/300 leaves": (
        Case(KINDS["sgd"], 300, 64),
        1.0,
        "more than half of a call looks at its arguments, leaf by leaf",
    ),
}
GROUPS: dict[str, Callable[[Settings], Group | list[Line]]] = {
    **{name: partial(group, name) for name in CASES},
    "update/memory": memory,
}
