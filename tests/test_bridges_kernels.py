"""Chains that torch has a kernel for: its steps, and those of the chain to rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import pure_sgd as ps
from pure_sgd.bridges import in_place
from pure_sgd.bridges.kernels import kernel_of

SGD, ADAM, ADAM_W = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW

#: The same rule here and in torch.
SAME: dict[str, tuple[ps.GradientTransformation, Callable[..., torch.optim.Optimizer]]] = {
    "sgd": (ps.sgd(0.1), partial(SGD, lr=0.1)),
    "decay": (ps.sgd(0.1, weight_decay=0.1), partial(SGD, lr=0.1, weight_decay=0.1)),
    "momentum": (ps.sgd(0.1, momentum=0.9), partial(SGD, lr=0.1, momentum=0.9)),
    "nesterov": (
        ps.sgd(0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    ),
    "dampening": (
        ps.sgd(0.1, momentum=0.9, dampening=0.5),
        partial(SGD, lr=0.1, momentum=0.9, dampening=0.5),
    ),
    "adam": (ps.adam(0.1, b1=0.8, eps=1e-6), partial(ADAM, lr=0.1, betas=(0.8, 0.999), eps=1e-6)),
    "adam with L2": (
        ps.chain(ps.add_decayed_weights(0.1), ps.adam(0.1)),
        partial(ADAM, lr=0.1, weight_decay=0.1),
    ),
    "adamw": (ps.adamw(0.1, weight_decay=0.1), partial(ADAM_W, lr=0.1, weight_decay=0.1)),
    "amsgrad": (
        ps.amsgrad(0.1, max_before_correction=True),
        partial(ADAM, lr=0.1, amsgrad=True),
    ),
}
SCHEDULED = {
    "sgd, scheduled": ps.sgd(ps.cosine_decay_schedule(0.1, 10), momentum=0.9),
    "adamw, scheduled": ps.adamw(ps.linear_schedule(0.0, 0.1, 10), weight_decay=0.1),
}
CHAINS = {**{name: tx for name, (tx, _) in SAME.items()}, **SCHEDULED}


def values(dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    shapes = {"w": (3, 2), "b": (2,), "scale": ()}
    return {name: torch.randn(shape, dtype=dtype) for name, shape in shapes.items()}


def parameters() -> dict[str, torch.Tensor]:
    return {name: torch.nn.Parameter(value) for name, value in values().items()}


def train(optimizer: torch.optim.Optimizer, params: dict[str, torch.Tensor], steps: int = 5) -> None:
    """Steps on the gradients sin(p), which differ from one to the next."""
    for _ in range(steps):
        for p in params.values():
            p.grad = p.detach().sin()
        optimizer.step()


@pytest.mark.parametrize("rule", SAME)
def test_an_optimizer_takes_the_very_steps_of_torchs_fused_one(rule):
    tx, make = SAME[rule]
    params, theirs = parameters(), parameters()
    train(ps.to_torch_optimizer(tx, params.items()), params)
    train(make(list(theirs.values()), fused=True), theirs)
    torch.testing.assert_close(params, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("chain", CHAINS)
def test_parameters_and_state_are_those_of_the_chain_to_rounding(chain):
    tx, params = CHAINS[chain], values(torch.float64)
    state, memory = tx.init(params), copy.deepcopy(params)
    written = tx.init(memory)
    kernel = kernel_of(tx, memory, written)
    assert kernel is not None
    factor = 1.0 if chain in SCHEDULED else 0.1
    for _ in range(4):
        assert kernel.step([value.sin() for value in memory.values()], {"lr": factor})
        updates, state = tx.update(ps.tree.map(torch.sin, params), state, params)
        params = ps.apply_updates(params, updates)
        torch.testing.assert_close(memory, params, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(written, state, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "tx",
    [
        ps.sgd(0.1, weight_decay=0.1, mask=lambda path: "w" in path),
        ps.sgd(0.1, momentum=ps.linear_schedule(0.5, 0.9, 10)),
        ps.sgd(0.1, momentum=torch.tensor(0.9)),
        ps.adam(0.1, nesterov=True),
        ps.adam(0.1, eps_root=1e-8),
        ps.amsgrad(0.1),
        ps.chain(ps.scale_by_adam(), ps.scale_by_learning_rate(0.1, flip_sign=False)),
        ps.chain(ps.sgd(0.1), ps.params_ema(0.9)),
        ps.chain(ps.add_decayed_weights(0.1), ps.adamw(0.1)),
        ps.lion(0.1),
        ps.GradientTransformation(
            lambda params: (), lambda updates, state, params=None, **_: (updates, state)
        ),
    ],
    ids=lambda tx: str(tx.recipe or "one without a recipe"),
)
def test_of_other_chains_torch_has_no_kernel(tx):
    params = values()
    assert kernel_of(tx, params, tx.init(params)) is None


def test_nothing_compiles_where_there_is_a_kernel(monkeypatch):
    def fail(*arguments: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(in_place, "compile_directly", lambda write: fail)
    params = parameters()
    train(ps.to_torch_optimizer(ps.adamw(0.1), params.items(), compile=True), params)


def transpose(params: dict[str, torch.Tensor], optimizer: Any) -> None:
    params["w"].data = params["w"].data.t().contiguous().t()


def halve(params: dict[str, torch.Tensor], optimizer: Any) -> None:
    for p in params.values():
        p.grad, p.data = None, p.data.bfloat16()


def widen(params: dict[str, torch.Tensor], optimizer: Any) -> None:
    for p in params.values():
        p.grad, p.data = None, p.data.double()


def stop(params: dict[str, torch.Tensor], optimizer: Any) -> None:
    optimizer.param_groups[0]["decay"] = 0.0


@pytest.mark.parametrize("change", [transpose, halve, widen, stop])
def test_what_the_kernel_does_not_take_the_chain_does(change):
    params, others = parameters(), parameters()
    with_kernel, without = (
        ps.to_torch_optimizer(ps.sgd(0.1, momentum=0.9), [{"params": each.items(), "decay": 0.9}])
        for each in (params, others)
    )
    without._groups[0]._kernel = None
    for each, optimizer in ((params, with_kernel), (others, without)):
        train(optimizer, each, 2)
        change(each, optimizer)
        train(optimizer, each, 2)
    torch.testing.assert_close(params, others)
    for name in params:
        memory, other = with_kernel.state[params[name]], without.state[others[name]]
        torch.testing.assert_close(dict(memory), dict(other))
