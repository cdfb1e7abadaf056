"""Eager updates, without a compiler: Adam on the 48 leaves of a small transformer, in three libraries.

Six blocks of four square matrices and four vectors each. One call takes STEPS steps, all with the same
gradients; the parameters after the first call are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from rounds import Group, Results, Row, Settings, Way

import pure_sgd as ps

STEPS = 10
RATE = 1e-3
BLOCKS = 6
MATRICES = ("key", "output", "query", "value")
VECTORS = ("bias", "offset", "scale", "shift")
WIDTHS = {"eager/adam48 w16": 16, "eager/adam48 w128": 128, "eager/adam48 w512": 512}

Call = Callable[[], list[torch.Tensor]]


def tensors(width: int, device: torch.device) -> tuple[Any, Any]:
    """Parameters and their gradients."""

    def draw(generator: torch.Generator) -> Any:
        shapes = {name: (width, width) for name in MATRICES} | {name: (width,) for name in VECTORS}
        return [
            {name: torch.randn(shape, generator=generator).to(device) for name, shape in shapes.items()}
            for _ in range(BLOCKS)
        ]

    return draw(torch.Generator().manual_seed(0)), draw(torch.Generator().manual_seed(1))


def ours(params: Any, grads: Any) -> Call:
    tx = ps.adam(RATE)
    state = tx.init(params)

    @torch.no_grad()
    def work() -> list[torch.Tensor]:
        nonlocal params, state
        for _ in range(STEPS):
            updates, state = tx.update(grads, state, params)
            params = ps.apply_updates(params, updates)
        return ps.tree.leaves(params)

    return work


def torch_optimizer(params: Any, grads: Any, **options: Any) -> Call:
    parameters = [torch.nn.Parameter(leaf.clone()) for leaf in ps.tree.leaves(params)]
    for parameter, grad in zip(parameters, ps.tree.leaves(grads), strict=True):
        parameter.grad = grad
    optimizer = torch.optim.Adam(parameters, RATE, **options)

    def work() -> list[torch.Tensor]:
        for _ in range(STEPS):
            optimizer.step()
        return [parameter.detach() for parameter in parameters]

    return work


def torchopt(params: Any, grads: Any, **options: Any) -> Call:
    library = import_module("torchopt")
    tx = library.adam(RATE, **options)
    state = tx.init(params)

    @torch.no_grad()
    def work() -> list[torch.Tensor]:
        nonlocal params, state
        for _ in range(STEPS):
            updates, state = tx.update(grads, state, params=params, inplace=False)
            params = library.apply_updates(params, updates, inplace=False)
        return ps.tree.leaves(params)

    return work


def group(name: str, settings: Settings) -> Group:
    """One width."""
    params, grads = tensors(WIDTHS[name], settings.device)

    def way(make: Callable[..., Call], threads: int | None = None, **options: Any) -> Way:
        return Way(partial(make, params, grads, **options), read, threads)

    ways = {
        "pure_sgd": way(ours),
        "pure_sgd, 1 thread": way(ours, threads=1),
        "torch foreach": way(torch_optimizer, foreach=True),
        "torch foreach, 1 thread": way(torch_optimizer, threads=1, foreach=True),
        "TorchOpt": way(torchopt),
        "TorchOpt accelerated": way(torchopt, use_accelerated_op=True),
    }
    own = ("pure_sgd", "pure_sgd, 1 thread")
    why = "a pure update writes fresh memory: copies, zeros and two passes more than in place"
    rows = [
        Row(own, ("torch foreach", "torch foreach, 1 thread"), 1.0, faster=True, why=why),
        Row(own, ("TorchOpt", "TorchOpt accelerated"), 3.0, faster=True, why=why),
    ]
    return Group(name, ways, rows, steps=STEPS)


def read(params: list[torch.Tensor]) -> Results:
    return {"params": [leaf.clone() for leaf in params]}


GROUPS: dict[str, Callable[[Settings], Group]] = {name: partial(group, name) for name in WIDTHS}
