"""A chain as a ``torch.optim.Optimizer``, beside torch's own: one ``step()``, gradients given.

20 leaves of a million numbers are limited by memory, 300 of 64 by what a call costs. A chain that torch has a
kernel for is a call of that; another one is compiled (``compile=True``), or passes over memory with each of
its operations. All parameters are compared after STEPS steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from rounds import Group, Results, Row, Settings, Way

import pure_sgd as ps

STEPS = 4
RATE, MAX_NORM = 1e-3, 1.0

Leaves = list[torch.Tensor]


class Kind(NamedTuple):
    """A rule, in this library and in torch."""

    transform: ps.GradientTransformation
    optimizer: Callable[..., torch.optim.Optimizer]  # of parameters, with fused or foreach
    clips: bool = False


ADAM_W = ps.adamw(RATE, weight_decay=1e-2)
KINDS = {
    "sgd": Kind(
        ps.sgd(RATE, momentum=0.9, weight_decay=1e-4),
        partial(torch.optim.SGD, lr=RATE, momentum=0.9, weight_decay=1e-4),
    ),
    "adam": Kind(ps.adam(RATE), partial(torch.optim.Adam, lr=RATE)),
    "adamw": Kind(ADAM_W, partial(torch.optim.AdamW, lr=RATE)),
    "clipped adamw": Kind(
        ps.chain(ps.clip_by_global_norm(MAX_NORM), ADAM_W), partial(torch.optim.AdamW, lr=RATE), True
    ),
}
SIZES = {"20M": (20, 1_000_000), "300 leaves": (300, 64)}
QUICK = 5_000_000  # numbers
#: What binds where a chain is slower, by whether it is more than a rule that torch has a kernel for.
WHY = (
    "the same call of the same kernel: two optimizers of torch's own differ as much",
    "each operation of the chain passes over fresh memory",
)


def parameters(leaves: int, size: int, device: torch.device) -> Leaves:
    """With their gradients."""
    torch.manual_seed(0)
    params: Leaves = [torch.nn.Parameter(torch.randn(size).to(device)) for _ in range(leaves)]
    for parameter in params:
        parameter.grad = torch.randn(size).to(device)
    return params


def stepping(params: Leaves, step: Callable[[], object]) -> Callable[[], Leaves]:
    """After all but one of the steps whose result is compared."""

    def work() -> Leaves:
        step()
        return params

    for _ in range(STEPS - 1):
        work()
    return work


def ours(kind: Kind, make: Callable[[], Leaves], compile: bool) -> Callable[[], Leaves]:
    params = make()
    return stepping(params, ps.to_torch_optimizer(kind.transform, params, compile=compile).step)


def of_torch(kind: Kind, make: Callable[[], Leaves], how: str) -> Callable[[], Leaves]:
    """``how`` is fused or foreach."""
    params = make()
    optimizer = kind.optimizer(params, **{how: True})

    def step() -> None:
        if kind.clips:
            torch.nn.utils.clip_grad_norm_(params, MAX_NORM)
        optimizer.step()

    return stepping(params, step)


def read(params: Leaves) -> Results:
    return {"parameters": [p.detach().clone() for p in params]}


def group(rule: str, sizes: str, settings: Settings) -> Group:
    kind, (leaves, size) = KINDS[rule], SIZES[sizes]
    leaves = min(leaves, QUICK // size) if settings.quick else leaves
    make = partial(parameters, leaves, size, settings.device)
    compiles = (False, True) if kind.clips else (False,)
    named = {"compile=True" if compile else "to_torch_optimizer": compile for compile in compiles}
    ways = {name: Way(partial(ours, kind, make, compile), read) for name, compile in named.items()}
    ways |= {how: Way(partial(of_torch, kind, make, how), read) for how in ("fused", "foreach")}
    rows = [Row((name,), ("fused",), 1.0, True, WHY[kind.clips]) for name in named]
    return Group(f"bridge/{rule} {sizes}", ways, rows)


GROUPS = {f"bridge/{rule} {sizes}": partial(group, rule, sizes) for rule in KINDS for sizes in SIZES}
