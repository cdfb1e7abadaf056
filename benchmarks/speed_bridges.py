"""A chain as a ``torch.optim.Optimizer``, beside torch's own: one ``step()``, gradients given.

20 leaves of a million numbers are limited by memory, 300 of 64 by what a call costs. A chain that torch has a
kernel for is a call of that; a clip by norm before it is ``clip_grad_norm_`` in torch, which writes over the
gradients. All parameters are compared after STEPS steps. Where memory lies makes several percent of a step:
so torch's optimizers take turns with ours on the very same parameters, gradients and moments.
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
    optimizer: Callable[..., torch.optim.Optimizer]  # of parameters
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
#: What binds where a rule alone is slower.
WHY = "the same call of the same kernel on the same memory: within noise"


class Memory:
    """The parameters of all optimizers of a group, their gradients, and the moments of the first."""

    def __init__(self, leaves: int, size: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self._start = [tuple(torch.randn(2, size).to(device)) for _ in range(leaves)]
        self.params: Leaves = [torch.nn.Parameter(torch.empty(size, device=device)) for _ in range(leaves)]
        self._moments: dict[torch.Tensor, dict[str, torch.Tensor]] = {}

    def begin(self) -> Leaves:
        """The parameters, as they were at the start."""
        for parameter, (value, grad) in zip(self.params, self._start, strict=True):
            parameter.data.copy_(value)
            parameter.grad = grad.clone() if parameter.grad is None else parameter.grad.copy_(grad)
        return self.params

    def share(self, optimizer: torch.optim.Optimizer) -> None:
        """Let ``optimizer`` remember, from here on, where the first one does."""
        self._moments = self._moments or optimizer.state
        for parameter, entry in optimizer.state.items():
            names = sorted(entry.keys() - {"step"})
            held = [leaf for _, leaf in sorted(self._moments[parameter].items())]
            for name, leaf in zip(names, held, strict=True):
                entry[name] = leaf.copy_(entry[name])


def stepping(params: Leaves, step: Callable[[], object], steps: int) -> Callable[[], Leaves]:
    """After all but one of so many steps."""

    def work() -> Leaves:
        step()
        return params

    for _ in range(steps - 1):
        work()
    return work


def ours(kind: Kind, memory: Memory) -> Callable[[], Leaves]:
    params = memory.begin()
    optimizer = ps.to_torch_optimizer(kind.transform, params)
    memory.share(optimizer)
    return stepping(params, optimizer.step, STEPS)


def of_torch(kind: Kind, memory: Memory) -> Callable[[], Leaves]:
    params = memory.begin()
    optimizer = kind.optimizer(params, fused=True)

    def step() -> None:
        if kind.clips:
            torch.nn.utils.clip_grad_norm_(params, MAX_NORM)
        optimizer.step()

    step()
    memory.share(optimizer)
    return stepping(params, step, STEPS - 1)


def read(params: Leaves) -> Results:
    return {"parameters": [p.detach().clone() for p in params]}


def group(rule: str, sizes: str, settings: Settings) -> Group:
    kind, (leaves, size) = KINDS[rule], SIZES[sizes]
    leaves = min(leaves, QUICK // size) if settings.quick else leaves
    memory = Memory(leaves, size, settings.device)
    ways = {
        "to_torch_optimizer": Way(partial(ours, kind, memory), read),
        "fused": Way(partial(of_torch, kind, memory), read),
    }
    rows = [Row(("to_torch_optimizer",), ("fused",), 1.0, True, "" if kind.clips else WHY)]
    return Group(f"bridge/{rule} {sizes}", ways, rows)


GROUPS = {f"bridge/{rule} {sizes}": partial(group, rule, sizes) for rule in KINDS for sizes in SIZES}
