"""Chains that torch has a kernel for: its steps, and those of the chain to rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

import pure_sgd as ps
from pure_sgd.bridges import in_place, kernels
from pure_sgd.bridges.kernels import kernel_of
from pure_sgd.transforms import extra_args_of

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
CLIPPED = {
    "sgd, clipped": ps.chain(ps.clip_by_global_norm(0.5), ps.sgd(0.1, momentum=0.9)),
    "adamw, clipped": ps.chain(ps.clip_by_global_norm(0.5), ps.adamw(0.1, weight_decay=0.1)),
    "amsgrad, hardly clipped": ps.chain(
        ps.clip_by_global_norm(9.0), ps.amsgrad(0.1, max_before_correction=True)
    ),
}
CHAINS = {**{name: tx for name, (tx, _) in SAME.items()}, **SCHEDULED, **CLIPPED}


def delayed() -> ps.GradientTransformation:
    """The direction of the step before the last one, laid out the other way round."""

    def update(updates, state, params=None, *, grad, **extra):
        assert all(grad[name] is updates[name] for name in grad)
        return ps.tree.map(lambda u: u.mT.contiguous().mT if u.ndim > 1 else u, state[0]), (state[1], updates)

    return ps.GradientTransformation(
        lambda params: (ps.tree.zeros_like(params), ps.tree.zeros_like(params)), update
    )


#: Of these the end is such a rule.
LONGER: dict[str, ps.GradientTransformation] = {
    "clipped twice": ps.chain(ps.clip_by_global_norm(0.5), ps.clip(0.4), ps.adamw(0.1, weight_decay=0.1)),
    "another clip at each step": ps.chain(
        ps.clip_by_global_norm(ps.linear_schedule(0.1, 0.9, 10)), ps.adamw(0.1)
    ),
    "adam twice, scheduled": ps.chain(
        ps.scale_by_adam(), ps.trace(0.5), ps.adam(ps.linear_schedule(0.1, 0.0, 10))
    ),
    "delayed": ps.chain(delayed(), ps.adam(0.1)),
    "decay of some": ps.sgd(0.1, weight_decay=0.1, mask=lambda path: "w" in path),
    "decay twice": ps.chain(ps.add_decayed_weights(0.1), ps.adamw(0.1)),
    "another momentum at each step": ps.sgd(0.1, momentum=ps.linear_schedule(0.5, 0.9, 10)),
    "momentum in a tensor": ps.sgd(0.1, momentum=torch.tensor(0.9)),
    "adam, nesterov": ps.adam(0.1, nesterov=True),
    "adam, eps_root": ps.adam(0.1, eps_root=1e-8),
    "amsgrad of Optax": ps.amsgrad(0.1),
    "lion": ps.lion(0.1),
}


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


@pytest.mark.parametrize("chain", CHAINS | LONGER)
def test_parameters_and_state_are_those_of_the_chain_to_rounding(chain, monkeypatch):
    # What is clipped goes in parts, here of one leaf and of two.
    monkeypatch.setattr(kernels, "MANY", 8)
    tx, params = (CHAINS | LONGER)[chain], values(torch.float64)
    state, memory = tx.init(params), copy.deepcopy(params)
    written = tx.init(memory)
    kernel = kernel_of(tx, memory, written)
    assert kernel is not None
    factor = 1.0 if "scheduled" in chain else 0.1
    for _ in range(4):
        assert kernel.step([value.sin() for value in memory.values()], {"lr": factor})
        grads = ps.tree.map(torch.sin, params)
        updates, state = tx.update(grads, state, params, **dict.fromkeys(extra_args_of(tx), grads))
        params = ps.apply_updates(params, updates)
        torch.testing.assert_close(memory, params, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(written, state, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "tx",
    [
        ps.chain(ps.scale_by_adam(), ps.scale_by_learning_rate(0.1, flip_sign=False)),
        ps.chain(ps.sgd(0.1), ps.params_ema(0.9)),
        ps.chain(ps.sgd(0.1), ps.scale(2.0)),
        ps.GradientTransformation(
            lambda params: (), lambda updates, state, params=None, **_: (updates, state)
        ),
    ],
    ids=lambda tx: str(tx.recipe or "one without a recipe"),
)
def test_of_other_chains_torch_has_no_kernel(tx):
    params = values()
    assert kernel_of(tx, params, tx.init(params)) is None


def test_of_parameters_of_several_dtypes_torch_has_no_kernel():
    tx, params = ps.adam(0.1), values() | {"double": torch.zeros(2, dtype=torch.float64)}
    assert kernel_of(tx, params, tx.init(params)) is None


@pytest.mark.parametrize("chain", CHAINS | LONGER)
def test_what_is_more_than_a_rule_of_torch_compiles_as_a_whole(chain, monkeypatch):
    compiled: list[Any] = []

    def note(write: Any) -> Any:
        compiled.append(lambda *given: compiled.append(given) or write(*given))
        return compiled[0]

    monkeypatch.setattr(in_place, "compile_directly", note)
    params = parameters()
    train(ps.to_torch_optimizer((CHAINS | LONGER)[chain], params.items(), compile=True), params, 2)
    assert len(compiled) == (3 if chain in LONGER else 1)


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


def decayed(weight_decay: float) -> ps.GradientTransformation:
    return ps.chain(ps.add_decayed_weights(weight_decay), ps.adamw(0.1, weight_decay=weight_decay))


def clipped(max_norm: float) -> ps.GradientTransformation:
    return ps.chain(ps.clip_by_global_norm(max_norm), ps.sgd(0.1))


@pytest.mark.parametrize("make, name", [(decayed, "weight_decay"), (clipped, "max_norm")])
def test_a_number_that_a_group_sets_holds_before_the_rule_too(make, name):
    params, others = parameters(), parameters()
    train(ps.to_torch_optimizer(make(0.1), [{"params": params.items(), name: 0.3}]), params)
    train(ps.to_torch_optimizer(make(0.3), others.items()), others)
    torch.testing.assert_close(params, others)


def test_what_clips_leaves_the_gradients_as_they_are():
    params = parameters()
    optimizer = ps.to_torch_optimizer(clipped(0.1), params.items())
    train(optimizer, params, 1)
    for p, before in zip(params.values(), values().values(), strict=True):
        torch.testing.assert_close(p.grad, before.sin(), rtol=0, atol=0)


@pytest.mark.parametrize("chain", CHAINS | LONGER)
def test_a_copy_beside_that_of_its_parameters_takes_the_same_steps(chain):
    params = parameters()
    optimizer = ps.to_torch_optimizer((CHAINS | LONGER)[chain], params.items())
    train(optimizer, params, 2)
    others, copied = copy.deepcopy((params, optimizer))
    train(optimizer, params, 2)
    train(copied, others, 2)
    torch.testing.assert_close(params, others, rtol=0, atol=0)
